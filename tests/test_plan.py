"""Every verb's dry run: one form, nothing written; and what it estimates against what small runs really take."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from conftest import TINY_SETTINGS

from jr_dist.cli import main
from jr_dist.config import load_config
from jr_dist.data.dataset import open_dataset
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.estimates import (
    MB,
    MEASURED,
    Measured,
    dataset_bytes,
    ingesting_seconds,
    measuring_seconds,
    rendering_seconds,
    step_bytes,
    step_seconds,
)
from jr_dist.placement import Node
from jr_dist.plan import COMMON, Amounts, Plan, print_plan
from jr_dist.train.checkpoint import saved_step
from jr_dist.train.dry_run import plan_training
from jr_dist.train.dry_run_plan import dry_run, training_disk, training_memory, training_seconds
from jr_dist.train.run_directory import LAST, checkpoint_path
from jr_dist.train.trainer import train

ROOT = Path(__file__).parent.parent
FLAGS = [f"--{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in TINY_SETTINGS.items()]


def rows_of(text: str) -> dict[str, str]:
    """name -> text of the lines of a plan."""
    return {line[:18].strip(): line[18:] for line in text.splitlines() if not line.startswith("would")}


def everything_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@pytest.fixture
def words_of(tiny_dataset, tiny_run, tmp_path, monkeypatch):
    """A command of each verb, in an empty folder of its own."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    scans = sorted((tiny_dataset / "scans").iterdir())
    models = tmp_path / "models"
    models.mkdir()
    for number in range(10):
        shutil.copy(next(scan for scan in scans if scan.suffix == ".glb"), models / f"model-{number}.glb")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text("sweep: {space: {retrieval.sigma0: {log: [1, 9]}}, trials: 3}\n")
    config = [*FLAGS, f"--data.path={tiny_dataset}", f"--run.path={tmp_path / 'new'}"]
    return {
        "synthesize": ["out", "--num-sources", "3", "--num-targets", "10"],
        "ingest": ["models", "out"],
        "render": [str(tiny_dataset), "--num-views", "50"],
        "train": [*config, "--train.num_workers=1"],
        "sweep": ["sweep.yaml", *config],
        "compare": config,
        "evaluate": [str(tiny_run), "--out", "out", "--num-workers", "2"],
        "fit": [str(tiny_run), str(scans[0]), "--out", "out"],
    }


VERBS = ("synthesize", "ingest", "render", "train", "sweep", "compare", "evaluate", "fit")


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_has_every_line_and_writes_nothing(verb, words_of, tmp_path, tiny_dataset, tiny_run, capsys):
    before = [everything_below(folder) for folder in (tmp_path, tiny_dataset, tiny_run)]
    assert main([verb, *words_of[verb], "--dry-run"]) == 0
    assert [everything_below(folder) for folder in (tmp_path, tiny_dataset, tiny_run)] == before
    shown = capsys.readouterr().out
    rows = rows_of(shown)
    assert [name for name in rows if name in COMMON] == list(COMMON), "one order"
    assert "\nwould " in shown or "to train" in shown
    assert rows["package"].startswith(f"no jobs/{verb}.py in this folder")
    for name in ("memory", "disk"):
        assert re.match(r"about [0-9.]+ (MB|GB)", rows[name]), rows[name]
        assert not rows[name].startswith("about 0 MB")
    assert re.match(r"about [0-9]+:[0-9]{2}", rows["time"]) and MEASURED.machine in rows["time"]
    on_ray = verb in ("ingest", "render", "train", "sweep", "evaluate")
    assert ("CPUs in all" in rows["resources"]) == on_ray
    assert rows["Ray"].startswith("a Ray cluster on this machine" if on_ray else "not used")


def plan_of(asks=lambda nodes: (), verb="train") -> Plan:
    nothing = Amounts((("nothing", 1e6),))
    return Plan(verb, (), asks, nothing, nothing, lambda nodes: nothing, ("would do nothing",))


