"""Training while processes are killed and disks are full: it ends with the bits of a run that nothing happened to.

Where it can't go on, it ends with one line that says why.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import ray
from failure_cases import (
    STEPS_PER_EPOCH,
    Kill,
    assert_equal_runs,
    away_from_ray,
    kill_tree,
    on_shards,
    reasons_of,
    seeded_kills,
    struck_by,
)
from test_train import arrays_of, settings

from jr_dist.bank.actors import running_shards
from jr_dist.bank.desk import Request, StaleIncarnationError
from jr_dist.bank.layout import BankLayout
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.bank.shard import Update
from jr_dist.errors import InputError
from jr_dist.train import recovery
from jr_dist.train.run_directory import BEST, LAST
from jr_dist.train.trainer import train

ROOT = Path(__file__).parent.parent
#: the number of a scenario, which is its seed -> how many failures strike it, one after another
SCENARIOS = dict.fromkeys(range(8), 1) | {8: 2, 9: 2, 10: 3}
CONFIGURATIONS = ((2, 0), (3, 1))  # shards, lookahead


def described(scenario: int) -> str:
    num_shards, lookahead = CONFIGURATIONS[scenario % 2]
    struck = ", ".join(map(str, seeded_kills(scenario, num_shards, SCENARIOS[scenario])))
    return f"{scenario}: {num_shards} shards, lookahead {lookahead}, {struck}"


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, tiny_dataset, tmp_path_factory):
    """The run of each configuration that nothing happens to."""
    runs = []
    for num_shards, lookahead in CONFIGURATIONS:
        runs.append(tmp_path_factory.mktemp("undisturbed") / "run")
        with struck_by([]):
            train(on_shards(tiny_dataset, runs[-1], num_shards, lookahead))
    return runs


def steps_gone_on_from(reasons: list[str]) -> list[int]:
    found = [re.search(r"goes on from step (\d+)", reason) for reason in reasons[1:]]
    assert all(found), reasons
    return [int(match[1]) for match in found if match]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=described)
def test_a_killed_process_leaves_no_trace_in_the_codes(undisturbed, tiny_dataset, tmp_path, scenario, capfd):
    num_shards, lookahead = CONFIGURATIONS[scenario % 2]
    kills = seeded_kills(scenario, num_shards, SCENARIOS[scenario])
    run = tmp_path / "run"
    with struck_by(kills):
        train(on_shards(tiny_dataset, run, num_shards, lookahead))
    assert_equal_runs(run, undisturbed[scenario % 2])
    reasons = reasons_of(run)
    assert len(reasons) == len(kills) + 1
    for kill, reason, step in zip(kills, reasons[1:], steps_gone_on_from(reasons), strict=True):
        before = kill.step // STEPS_PER_EPOCH * STEPS_PER_EPOCH
        # A shard that dies when it has written its blocks is not missed before the checkpoint is in place.
        assert step == before or (step == before + STEPS_PER_EPOCH and kill.phase in ("written", "renamed")), kill
        assert reason.startswith(f"start {kill.start} failed; goes on from step {step}")
        dead = f"{kill.victim} of {num_shards} (ShardActor" if kill.victim.startswith("shard") else "(RayTrainWorker"
        assert dead in reason, kill
    said = capfd.readouterr().out.splitlines()
    assert [line for line in said if "failed" in line] == [f"Ours: {reason}" for reason in reasons[1:]]


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_is_waited_for(undisturbed, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "_FIRST_WAIT", 0.5)
    run = tmp_path / "run"
    with struck_by([Kill(1, "disk of shard 1", "writing", 5, 0)]):
        train(on_shards(tiny_dataset, run, *CONFIGURATIONS[0]))
    assert_equal_runs(run, undisturbed[0])
    assert re.search(r"goes on from step 3, in 0\.5 s, after OSError: \[Errno 28\] No space left", reasons_of(run)[1])


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_run_in_one_line_and_leaves_the_last_checkpoint(
    ray_cluster, tiny_dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(recovery, "_FIRST_WAIT", 0.5)
    monkeypatch.setattr(recovery, "MOST_WITHOUT_PROGRESS", 2)
    run = tmp_path / "run"
    full = [Kill(start, "disk of shard 1", "writing", 5, 0) for start in (1, 2)]
    message = (
        rf"run\.path {run} has no room for a checkpoint \(No space left on device\); the checkpoint of step 3 is whole"
    )
    with struck_by(full), pytest.raises(InputError, match=message) as refusal:
        train(on_shards(tiny_dataset, run, *CONFIGURATIONS[0]))
    assert "\n" not in str(refusal.value) and len(reasons_of(run)) == 2
    assert arrays_of(run)  # reads and checks every file
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [BEST, LAST, "step-00000003-start-1"]


def test_a_real_disk_that_is_full_ends_the_run_in_one_line_and_loses_nothing(tiny_dataset, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("a small file system can't be mounted here; the patched writes above stand for it")
    try:
        run, ballast = disk / "run", disk / "ballast"
        common = {"train__schedule": "constant", "train__validate_every": 1}
        train(settings(tiny_dataset, run, train__epochs=2, **common))
        before = arrays_of(run)
        checkpoint = (run / "checkpoints" / LAST).resolve()
        size = sum(path.stat().st_size for path in checkpoint.iterdir())
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast.write_bytes(bytes(free - size // 2))
        with pytest.raises(InputError, match=r"has no room for a checkpoint \(No space left on device\).*of step 6 is"):
            train(settings(tiny_dataset, run, **common))
        assert {path.name for path in (run / "checkpoints").iterdir()} >= {LAST, BEST, checkpoint.name}
        assert not [path for path in (run / "checkpoints").iterdir() if "partial" in path.name]
        after = arrays_of(run)
        assert all(np.array_equal(before[name], after[name]) for name in before)
        ballast.unlink()
        train(settings(tiny_dataset, run, **common))
        straight = settings(tiny_dataset, tmp_path / "straight", **common)
        train(straight)
        assert_equal_runs(run, tmp_path / "straight")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_push_from_before_a_failure_is_refused_by_the_shards_that_took_over(ray_cluster):
    layout = BankLayout((2, 1, 3), 3, 2, 4, learned_embedding=True, block_size=2, seed=1)
    rows, gradient = np.array([0, 1]), {"global_code": np.ones((2, 3), np.float32)}
    everything = {"num_ranks": 1, "num_threads": 1, "incarnation": 2, "run": "late"}
    with running_shards(layout, 2, RowOptimiser("adam"), **everything) as shards:

        def ask(incarnation: int, number: int, version: int, work: str, *arguments: object) -> object:
            return shards[0].send(Request(incarnation, 0, number, version, work, arguments)).result()

        before = ask(2, 0, 0, "pull", rows)
        with pytest.raises(StaleIncarnationError, match="push of start 1 to a shard of start 2: refused"):
            ask(1, 1, 0, "push", 0, 0, rows, gradient, 4, Update(0.1))
        after = ask(2, 1, 0, "pull", rows)
        assert isinstance(before, dict) and isinstance(after, dict)
        assert all(np.array_equal(before[name], after[name]) for name in before)
        ask(2, 2, 0, "push", 0, 0, rows, gradient, 4, Update(0.1))
        with pytest.raises(ValueError, match="request 2 of rank 0 came twice"):
            ask(2, 2, 0, "push", 0, 0, rows, gradient, 4, Update(0.1))
        assert not np.array_equal(ask(2, 3, 1, "pull", rows)["global_code"], before["global_code"])  # type: ignore[index]
    assert ends(shards[0].actor), "shards end with the block"


def ends(actor, seconds: float = 60) -> bool:
    """Whether an actor stops answering: a kill takes a moment to arrive."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            ray.get(actor.is_up.remote())
        except ray.exceptions.RayActorError:
            return True
    return False


@pytest.mark.slow
def test_a_killed_node_leaves_no_trace_in_the_codes(undisturbed, tiny_dataset, tmp_path):
    """Two nodes of a cluster of its own, of which one is killed and another comes in its place."""
    run, mark = tmp_path / "run", uuid.uuid4().hex
    words = [sys.executable, str(ROOT / "tests" / "failure_cases.py"), str(tiny_dataset), str(run), "7"]
    try:
        ended = subprocess.run(
            words, env=away_from_ray(JR_TEST_MARK=mark), capture_output=True, text=True, timeout=600, check=False
        )
    finally:
        kill_tree(mark)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert_equal_runs(run, undisturbed[1])
    # A start or two may be lost as well, to Ray's placing new processes on the node before it notices.
    assert set(steps_gone_on_from(reasons_of(run))) == {6}
