"""An evaluation whose actor, then whose driver is killed midway: the rerun does what is missing, to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from failure_cases import children_of, kill_tree, wait_for

from jr_dist.evaluate.protocol import BLOCKS

PROTOCOLS = "full,partial-50,view-50,noise-1,yaw"
TABLES = ("tables.json", "tables.md", "tables.csv")


def command(run: Path, out: Path) -> list[str]:
    words = ["evaluate", run, "--out", out, "--protocols", PROTOCOLS, "--num-workers", "2", "--num-points", "128"]
    return [sys.executable, "-m", "jr_dist", *map(str, words)]


def finished(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / BLOCKS).glob("*.safetensors")}


@pytest.mark.slow
def test_the_rerun_does_what_is_missing_and_the_tables_are_the_same_to_the_bit(tiny_run, tmp_path):
    struck, undisturbed = tmp_path / "struck", tmp_path / "undisturbed"
    marked = {**os.environ, "JR_STRUCK": str(struck)}
    driver = subprocess.Popen(
        command(tiny_run, struck), env=marked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(driver, lambda: len(finished(struck)), 1)
        actors = [pid for pid in family(driver.pid) if b"ray::BlockActor" in command_line(pid)]
        os.kill(actors[0], signal.SIGKILL)
        wait_for(driver, lambda: len(finished(struck)), 3)
        assert driver.poll() is None
    finally:
        kill_tree(str(struck))
        driver.wait()
    before = finished(struck)
    assert 3 <= len(before) < 10 and not (struck / "tables.json").exists()

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for out in (struck, undisturbed):
        subprocess.run(command(tiny_run, out), check=True, capture_output=True, env=environment)
    after = finished(struck)
    assert {name: after[name] for name in before} == before, "what was finished is not done again"
    assert len(after) == 10  # two entrants, five protocols, one block of targets
    for name in TABLES:
        assert (struck / name).read_bytes() == (undisturbed / name).read_bytes()


def family(pid: int) -> list[int]:
    """All descendants of a process."""
    found = children_of(pid)
    return found + [grandchild for child in found for grandchild in family(child)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
