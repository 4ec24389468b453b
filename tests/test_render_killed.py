"""A rendering struck by SIGKILL, of an actor and then of everything: the rerun does what is missing, to the bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from failure_cases import kill_tree, wait_for
from test_evaluation_killed import command_line, family


def command(dataset: Path, num_workers: int) -> list[str]:
    words = ["render", dataset, "--size", "128", "--num-views", "24", "--split", "sources,train,val"]
    return [sys.executable, "-m", "jr_dist", *map(str, words), "--num-workers", str(num_workers)]


def finished(dataset: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (dataset / "images").rglob("*.parquet")}


@pytest.mark.slow
def test_what_was_finished_stays_and_the_rest_is_the_same(tiny_dataset, tmp_path):
    struck = Path(shutil.copytree(tiny_dataset, tmp_path / "struck"))
    undisturbed = Path(shutil.copytree(tiny_dataset, tmp_path / "undisturbed"))
    marked = {**os.environ, "JR_STRUCK": str(struck)}
    driver = subprocess.Popen(command(struck, 2), env=marked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(driver, lambda: len(finished(struck)), 1)
        actors = [pid for pid in family(driver.pid) if b"MapWorker" in command_line(pid)]
        os.kill(actors[0], signal.SIGKILL)
        wait_for(driver, lambda: len(finished(struck)), 6)
        assert driver.poll() is None
    finally:
        kill_tree(str(struck))
        driver.wait()
    before = finished(struck)
    assert 6 <= len(before) < 27 and not (struck / "images" / "manifest.json").exists()
    for dataset in (struck, undisturbed):
        subprocess.run(command(dataset, 0), check=True, capture_output=True)
    after = finished(struck)
    assert {name: after[name] for name in before} == before, "what was finished is not done again"
    files = sorted(x.relative_to(undisturbed) for x in (undisturbed / "images").rglob("*") if x.is_file())
    assert len(files) == 27 + 2
    assert [x for x in files if (struck / x).read_bytes() != (undisturbed / x).read_bytes()] == []
