"""Sweeps on a real local Ray: what they leave, what outlives kills, what fails alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from sweep_cases import SIGMA0, K, settings

from jr_dist.config import load_config
from jr_dist.errors import InputError
from jr_dist.sweep import plan_sweep, sweep
from jr_dist.train.checks import check
from jr_dist.train.left_behind import free_left_behind
from jr_dist.train.run_directory import STARTS, has_checkpoint
from jr_dist.train.trainer import train
from jr_dist.train.trials import RECORD, TRIALS, Record, trial_config

pytestmark = pytest.mark.slow


def starts(path: Path) -> dict[str, int]:
    """How often each trial was started."""
    return {run.name: len(list((run / STARTS).glob("*.json"))) for run in sorted((path / TRIALS).iterdir())}


def validations(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["chamfer_x100"] for line in lines if line["part"] == "val"]


def when(condition: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Act, in a thread, as soon as the condition holds."""

    def wait() -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_sweep_leaves_trials_a_table_and_a_config_to_train_and_goes_on_where_it_was(
    ray_cluster, tiny_dataset, tmp_path, tmp_path_factory, capsys
):
    alone_path = tmp_path_factory.mktemp("alone") / "run"
    how = {"sweep__repeats": 1, "sweep__side_by_side": 2}
    config = settings(tiny_dataset, tmp_path, **how)
    table = sweep(config)
    assert [trial.state for trial in table.trials] == ["complete"] * 3
    alone = trial_config(config, table.trials[0])
    train(alone.model_copy(update={"run": alone.run.model_copy(update={"path": str(alone_path)})}))
    assert validations(alone_path) == validations(tmp_path / TRIALS / "000"), "an ordinary run"
    for trial in (*table.trials, *table.repeats):
        assert trial.chamfer_x100 == min(validations(tmp_path / TRIALS / trial.name))
    [winner] = table.finalists
    found = [trial.chamfer_x100 for trial in table.trials if trial.chamfer_x100 is not None]
    assert winner.trial.chamfer_x100 == min(found)
    assert [trial.seed for trial in table.repeats] == [1] and len(winner.chamfers_x100) == 2
    best = load_config(tmp_path / "best.yaml")
    check(best)
    assert {SIGMA0: best.retrieval.sigma0, K: best.retrieval.num_candidates} == winner.trial.values
    assert best.run.path == f"{tmp_path}/best" and best.train.seed == 0
    left = {path.name for path in tmp_path.iterdir()}
    made = {"sweep.json", "sweep.md", "sweep.csv", "report.html", "best.yaml", "config.yaml", RECORD, TRIALS}
    assert left == made, "nothing of Tune's, which are pickles"
    said = capsys.readouterr()
    assert "left=" in said.err and "sweep: 000 complete at epoch 2 of 2" in said.out

    before = starts(tmp_path)
    assert sweep(config) == table
    assert starts(tmp_path) == before, "nothing was trained again"
    more = sweep(settings(tiny_dataset, tmp_path, **how, sweep__trials=4))
    assert more.trials[:3] == table.trials and len(more.trials) == 4
    assert {name: count for name, count in starts(tmp_path).items() if name in before} == before


def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint(ray_cluster, tiny_dataset, tmp_path):
    run = tmp_path / TRIALS / "000"

    def kill() -> None:
        os.kill(json.loads((run / STARTS / "0001.json").read_text())["pid"], signal.SIGKILL)

    config = settings(tiny_dataset, tmp_path, sweep__trials=1, train__epochs=40, train__validate_every=2)
    killer = when(lambda: any(len(trial.validations) > 1 for trial in Record.read(tmp_path / RECORD)), kill)
    table = sweep(config)
    killer.join()
    [trial] = table.trials
    assert (trial.state, trial.tries) == ("complete", 2)
    assert starts(tmp_path) == {"000": 2}
    epochs = [epoch for epoch, _ in trial.validations]
    assert epochs == sorted(set(epochs)) and (epochs[0], epochs[-1]) == (2.0, 40.0)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["start"] for line in lines if line["part"] == "val"} == {1, 2}, "it did not begin again"


