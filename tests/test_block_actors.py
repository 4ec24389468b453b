"""Jobs on actors: the same bits as in this process, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from test_blocks import bytes_in

from jr_dist.blocks import Job, read_result, run_jobs
from jr_dist.config import ClusterConfig
from jr_dist.data.dataset import open_dataset
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.train.trained import load_run

JOBS = [Job(f"block-{i}", {"number": i}, weight=i + 1) for i in range(6)]
NAMES = [job.name for job in JOBS]


def marking_work(marks: Path, deadly: tuple[int, ...] = (), wait_for: str | None = None):
    """Makes work that leaves a mark for each call, and kills itself over the `deadly` tasks.

    A function within a function travels to the actors whole: they need not find this file.
    """

    def make_work(values, weight):
        import os
        import signal
        import time
        import uuid

        import torch

        from jr_dist.errors import InputError

        (marks / f"made {uuid.uuid4()}").touch()

        def work(task):
            number = task["number"]
            (marks / f"block-{number} {uuid.uuid4()}").write_text(str(os.getpid()))
            if number in deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == 99:
                raise InputError(f"target {number} has no points; remove it")
            if number == 98:
                raise FloatingPointError("the loss is not finite")
            while wait_for and number == 3 and not (marks / wait_for).exists():
                time.sleep(0.02)
            product = torch.tensor(values) @ weight.T * (number + 1)
            return {
                "product": product.numpy(),
                "softmax": torch.softmax(product, 1).numpy(),
                "threads": np.array(torch.get_num_threads()),
            }

        return work

    return make_work


def calls(marks: Path) -> Counter[str]:
    """How often each block was begun, and work was made."""
    return Counter(path.name.split()[0] for path in marks.iterdir() if " " in path.name)


def assert_all_processors_are_free() -> None:
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, "an actor was left behind"
        time.sleep(0.1)


ARGUMENTS = (
    np.random.default_rng(0).normal(size=(40, 300)).astype(np.float32),
    torch.rand((70, 300), generator=torch.Generator().manual_seed(0)),
)


@pytest.fixture
def marks(tmp_path):
    path = tmp_path / "marks"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of this process."""
    marks = tmp_path_factory.mktemp("marks")
    folder = tmp_path_factory.mktemp("blocks")
    run_jobs(marking_work(marks), ARGUMENTS, JOBS, folder, advance=lambda weight: None)
    assert read_result(folder, JOBS[0])["threads"] == 1
    return bytes_in(folder)


@pytest.mark.parametrize("num_workers", [1, 50])
def test_any_number_of_actors_leaves_the_same_bits(ray_cluster, tmp_path, marks, expected, num_workers):
    advanced = []
    run_jobs(
        marking_work(marks), ARGUMENTS, JOBS, tmp_path / "blocks", advance=advanced.append, num_workers=num_workers
    )
    assert bytes_in(tmp_path / "blocks") == expected
    assert sorted(advanced) == [1, 2, 3, 4, 5, 6]
    done = calls(marks)
    assert 1 <= done.pop("made") <= min(num_workers, 4), "as many as there are processors, at most"
    assert done == Counter(NAMES)
    assert_all_processors_are_free()


def test_a_killed_actor_is_replaced_and_its_job_repeated(ray_cluster, tmp_path, marks, expected):
    def advance(weight):
        advanced.append(weight)
        if len(advanced) == 4:  # one of the two waits in block 3, or is about to
            while not (begun := list(marks.glob("block-3 *"))) or not begun[0].read_text():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.kill(int(begun[0].read_text()), signal.SIGKILL)
            (marks / "killed").touch()

    advanced, deadline = [], time.monotonic() + 60
    work = marking_work(marks, wait_for="killed")
    run_jobs(work, ARGUMENTS, JOBS, tmp_path / "blocks", advance=advance, num_workers=2)
    assert bytes_in(tmp_path / "blocks") == expected
    assert sorted(advanced) == [1, 2, 3, 4, 5, 6]
    assert calls(marks) == Counter([*NAMES, "block-3", "made", "made", "made"])


@pytest.mark.slow
def test_a_job_that_always_ends_its_process_is_named(ray_cluster, tmp_path, marks, expected):
    work = marking_work(marks, deadly=(4,))
    with pytest.raises(RuntimeError, match=r"^block block-4 ended its process 3 times, .* are kept") as caught:
        run_jobs(work, ARGUMENTS, JOBS, tmp_path / "blocks", advance=lambda weight: None, num_workers=1)
    assert "\n" not in str(caught.value)
    assert calls(marks) == Counter([*NAMES[:4], *["block-4"] * 3, *["made"] * 3])
    run_jobs(marking_work(marks), ARGUMENTS, JOBS, tmp_path / "blocks", advance=lambda weight: None)
    assert bytes_in(tmp_path / "blocks") == expected
    assert calls(marks)["block-0"] == 1 and calls(marks)["block-4"] == 4


