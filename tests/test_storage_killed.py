"""Processes of a run in a store that are killed or refused: the same bits in the end, or one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from failure_cases import Kill, away_from_ray, on_shards, struck_by
from storage_cases import assert_same_run, at, last_of

from jr_dist.errors import InputError
from jr_dist.locations import as_path
from jr_dist.train.trainer import train


@pytest.mark.slow
def test_after_kill_9_a_run_in_a_store_goes_on_to_the_same_bits(s3, tiny_dataset, tmp_path):
    uri = s3.uri("runs/killed")
    config = at(uri, tiny_dataset, train__epochs=16)
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    words = [sys.executable, "-m", "jr_dist", "train", str(tmp_path / "run.yaml")]
    process = subprocess.Popen(words, env=away_from_ray(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not s3.on_disk("runs/killed/checkpoints/last").exists() or last_of(uri) < "step-00000012":
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last_of(uri) < "step-00000048", "killed in the middle"
    ended = subprocess.run(words, env=away_from_ray(), capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0 and "resumed at step" in ended.stdout, ended.stdout + ended.stderr
    train(at(tmp_path / "straight", tiny_dataset, train__epochs=16))
    assert_same_run(uri, tmp_path / "straight")


@pytest.mark.slow
def test_workers_and_shards_write_to_a_store_and_a_killed_one_leaves_no_trace(ray_cluster, s3, tiny_dataset, tmp_path):
    uri = s3.uri("runs/on-ray")
    with struck_by([Kill(1, "shard 1", "writing", 5, 0)]):
        train(on_shards(tiny_dataset, uri, 3, 1))  # type: ignore[arg-type]
    with struck_by([]):
        train(on_shards(tiny_dataset, tmp_path / "run", 3, 1))
    assert_same_run(uri, tmp_path / "run")
    reasons = [json.loads(path.read_text())["reason"] for path in (as_path(uri) / "starts").glob("*.json")]
    assert len(reasons) == 2 and "goes on from step 3" in reasons[1] and "shard 1 of 3 (ShardActor" in reasons[1]


@pytest.mark.slow
def test_a_store_that_refuses_the_workers_ends_the_run_in_one_line(ray_cluster, s3, tiny_dataset):
    uri, probes = s3.uri("runs/refused-workers"), set()

    def rule(method: str, path: str) -> str | None:
        if method != "PUT" or ".check-" not in path:
            return None
        probes.add(path)
        return "denied" if len(probes) > 1 else None

    with s3.breaking(rule), pytest.raises(InputError, match=r"run\.path can't be used: .*writing was refused"):
        train(on_shards(tiny_dataset, uri, 2, 0))
    assert len(list((as_path(uri) / "starts").glob("*.json"))) == 1, "not tried again"