def test_a_trial_that_fails_is_named_and_leaves_the_others_alone(ray_cluster, tiny_dataset, tmp_path):
    space = {"train.learning_rate": {"choice": [1e-3, 1e30]}}
    table = sweep(settings(tiny_dataset, tmp_path, sweep__space=space, sweep__trials=2))
    failed, complete = sorted(table.trials, key=lambda trial: trial.state, reverse=True)
    assert (failed.state, complete.state) == ("failed", "complete")
    assert "FloatingPointError" in failed.reason and failed.tries == 1, "the same would happen again"
    assert failed.values == {"train.learning_rate": 1e30}
    assert "failed: FloatingPointError" in (tmp_path / "sweep.md").read_text()


def test_where_all_fail_the_reason_is_said(ray_cluster, tiny_dataset, tmp_path):
    space = {"train.learning_rate": {"choice": [1e30, 1e31]}}
    with pytest.raises(RuntimeError, match=r"none of 2 trials was trained to its end.*FloatingPointError"):
        sweep(settings(tiny_dataset, tmp_path, sweep__space=space, sweep__trials=2))


def test_early_stops_with_workers_and_shards_free_what_they_held(ray_cluster, tiny_dataset, tmp_path):
    config = settings(
        tiny_dataset,
        tmp_path,
        sweep__trials=2,
        sweep__grace_epochs=1,
        sweep__seed=1,  # the better one comes first
        sweep__space={"train.learning_rate": {"choice": [1e-3, 1e-7]}},
        sweep__side_by_side=1,
        train__epochs=3,
        train__num_workers=1,
        bank__num_shards=2,
        bank__block_size=4,
    )
    table = sweep(config)
    assert [trial.state for trial in table.trials] == ["complete", "stopped"]
    assert "stopped by ASHA at epoch" in (tmp_path / "sweep.md").read_text()

    def held() -> bool:
        free_left_behind()
        return any(group["state"] != "REMOVED" for group in ray.util.placement_group_table().values())

    when(lambda: not held(), lambda: None).join()
    assert not held()


def test_a_trial_that_fits_nowhere_is_refused_at_once(ray_cluster, tiny_dataset, tmp_path):
    config = settings(tiny_dataset, tmp_path, train__num_workers=9, train__batch_size=1)
    with pytest.raises(InputError, match=r"a trial asks for .* CPUs in .* processes.*1 machine of 4 CPUs"):
        sweep(config)


def test_a_sweep_outlives_the_kill_of_its_driver(ray_cluster, tiny_dataset, tmp_path):
    how = {"sweep__trials": 3, "sweep__side_by_side": 1, "train__epochs": 20, "train__validate_every": 2}
    config = settings(tiny_dataset, tmp_path, **how, cluster__num_cpus=2)
    tmp_path.mkdir(exist_ok=True)
    file = tmp_path.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    words = [sys.executable, "-m", "jr_dist", "sweep", str(file)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as driver:
        when(lambda: has_checkpoint(tmp_path / TRIALS / "001"), driver.kill).join()
    record = Record.read(tmp_path / RECORD)
    assert [trial.state for trial in record] == ["complete", "begun"]
    first, begun = record["000"], (tmp_path / TRIALS / "000" / "metrics.jsonl").read_bytes()
    assert plan_sweep(config).record["001"].state == "begun"

    table = sweep(config)
    assert [trial.state for trial in table.trials] == ["complete"] * 3
    assert table.trials[0] == first and (tmp_path / TRIALS / "000" / "metrics.jsonl").read_bytes() == begun
    assert starts(tmp_path)["000"] == 1 and starts(tmp_path)["001"] == 2
    epochs = [epoch for epoch, _ in table.trials[1].validations]  # what was validated as the driver died is not told
    assert epochs == [float(epoch) for epoch in range(int(epochs[0]), 21, 2)] and epochs[0] <= 4