def test_a_folder_that_makes_too_large_a_package_is_refused_with_what_is_in_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "train.py").write_text("")
    (tmp_path / "weights").mkdir()
    with open(tmp_path / "weights" / "large.bin", "wb") as file:
        file.truncate(101 * 2**20)  # a hole: no disk is needed
    monkeypatch.chdir(tmp_path)
    words = ["synthesize", "out", "--dry-run"]
    assert main(words) == 0, "nothing to submit by that verb"
    (tmp_path / "jobs" / "synthesize.py").write_text("")
    assert main(words) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "package of 106 MB in 3 files, mostly weights/large.bin 106 MB" in line and ".rayignore" in line
    (tmp_path / ".rayignore").write_text("/weights\n")
    assert main(words) == 0
    assert "in 3 files, of 105 MB" in capsys.readouterr().out  # .rayignore itself


def test_what_this_machine_has_no_room_for_is_planned_and_refused(tiny_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = [*FLAGS, f"--data.path={tiny_dataset}", f"--run.path={tmp_path / 'new'}", "--cluster.num_cpus=2"]
    words += ["--train.num_workers=3", "--train.batch_size=2", "--bank.num_shards=6", "--bank.block_size=2"]
    assert main(["train", *words, "--dry-run"]) == 2
    shown = capsys.readouterr()
    assert "no room on 1 node of 2 CPUs" in rows_of(shown.out)["nodes"]
    [line] = shown.err.strip().splitlines()
    assert "train.num_workers 3 and bank.num_shards 6 ask for 4.5 processors" in line and "allowed is 2" in line


def test_nodes_of_the_cluster_file_are_counted(tmp_path, monkeypatch, capsys):
    from jr_dist.config import ClusterConfig
    from jr_dist.placement import Ask

    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text(
        "available_node_types: {head: {resources: {CPU: 0}}, gpu: {resources: {CPU: 8, GPU: 2}}}"
    )
    workers = plan_of(lambda nodes: (Ask("worker", 4, 0.5, float(any(node.gpus for node in nodes))),))
    print_plan(workers, ClusterConfig(num_cpus=2))
    assert rows_of(capsys.readouterr().out)["nodes"].endswith("2 of cluster.yaml gpu (8 CPUs and 2 GPUs), on GPUs")


def test_every_constant_is_measured_by_a_command():
    text = (ROOT / "benchmarks" / "estimates.py").read_text()
    for field in fields(Measured):
        if field.name != "machine":
            assert re.search(rf'"{field.name}"', text), "benchmarks/estimates.py makes a record of it"
            assert getattr(MEASURED, field.name) > 0, field.name


def test_time_grows_with_what_there_is_to_do():
    config = load_config(None, {"data.path": "-", "run.path": "-"})
    larger = load_config(None, {"data.path": "-", "run.path": "-", "train.batch_size": 32})
    pictures = load_config(None, {
        "data.path": "-", "run.path": "-", "data.images": "files", "model.encoder": "resnet18",
    })  # fmt: skip
    assert step_seconds(larger, 10**6) == pytest.approx(2 * step_seconds(config, 10**6))
    assert step_bytes(larger, 10**6) == pytest.approx(2 * step_bytes(config, 10**6))
    assert step_seconds(pictures, 100) > step_seconds(config, 100)
    assert rendering_seconds(10, 640) > 4 * rendering_seconds(10, 64)
    assert ingesting_seconds([10**6] * 4) == pytest.approx(4 * ingesting_seconds([10**6]))
    assert measuring_seconds(9, 9, 512, 1, ido=True) > measuring_seconds(9, 9, 512, 1, ido=False)
    doubled = replace(MEASURED, encode_ns=2 * MEASURED.encode_ns, pair_us=2 * MEASURED.pair_us)
    assert step_seconds(config, 100, doubled) == pytest.approx(2 * step_seconds(config, 100))


# ---- against real runs -------------------------------------------------------------------------

WIDER = {"data.num_points": 256, "data.encoder_points": 256, "model.encoder_channels": (64, 128), "train.epochs": 4}


def test_a_dataset_is_about_as_large_as_estimated(tmp_path):
    synthesize(tmp_path / "data", num_sources=6, num_targets=20, categories=("chair", "table"), seed=0)
    found = sum(file.bytes for file in open_dataset(tmp_path / "data").manifest.files)
    assert 0.5 < dataset_bytes(26, 2048) / found < 2


def test_a_run_writes_about_what_is_estimated_and_goes_on_by_its_own_log(tiny_dataset, tmp_path):
    run = tmp_path / "run"
    config = load_config(None, {**TINY_SETTINGS, **WIDER, "data.path": str(tiny_dataset), "run.path": str(run)})
    plan = plan_training(config)
    disk = dict(training_disk(config, plan).parts)
    assert training_seconds(config, plan, ()).note.endswith("a worker")
    train(config)
    checkpoints = {checkpoint_path(run, name).resolve() for name in (LAST, "best")}
    size = sum(path.stat().st_size for folder in checkpoints for path in folder.iterdir())
    assert disk["checkpoints"] / 3 * len(checkpoints) == pytest.approx(size, rel=0.1)
    log = [run / "metrics.jsonl", *(run / "tensorboard").iterdir()]
    assert 0.1 < disk["log"] / sum(path.stat().st_size for path in log) < 10
    assert saved_step(run) == plan.num_steps
    further = load_config(
        None,
        {**TINY_SETTINGS, **WIDER, "data.path": str(tiny_dataset), "run.path": str(run), "train.epochs": 6},
    )
    more = training_seconds(further, plan_training(further), ())
    steps = plan_training(further).num_steps - plan.num_steps
    assert more.note.startswith("the run's own log") and more.parts[-1][0] == f"{steps} steps"


PEAK = """
import sys, time
from jr_dist.cli import main
start = time.process_time()
code = main(sys.argv[1:])
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak, time.process_time() - start)
sys.exit(code)
"""


@pytest.mark.slow
def test_a_run_takes_about_the_memory_and_time_that_are_estimated(tiny_dataset, tmp_path):
    """A run of some size in a process of its own; the speed of this machine is taken from a smaller one, so that only
    the formulas are judged."""
    words = {**TINY_SETTINGS, "data.path": str(tiny_dataset), "model.encoder_channels": "64,64,128,256"}
    words |= {"data.num_points": 256, "train.batch_size": 8, "train.validate_every": 100}

    def measured(name: str, **sizes: int) -> tuple[float, float, float, float]:
        named = {key.replace("__", "."): value for key, value in sizes.items()}
        settings = {**words, **named, "run.path": str(tmp_path / name), "train.epochs": 12}
        config = load_config(None, settings)
        plan = plan_training(config)
        estimated = training_seconds(config, plan, ()).total
        memory = training_memory(config, plan).total
        texts = {key: ",".join(map(str, v)) if isinstance(v, tuple) else v for key, v in settings.items()}
        flags = [f"--{key}={value}" for key, value in texts.items()]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, "train", *flags],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peak, seconds = done.stdout.split()[-2:]
        return estimated, float(seconds), memory, 1024 * float(peak)

    small_time, small_taken, _, _ = measured("small", data__encoder_points=16, retrieval__num_candidates=2)
    large_time, large_taken, memory, peak = measured("large", data__encoder_points=256, retrieval__num_candidates=10)
    assert 0.5 < memory / peak < 2
    assert 0.2 < (large_time - small_time) / (large_taken - small_taken) < 5


def test_estimates_take_a_moment(tiny_dataset, tmp_path):
    """A dry run computes; it neither trains nor starts Ray."""
    config = load_config(None, {**TINY_SETTINGS, "data.path": str(tiny_dataset), "run.path": str(tmp_path / "new")})
    start = time.process_time()
    plan = dry_run(config, None)
    assert plan.memory.total > MEASURED.process_mb * MB and plan.seconds([Node(2.0)]).total > 0
    assert time.process_time() - start < 20
