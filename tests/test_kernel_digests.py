"""Machine code that numba keeps on disk is keyed to every file it may contain."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOL = "tools/kernel_digests.py"
SIMD, LEAVES, NEAREST = (f"jr_dist/geometry/{name}.py" for name in ("simd", "leaves", "nearest"))
MATCHED, SCAN = "jr_dist/geometry/matched_sums.py", "jr_dist/bank/scan_kernels.py"


def _run(root, *arguments):
    return subprocess.run([sys.executable, root / TOOL, *arguments], capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "jr_dist", tmp_path / "jr_dist", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / TOOL, tmp_path / TOOL)
    return tmp_path


def test_digests_are_those_of_the_files():
    done = _run(ROOT, "--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changed", "reached", "left"),
    [(SIMD, [LEAVES, NEAREST, MATCHED, SCAN], []), (LEAVES, [NEAREST, MATCHED], [LEAVES, SCAN])],
)
def test_a_change_reaches_all_who_call_it(copy, changed, reached, left):
    with (copy / changed).open("a") as file:
        file.write("# changed\n")
    before = {path: (copy / path).read_text() for path in reached + left}
    done = _run(copy, "--check")
    assert done.returncode == 1
    named = {line.partition(":")[0] for line in done.stdout.splitlines()}
    assert named >= set(reached) and not named & set(left)
    assert before == {path: (copy / path).read_text() for path in reached + left}, "looking changes nothing"
    assert _run(copy).returncode == 0
    assert all(before[path] != (copy / path).read_text() for path in reached)
    assert _run(copy, "--check").returncode == 0, "written once, in whatever order, they hold"


def test_loops_without_a_digest_are_named(copy):
    path = copy / "jr_dist" / "geometry" / "part_kernels.py"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("HELPERS")))
    done = _run(copy)
    assert done.returncode == 2 and "part_kernels.py has loops kept on disk" in done.stderr
