"""Jobs on a real cluster of a head and two nodes, through its endpoint: train, lose a node, sweep, evaluate, stop.

What comes out has the bits of the same command on one machine; what Prometheus reads is what the run says of itself.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from cluster_cases import CODE_FROM_HERE, Job, SeveralNodes, several_nodes
from conftest import TINY_SETTINGS
from failure_cases import assert_equal_runs
from prometheus_client.parser import text_string_to_metric_families
from sweep_cases import SIGMA0, K
from sweep_cases import settings as sweep_settings

from jr_dist.cli import main
from jr_dist.config import load_config
from jr_dist.train.checkpoint import saved_step
from jr_dist.train.journal import read_metrics
from jr_dist.train.trainer import train
from jr_dist.train.trials import RECORD, TRIALS, Record

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
NUM_STEPS = 21  # the last, 20, is one that is logged
SETTINGS = TINY_SETTINGS | {
    "train.num_workers": 2,
    "train.batch_size": 4,
    "train.epochs": 7,
    "train.validate_every": 4,
    "train.checkpoint_every": 1,
    "bank.num_shards": 2,  # with the workers two processors: all that the two nodes have
    "bank.block_size": 2,
}
DOCUMENTED = ("--working-dir", ".")  # the code comes in the job's package


@pytest.fixture(scope="module")
def alone(ray_cluster, tiny_dataset, tmp_path_factory) -> Path:
    """The run that the jobs train, on one machine."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train(load_config(None, {**SETTINGS, "data.path": str(tiny_dataset), "run.path": str(run)}))
    return run


@pytest.fixture(scope="module")
def cluster(alone) -> Iterator[SeveralNodes]:
    with several_nodes(2) as running:
        yield running


def training(
    cluster: SeveralNodes, name: str, dataset: Path, run: Path, how: Sequence[str] = CODE_FROM_HERE
) -> AbstractContextManager[Job]:
    values = SETTINGS | {"data.path": dataset, "run.path": run}
    flags = [f"--{key}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in values.items()]
    script = "jobs/train.py" if how == DOCUMENTED else ROOT / "jobs" / "train.py"
    return cluster.submit(name, script, *flags, how=how)


Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


def look(cluster: SeveralNodes, found: Samples) -> None:
    """What Prometheus reads now, of ours: name without `ray_` -> labels -> value, the latest.

    It has to look now and then: a gauge goes some seconds after the process that set it.
    """
    for family in (family for node in cluster.running for family in text_string_to_metric_families(node.metrics())):
        for sample in family.samples if family.name.startswith("ray_jr_") else ():
            ours = {name: value for name, value in sample.labels.items() if name[:1].islower() and "otel" not in name}
            found.setdefault(sample.name.removeprefix("ray_"), {})[frozenset(ours.items())] = sample.value


def report_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "run-report.json").read_text())


def nodes_of(job: Job, class_name: str, of_start: str = "") -> set[str]:
    """Where a job's actors of a class worked."""
    return {each["node_id"] for each in job.actors(class_name) if of_start in each["name"]}


# ---- training ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(cluster, tiny_dataset, tmp_path_factory) -> tuple[Job, Path, Samples]:
    """A job that came to its end as docs/cluster.md says, its code in its package, its run and its metrics."""
    run, found = tmp_path_factory.mktemp("trained") / "run", {}
    with training(cluster, "trained", tiny_dataset, run, DOCUMENTED) as job:
        said = job.end(meanwhile=lambda: look(cluster, found))
    assert "Job 'trained' succeeded" in said and f"run directory: {run}" in said
    return job, run, found


def test_a_job_trains_on_both_nodes_to_the_bits_of_one_machine(cluster, trained, alone):
    job, run, _ = trained
    both = {node.id for node in cluster.nodes}
    assert nodes_of(job, "ShardActor") == nodes_of(job, "RayTrainWorker") == both
    assert_equal_runs(run, alone)
    assert report_of(run)["failures"] == 0 and len(report_of(run)["starts"]) == 1