@pytest.mark.parametrize(("number", "error"), [(99, InputError), (98, FloatingPointError)])
def test_our_errors_come_back_as_they_are_at_the_first_attempt(ray_cluster, tmp_path, marks, number, error):
    jobs = [*JOBS[:2], Job("wrong", {"number": number}, weight=1)]
    with pytest.raises(error) as caught:
        run_jobs(marking_work(marks), ARGUMENTS, jobs, tmp_path, advance=lambda weight: None, num_workers=1)
    assert type(caught.value) is error, "not one of Ray's"
    assert str(caught.value) in ("target 99 has no points; remove it", "the loss is not finite")
    assert calls(marks)[f"block-{number}"] == 1
    assert read_result(tmp_path, jobs[1])


def test_an_error_in_making_the_work_comes_back_as_it_is(ray_cluster, tmp_path):
    def make_work():
        from jr_dist.errors import InputError

        raise InputError("run x holds no checkpoint; train it")

    with pytest.raises(InputError) as caught:
        run_jobs(make_work, (), JOBS, tmp_path, advance=lambda weight: None, num_workers=2)
    assert type(caught.value) is InputError and str(caught.value) == "run x holds no checkpoint; train it"
    assert_all_processors_are_free()  # while the error is held, with the frames that it went through


@pytest.mark.parametrize(
    ("num_gpus", "message"), [(1.5, "num_gpus is 1.5; allowed is"), (512, "ask for 512 GPUs: 1 actor of 1 CPU")]
)
def test_gpus_that_no_machine_has_are_refused(ray_cluster, tmp_path, num_gpus, message):
    with pytest.raises(InputError, match=message):
        run_jobs(marking_work(tmp_path), ARGUMENTS, JOBS, tmp_path, advance=print, num_workers=1, num_gpus=num_gpus)


def test_a_model_and_its_database_are_shared_by_all_actors(ray_cluster, tmp_path, tiny_run, tiny_dataset):
    def make_work(model, store, points):
        def work(task):
            import torch

            rows = torch.tensor(task["rows"])
            centre, half_extent = model.deform(points, rows, store)
            geometry = store.geometry(rows.reshape(-1))
            return {
                "distances": model.retrieval_distances(points).numpy(),
                "centre": centre.numpy(),
                "half_extent": half_extent.numpy(),
                "projection": geometry.projection.numpy(),
                "canonical": geometry.canonical.numpy(),
                "writable": np.array(store.points.flags.writeable),
            }

        return work

    store = SourceStore.open(open_dataset(tiny_dataset))
    points = torch.randn((4, 256, 3), generator=torch.Generator().manual_seed(0))
    arguments = (load_run(tiny_run), store, points)
    job = Job("block", {"rows": [[0, 5], [11, 5], [3, 3], [7, 1]]}, weight=1)
    for folder, num_workers in ((tmp_path / "here", 0), (tmp_path / "there", 1)):
        run_jobs(make_work, arguments, [job], folder, advance=lambda weight: None, num_workers=num_workers)
    here, there = read_result(tmp_path / "here", job), read_result(tmp_path / "there", job)
    assert here.pop("writable") and not there.pop("writable"), "there it lies in shared memory"
    assert [name for name in here | there if not np.array_equal(here[name], there[name])] == []


@pytest.mark.slow
def test_a_killed_driver_leaves_what_was_finished(tmp_path, marks, expected):
    """The driver has a cluster of its own, and dies where it would wait for ever in block 3 of 6."""
    folder = tmp_path / "blocks"
    driver = subprocess.Popen([sys.executable, __file__, folder, marks], cwd=Path(__file__).parent)
    try:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("*.safetensors"))) < 5 or not list(marks.glob("block-3 *")):
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        driver.kill()
    finally:
        driver.kill()
        driver.wait()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    advanced = []
    run_jobs(marking_work(marks), ARGUMENTS, JOBS, folder, advance=advanced.append)
    assert advanced == [17, 4], "block 3 alone was missing"
    assert calls(marks)["block-3"] == 2 and calls(marks)["block-5"] == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == expected


if __name__ == "__main__":
    run_jobs(
        marking_work(Path(sys.argv[2]), wait_for="never"),
        ARGUMENTS,
        JOBS,
        Path(sys.argv[1]),
        advance=lambda weight: None,
        num_workers=2,
        cluster=ClusterConfig(num_cpus=2, object_store_mb=100),
    )
