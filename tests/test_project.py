"""The project itself: who may import what, pins, jobs, the cluster file, lint, and that the README tells the truth."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jr_dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted(PACKAGE.rglob("*.py"))
JOBS = sorted((ROOT / "jobs").glob("*.py"))

# Each room imports only from rooms before it; these few may be imported anywhere.
ROOMS = ("config", "geometry", "models", "data", "bank", "train", "evaluate", "serve")
EVERYWHERE = {
    "errors",
    "atomic",
    "locations",
    "log",
    "progress",
    "stop",
    "array_files",
    "blocks",
    "placement",
    "estimates",
    "plan",
    "storage",
}
RAY_FILES = {
    "cluster.py",
    "cluster_knock.py",
    "cluster_package.py",
    "cluster_room.py",
    "bank/actors.py",
    "bank/telemetry.py",
    "block_actors.py",
    "data/ingest_job.py",
    "data/ray_stream.py",
    "data/render_job.py",
    "progress_metrics.py",
    "train/stop_signal.py",
    "train/left_behind.py",
    "train/sweep.py",
    "train/validations.py",
    "train/telemetry.py",
    "train/trainer.py",
}
# geometry/, models/ and train/losses.py can be read, tested and run on a bare GPU machine.
BARE = {"torch", "numpy", "numba", "llvmlite", "jaxtyping"}
# torch brings Triton on Linux alone: files that import it are imported by functions, on a GPU.
TRITON_FILES = {
    "geometry/bound_kernels.py",
    "geometry/chamfer_kernels.py",
    "geometry/matched_kernels.py",
    "models/step_kernels.py",
}
# The distribution, where its name is not that of the module.
DISTRIBUTION = {
    "yaml": "pyyaml",
    "PIL": "pillow",
    "pydantic_core": "pydantic",
    "grpc": "grpcio",
    "llvmlite": "numba",
    "triton": "torch",
    "markupsafe": "jinja2",
}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted module, whether at the top of the file) of each import."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in top


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_keep_to_their_rooms(path):
    room = path.relative_to(PACKAGE).parts[0]
    bare = room in ("geometry", "models") or name(path) == "train/losses.py"
    for module, _ in imports(path):
        first, _, rest = module.partition(".")
        if first == "ray":
            assert name(path) in RAY_FILES, f"{module}: Ray stays in {sorted(RAY_FILES)}"
        if first == "triton":
            assert name(path) in TRITON_FILES, f"{module}: Triton stays in {sorted(TRITON_FILES)}"
        elif bare and first not in sys.stdlib_module_names and first != "jr_dist":
            assert first in BARE | {"torchvision"}, f"{module}: only {sorted(BARE)} here"
        if first == "jr_dist" and rest and room in ROOMS:
            other = rest.split(".")[0]
            if bare:
                assert other != "config", "geometry and models take plain arguments"
            allowed = {*ROOMS[: ROOMS.index(room) + 1], *EVERYWHERE, "cluster", "cluster_room", "config_file"}
            assert other in allowed, f"{module}: {room} is above {other}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module opens with what it is for"
    assert text.count("\n") <= 400
    if path.name == "__init__.py":
        values = [node.value for node in tree.body if isinstance(node, ast.Assign)]
        heavy = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not heavy and len(values) <= 1, "an __init__ holds a docstring (and the version)"


def test_what_is_allowed_is_there():
    files = {*RAY_FILES, *TRITON_FILES, *(f"{module}.py" for module in EVERYWHERE), "config.py"}
    folders = set(ROOMS) - {"config"}
    assert not [file for file in sorted(files) if not (PACKAGE / file).is_file()]
    assert not [folder for folder in sorted(folders) if not (PACKAGE / folder).is_dir()]


def test_every_import_is_declared():
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    optional = declared | {canonicalize_name(Requirement(line).name) for line in extras}
    for path in MODULES:
        for module, at_top in imports(path):
            first = module.partition(".")[0]
            if first in sys.stdlib_module_names or first == "jr_dist":
                continue
            # What an extra brings is imported where it is used: all else works without it.
            allowed = declared if at_top else optional
            assert canonicalize_name(DISTRIBUTION.get(first, first)) in allowed, f"{name(path)} imports {module}"


def test_pins_are_exact_complete_and_within_what_is_allowed():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") for pin in pins.values())
    extras = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    pending, seen = [Requirement(line) for line in (*PROJECT["dependencies"], *extras)], set()
    while pending:
        requirement = pending.pop()
        distribution = canonicalize_name(requirement.name)
        pin = pins[distribution]
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), (requirement, pin)
        for extra in {"", *requirement.extras}:
            if (distribution, extra) in seen:
                continue
            seen.add((distribution, extra))
            try:
                needed = importlib.metadata.requires(distribution) or []
            except importlib.metadata.PackageNotFoundError:
                continue  # an extra that is not installed here
            found = map(Requirement, needed)
            pending += [entry for entry in found if not entry.marker or entry.marker.evaluate({"extra": extra})]
    assert {distribution for distribution, _ in seen} | {"setuptools"} == set(pins), "no pin without a use"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_is_thin_and_opens_with_its_commands(path):
    text = path.read_text()
    commands = [
        line.strip() for line in (ast.get_docstring(ast.parse(text)) or "").splitlines() if "python jobs/" in line
    ]
    assert len(commands) >= 3
    assert any(line.startswith("ray job submit") for line in commands)
    assert any(line.endswith("--dry-run") for line in commands)
    assert all(f"python jobs/{path.name}" in line for line in commands)
    assert text.count("\n") <= 60


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_takes_what_its_verb_takes(path):
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: jr-dist {path.stem} ")


def test_every_verb_has_a_job():
    from jr_dist.verbs.registry import VERBS

    assert {path.stem for path in JOBS} >= set(VERBS)


def test_the_readme_names_what_exists():
    from jr_dist.verbs.registry import VERBS

    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", readme + (ROOT / "CONTRIBUTING.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    tree = readme.split("## Where things are")[1].split("```")[1]
    folder = ROOT
    for line in tree.strip().splitlines():
        # Entries stand before two blanks; those of the package are indented.
        folder = PACKAGE if line.startswith("  ") else ROOT
        for entry in re.split(r"\s{2,}", line.strip())[0].split(", "):
            assert (folder / entry).exists(), entry
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} <= set(
        re.findall(r"^  (\w+)/", tree, re.MULTILINE)
    )
    assert set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) == set(VERBS)
    for link in re.findall(r"\]\(([^)#]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_ci_runs_the_readme_s_test_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("make --no-print-directory test")
    assert "\nmake test " in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_pyright_has_nothing_to_say():
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable], capture_output=True, text=True, cwd=ROOT
    )
    if "error" in done.stderr and not done.stdout.strip():
        pytest.skip(f"pyright can't start: {done.stderr.splitlines()[-1]}")  # it fetches node when first used
    assert done.returncode == 0, done.stdout


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """tools/environment.py, its installation replaced by a line in a log."""
    spec = importlib.util.spec_from_file_location("environment", ROOT / "tools" / "environment.py")
    assert spec and spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.log = []

    def install(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / module.BUILDING).touch()
        module.log.append(sorted(path.name for path in folder.iterdir()))
        if module.interrupted:
            raise KeyboardInterrupt
        (folder / "installed").touch()
        (folder / module.BUILDING).unlink()

    module.interrupted = False
    monkeypatch.setattr(module, "_install", install)
    return module


def test_an_environment_is_made_once_and_again_when_its_pins_change(environment, tmp_path, monkeypatch):
    for _ in range(2):
        environment.prepare(tmp_path / "env")
    assert len(environment.log) == 1
    before = environment.key()
    monkeypatch.setattr(environment, "requirements", lambda: ["numpy==1.0"])
    assert environment.key() != before
    environment.prepare(tmp_path / "env")
    assert len(environment.log) == 2


def test_a_half_built_environment_is_thrown_away_and_made_again(environment, tmp_path):
    environment.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        environment.prepare(tmp_path / "env")
    (tmp_path / "env" / "half a package").touch()
    environment.interrupted = False
    environment.prepare(tmp_path / "env")
    assert environment.log[-1] == [environment.BUILDING], "what was half there is gone"
    assert (tmp_path / "env" / environment.COMPLETE).read_text() == environment.key()


def test_somebody_else_s_environment_is_added_to_and_never_deleted(environment, tmp_path):
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "theirs").touch()
    environment.prepare(tmp_path / "env")
    assert (tmp_path / "env" / "theirs").exists()


def test_the_shared_environment_lies_outside_the_clone_and_is_named_by_its_key(environment, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert environment.shared() == tmp_path / "jr-dist" / f"env-{environment.key()}"