def documented_metrics() -> dict[str, set[str]]:
    """Name -> labels, as docs/operations.md has them in its table."""
    found: dict[str, set[str]] = {}
    table = (ROOT / "docs" / "operations.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    for line in table.splitlines():
        if names := re.match(r"\| (`jr_.*?) \| (.*?) \|", line):
            labels = re.sub(r"^and ", "run, method, rank, ", names[2])
            found |= {name: set(labels.split(", ")) for name in re.findall(r"`(\w+)`", names[1])}
    return found


def test_what_prometheus_reads_is_what_the_run_says_of_itself(trained):
    _, run, found = trained
    steps = [{"run": str(run), "method": "Ours", "rank": rank} for rank in ("0", "1")]

    def value(name: str, rank: int = 0, **more: str) -> float:
        return found[name][frozenset((steps[rank] | more).items())]

    report, journal = report_of(run), list(read_metrics(run))
    for rank in (0, 1):
        assert value("jr_train_steps_total", rank) == report["steps"] == NUM_STEPS
        assert value("jr_train_step", rank) == NUM_STEPS - 1
        assert value("jr_train_step_seconds_count", rank) == NUM_STEPS
    [last] = [line for line in journal if line["part"] == "train" and line["step"] == NUM_STEPS - 1]
    for name in ("fit", "loss_deformation", "loss_embedding"):
        assert value("jr_train_loss", loss=name) == last[name]
    for name in ("candidates", "fit"):
        assert value("jr_train_effective", of=name) == last[f"effective_{name}"]
    assert value("jr_train_validation_chamfer_x100") == report["validation"]["chamfer_x100"]
    for stage in ("compute", "bank", "exchange"):
        assert value("jr_train_stage_seconds_total", stage=stage) == pytest.approx(report["stages"][stage], abs=1e-3)
    shards = [dict(labels)["shard"] for labels in found["jr_bank_requests_total"]]
    assert sorted(shards) == ["0", "1"]
    assert set(found["jr_bank_requests_waiting"].values()) == {0.0}
    documented = {name: labels for name, labels in documented_metrics().items() if not name.startswith("jr_progress")}
    labels = {re.sub("_(total|bucket|count|sum|created)$", "", name): next(iter(found[name])) for name in found}
    assert {name: {label for label, _ in labels[name]} - {"le"} for name in labels} == documented


def test_a_node_that_is_killed_is_waited_for_and_leaves_no_trace(cluster, tiny_dataset, alone, tmp_path):
    run = tmp_path / "run"
    with training(cluster, "struck", tiny_dataset, run) as job:
        job.until((run / "checkpoints" / "last").exists)
        killed = cluster.nodes[1]
        cluster.kill(killed)
        job.until(lambda: killed.id in cluster.dead_nodes() and len(list((run / "starts").iterdir())) > 1, 0.5)
        new = cluster.add_node()  # without which there is no room
        said = job.end()
    assert job.status == "SUCCEEDED", said
    assert_equal_runs(run, alone)
    report = report_of(run)
    first, *again = report["starts"]
    # A start may be lost as well, to Ray's placing its processes on the node before it notices.
    assert first["reason"] == "started" and 1 <= len(again) == report["failures"] <= 2
    assert re.match(r"start 1 failed; goes on from step \d+, after \w+Error: ", again[0]["reason"])
    assert again[0]["reason"] in said and again[0]["reason"] in (run / "run-report.md").read_text()
    assert killed.id in nodes_of(job, "ShardActor", "start 1 ")
    assert new.id in nodes_of(job, "ShardActor", f"start {len(report['starts'])} ") | nodes_of(job, "RayTrainWorker")


def test_a_job_that_is_stopped_saves_a_checkpoint_and_goes_on_from_there(cluster, tiny_dataset, alone, tmp_path):
    run = tmp_path / "run"
    with training(cluster, "stopped", tiny_dataset, run) as job:
        job.until((run / "starts" / "0001.json").exists)
        job.until(lambda: any(each["pid"] for each in job.actors("RayTrainWorker")), 0.5)
        [worker, *_] = [each["pid"] for each in job.actors("RayTrainWorker") if each["pid"]]
        job.until((run / "checkpoints" / "last").exists)
        os.kill(worker, signal.SIGSTOP)  # lest the run be over before the word has come
        try:
            cluster.stop(job)
            time.sleep(1)
        finally:
            os.kill(worker, signal.SIGCONT)
        said = job.end()
    assert job.status == "STOPPED" and 3 <= saved_step(run) < NUM_STEPS
    assert f"stopped by SIGTERM behind step {saved_step(run)}" in said, said
    behind = saved_step(run)
    with training(cluster, "again", tiny_dataset, run) as job:
        said = job.end()
    assert job.status == "SUCCEEDED" and f"resumed at step {behind} from" in said, said
    assert_equal_runs(run, alone)


# ---- sweeping and measuring --------------------------------------------------------------------


def test_a_sweep_trains_as_many_trials_at_once_as_the_nodes_hold(cluster, tiny_dataset, tmp_path):
    path, file, found = tmp_path / "sweep", tmp_path / "sweep.yaml", {}
    config = sweep_settings(tiny_dataset, path, sweep__trials=3)
    file.write_text(config.to_yaml())
    with cluster.submit("sweep", ROOT / "jobs" / "sweep.py", file) as job:
        said = job.end(meanwhile=lambda: look(cluster, found))
    assert "3 trials and 0 repeats, 2 at a time: 3 machines of 0 CPUs, 1 CPU, 1 CPU in 1 process" in said, said
    record = Record.read(path / RECORD)
    assert [trial.state for trial in record] == ["complete"] * 3
    processes = {
        json.loads((path / TRIALS / trial.name / "starts" / "0001.json").read_text())["pid"] for trial in record
    }
    at_work = {each["node_id"] for each in job.actors() if each["pid"] in processes}
    assert at_work == {node.id for node in cluster.nodes}
    best = load_config(path / "best.yaml")
    winner = min(record, key=lambda trial: trial.chamfer_x100 or math.inf)
    assert {SIGMA0: best.retrieval.sigma0, K: best.retrieval.num_candidates} == winner.values
    assert all(f"| {trial.name} | " in (path / "sweep.md").read_text() for trial in record)
    train(best)
    validations = [line["chamfer_x100"] for line in read_metrics(path / "best") if line["part"] == "val"]
    assert [chamfer for _, chamfer in winner.validations] == validations, "the bits of an ordinary run"
    labels = frozenset({("title", "sweep")})
    assert found["jr_progress_done"][labels] == found["jr_progress_total"][labels] == 3 * config.train.epochs


def test_actors_on_both_nodes_measure_to_the_bits_of_one_process(cluster, tiny_run, tmp_path):
    how = ["--protocols", "full,noise-1", "--num-points", "128"]
    words = [tiny_run, "--out", tmp_path / "tables", *how, "--num-workers", "2"]
    with cluster.submit("tables", ROOT / "jobs" / "evaluate.py", *words) as job:
        said = job.end()
    assert job.status == "SUCCEEDED", said
    assert nodes_of(job, "BlockActor") == {node.id for node in cluster.nodes}
    assert main(["evaluate", str(tiny_run), "--out", str(tmp_path / "alone"), *how]) == 0
    for name in ("tables.json", "tables.md", "tables.csv"):
        assert (tmp_path / "tables" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
