"""Jobs in this process: what is kept, what is skipped, what is made anew."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jr_dist import atomic
from jr_dist.blocks import Job, read_result, run_jobs
from jr_dist.errors import InputError

JOBS = [Job(f"block-{i}", {"rows": [3 * i, 3 * i + 3], "model": "abc", "sigma": 0.1}, weight=i + 1) for i in range(4)]


VALUES = np.random.default_rng(0).normal(size=(12, 5))
NAMES = [job.name for job in JOBS]


def result_of(task, values) -> dict[str, np.ndarray]:
    own = values[slice(*task["rows"])]
    return {"sum": own.sum(0), "sorted": np.argsort(own[:, 0])[::-1], "none": np.empty((0, 2)), "any": own > 0}


class Sums:
    """Work that counts itself."""

    def __init__(self) -> None:
        self.made, self.tasks, self.advanced = 0, [], []

    def make_work(self, values):
        self.made += 1

        def work(task):
            self.tasks.append(task)
            return result_of(task, values)

        return work

    def run(self, folder, jobs=JOBS):
        """Names of the jobs that were computed this time."""
        self.tasks, self.advanced = [], []
        run_jobs(self.make_work, (VALUES,), jobs, folder, advance=self.advanced.append)
        return [job.name for job in jobs if any(job.task is task for task in self.tasks)]


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_results_are_kept_and_skipped_next_time(tmp_path):
    sums = Sums()
    assert sums.run(tmp_path / "new" / "folder") == NAMES
    assert sums.advanced == [1, 2, 3, 4] and sums.made == 1
    folder = tmp_path / "new" / "folder"
    written = bytes_in(folder)
    assert written.keys() == {f"{name}.safetensors" for name in NAMES}
    for job in JOBS:
        found = read_result(folder, job)
        expected = result_of(job.task, VALUES)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].dtype == values.dtype and np.array_equal(found[name], values)
    assert sums.run(folder) == [] and sums.made == 1, "no work is made where nothing is missing"
    assert sums.advanced == [10] and bytes_in(folder) == written


def test_what_is_missing_is_made_and_what_was_there_is_advanced_at_once(tmp_path):
    sums = Sums()
    sums.run(tmp_path)
    written = bytes_in(tmp_path)
    (tmp_path / "block-1.safetensors").unlink()
    assert sums.run(tmp_path) == ["block-1"]
    assert sums.advanced == [8, 2] and bytes_in(tmp_path) == written


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("{}"),
    "another safetensors file": lambda path: save_file({"sum": np.zeros(5)}, path, {"block": "[]"}),
    "another block": lambda path: path.write_bytes(path.with_name("block-0.safetensors").read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_or_foreign_is_made_anew(tmp_path, damage):
    sums = Sums()
    sums.run(tmp_path)
    written = bytes_in(tmp_path)
    DAMAGES[damage](tmp_path / "block-2.safetensors")
    with pytest.raises(
        InputError, match=r"block .*block-2\.safetensors can't be used \(.+\); allowed is .*run it again"
    ):
        read_result(tmp_path, JOBS[2])
    assert sums.run(tmp_path) == ["block-2"]
    assert bytes_in(tmp_path) == written


def test_no_bit_may_differ(tmp_path):
    sums = Sums()
    sums.run(tmp_path)
    path = tmp_path / "block-2.safetensors"
    written = path.read_bytes()
    for bit in np.random.default_rng(1).permutation(8 * len(written))[:100]:
        content = bytearray(written)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(InputError):
            read_result(tmp_path, JOBS[2])


@pytest.mark.parametrize("task", [{"rows": [6, 9], "model": "abd", "sigma": 0.1}, {"rows": [6, 9], "model": "abc"}])
def test_a_result_of_another_task_is_not_used(tmp_path, task):
    sums = Sums()
    sums.run(tmp_path)
    jobs = [*JOBS[:2], Job("block-2", task, weight=3), JOBS[3]]
    with pytest.raises(InputError, match="of another task"):
        read_result(tmp_path, jobs[2])
    assert sums.run(tmp_path, jobs) == ["block-2"]
    assert sums.run(tmp_path, jobs) == []
    assert sums.run(tmp_path) == ["block-2"], "and back"


def test_a_missing_result_is_named(tmp_path):
    with pytest.raises(InputError, match=r"block-0\.safetensors can't be used \(No such file or directory\)"):
        read_result(tmp_path, JOBS[0])


@pytest.mark.parametrize("error", [InputError("target 7 has no points; remove it"), FloatingPointError("not finite")])
def test_errors_come_as_they_are_and_what_was_finished_stays(tmp_path, error):
    tried = []

    def make_work():
        def work(task):
            tried.append(task)
            if task is JOBS[2].task:
                raise error
            return {"values": np.zeros(1)}

        return work

    with pytest.raises(type(error)) as caught:
        run_jobs(make_work, (), JOBS, tmp_path, advance=lambda weight: None)
    assert caught.value is error and len(tried) == 3
    assert sorted(bytes_in(tmp_path)) == ["block-0.safetensors", "block-1.safetensors"]


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    sums = Sums()
    sync, calls = os.fsync, []

    def until_full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", until_full)
    message = r"has no room for block block-2 \(No space left on device\); the 2 of 4 blocks .* kept; make room and run"
    with pytest.raises(InputError, match=message) as caught:
        sums.run(tmp_path)
    assert "\n" not in str(caught.value) and sums.advanced == [1, 2]
    assert sorted(bytes_in(tmp_path)) == ["block-0.safetensors", "block-1.safetensors"]
    assert sums.run(tmp_path) == ["block-2", "block-3"]


def test_without_workers_ray_is_not_imported(tmp_path):
    script = (
        "import sys, numpy\nfrom pathlib import Path\nfrom jr_dist.blocks import Job, run_jobs\n"
        "run_jobs(lambda: lambda task: {'x': numpy.ones(1)}, (), [Job('a', {}, 1)], Path(sys.argv[1]),"
        " advance=print)\nassert 'ray' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
