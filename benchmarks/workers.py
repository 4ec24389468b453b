"""What a second worker brings: training, evaluation, ingest and rendering with 1 and 2 workers, a thread each.

    python benchmarks/workers.py [--quick] [--work train,ingest] [--csv FILE] [--json FILE]

The ceiling is what this machine permits: two processes of one thread without Ray, each with half of the work, at the
same time. Contenders take turns in every round (one process, two processes, 1 worker, 2 workers), and shares are taken
round by round. Rates are those of the time in which all are at work: left out are the start of processes and of Ray,
what is compiled, the first training steps, and the end, when one has nothing left to do. Measured:

    train     targets a second, 16 a worker and step (so 2 workers take twice as many a step), quickstart's networks,
              512 points, 1,024 sources; "1 worker" is Ray Train with one, "one process" train.num_workers 0
    evaluate  pairs a second of the exact oracle over 512 sources, ten best, with a network trained for some steps
    ingest    files a second, of procedural furniture as GLB; workers are processors of Ray's
    render    pictures a second, 224 x 224, from Embree to the file
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import Record, finish, machine, parser, progress
from step_measure import LEFT_OUT, QUICKSTART, write_boxes

from jr_dist.config import ClusterConfig, Config, load_config
from jr_dist.progress import Progress, watchers
from jr_dist.progress import progress as progress_of

#: (when something was finished, of `time.monotonic`; how much), in order
Log = list[tuple[float, float]]
CONTENDERS = ("one process", "two processes", "1 worker", "2 workers")
TOGETHER_S = 0.05  # what comes in one message was finished before
STARTING_S = 5.0  # a second process of Ray Data may still import what it needs, when the first one is at work
BATCH, VIEWS = 16, 40
JOB_TARGETS, JOB_SOURCES = 16, 512


@dataclass(frozen=True)
class Sizes:
    """How much is done in one measurement of one worker."""

    rounds: int = 3
    steps: int = 30
    jobs: int = 20
    files: int = 320
    shapes: int = 9  # of `VIEWS` pictures


QUICK = Sizes(rounds=1, steps=12, jobs=6, files=160, shapes=3)


def steady_rate(logs: Sequence[Log], at_once: int = 1, starting: float = 0.0) -> float:
    """Units a second of those who keep these logs, in the time that is common to all of them, added up.

    What a log has before its first entry is not counted, nor `starting` seconds from then on: start-up. `at_once`
    workers who share one log are all at work from the `at_once`-th entry on, and until so many are left. Entries within
    `TOGETHER_S` are one.
    """
    joined = [[entry for entry in _joined(log) if entry[0] >= log[0][0] + starting] for log in logs]
    trimmed = [log[at_once - 1 : len(log) - (at_once - 1)] for log in joined]
    first, last = max(log[0][0] for log in trimmed), min(log[-1][0] for log in trimmed)
    total = 0.0
    for log in trimmed:
        own = [(when, count) for when, count in log if first <= when <= last]
        total += sum(count for _, count in own[1:]) / (own[-1][0] - own[0][0])
    return total


def _joined(log: Log) -> Log:
    found: Log = []
    for when, count in log:
        if found and when - found[-1][0] < TOGETHER_S:
            found[-1] = (when, found[-1][1] + count)
        else:
            found.append((when, count))
    return found


@contextmanager
def noting(log: Log) -> Iterator[None]:
    """The progress of whatever runs in the block goes into the log."""

    def note(state: Progress) -> None:
        log.append((time.monotonic(), state.done - sum(count for _, count in log)))

    watchers.append(note)
    try:
        yield
    finally:
        watchers.remove(note)


@contextmanager
def cluster(num_cpus: int = 2) -> Iterator[ClusterConfig]:
    """A cluster of this machine, for one measurement."""
    from jr_dist.cluster import connect

    settings = ClusterConfig(num_cpus=num_cpus, object_store_mb=256)
    with connect(settings, log_to_driver=False):
        yield settings


# ---- the four kinds of work: a half of it in this process, or as many halves as there are workers ----


def training(folder: Path, name: str, workers: int) -> Config:
    """The settings of a run."""
    settings = {
        "data.path": str(folder / "boxes"), "run.path": str(folder / "runs" / name), "train.num_workers": workers,
        "train.batch_size": BATCH, "train.epochs": 100, "train.warmup_epochs": 0, "train.validate_every": 100,
        "train.checkpoint_every": 100, "retrieval.refresh_steps": 1000, "bank.num_shards": 1,
    }  # fmt: skip
    return load_config(QUICKSTART, settings)


def train_alone(folder: Path, sizes: Sizes, name: str, half: int) -> list[Log]:
    """Steps of `train.num_workers 0`."""
    from timed_training import train_here

    steps = train_here(training(folder, f"{name}-{half}", 0), sizes.steps)
    return [[(when, BATCH) for when in steps["ended"][LEFT_OUT:].tolist()]]


def train_workers(folder: Path, sizes: Sizes, name: str, workers: int) -> list[Log]:
    """Steps of each worker of Ray Train; with 2 the shard is an actor, as `train` has it."""
    from timed_training import train_on_ray

    with cluster():
        [ranks] = train_on_ray([training(folder, name, workers)], sizes.steps)
    return [[(when, BATCH) for when in steps["ended"][LEFT_OUT:].tolist()] for steps in ranks]


def make_oracle(folder: Path) -> Callable[[Mapping[str, Any]], dict[str, np.ndarray]]:
    """From a range of targets to the ten sources that fit each best, as `evaluate` finds them."""
    from jr_dist.data.dataset import open_dataset, read_targets
    from jr_dist.data.source_store import SourceStore
    from jr_dist.evaluate.metrics import retrieval_order
    from jr_dist.evaluate.oracle import Cases, oracle
    from jr_dist.train.trained import load_run

    dataset = open_dataset(folder / "trained")
    store, points = SourceStore.open(dataset), torch.from_numpy(np.array(read_targets(dataset, "train").points))
    model = load_run(folder / "runs" / "trained")

    def work(task: Mapping[str, Any]) -> dict[str, np.ndarray]:
        some = points[np.arange(task["first"], task["first"] + JOB_TARGETS) % len(points)]
        order = retrieval_order(model.retrieval_distances(some).numpy())
        found = oracle(model, store, Cases(some, some, np.ones(len(some))), order, k=10)
        return {"rows": found.rows, "chamfer": found.chamfer}

    return work


def evaluate(folder: Path, name: str, jobs: range, workers: int, settings: ClusterConfig | None = None) -> list[Log]:
    """Blocks of targets, here or by actors."""
    from jr_dist.blocks import Job, run_jobs

    out = folder / "blocks" / name
    out.mkdir(parents=True)
    weight, log = JOB_TARGETS * JOB_SOURCES, []
    blocks = [Job(f"{number:04}", {"first": number * JOB_TARGETS}, weight) for number in jobs]
    with noting(log), progress_of("evaluate", len(blocks) * weight, unit="pairs") as state:
        run_jobs(make_oracle, (folder,), blocks, out, advance=state.advance, num_workers=workers, cluster=settings)
    return [log]


def evaluate_alone(folder: Path, sizes: Sizes, name: str, half: int) -> list[Log]:
    return evaluate(folder, f"{name}-{half}", range(half * sizes.jobs, (half + 1) * sizes.jobs), 0)


def evaluate_workers(folder: Path, sizes: Sizes, name: str, workers: int) -> list[Log]:
    with cluster() as settings:
        return evaluate(folder, name, range(workers * sizes.jobs), workers, settings)


def ingest(folder: Path, name: str, models: Path, **how: Any) -> list[Log]:
    """Files into a dataset."""
    from jr_dist.data.ingest import ingest

    log: Log = []
    with noting(log), progress_of("ingest", sum(1 for _ in models.rglob("*.glb")), unit="file") as state:
        ingest(models, folder / "ingested" / name, progress=state, **how)
    return [log]


def ingest_alone(folder: Path, sizes: Sizes, name: str, half: int) -> list[Log]:
    return ingest(folder, f"{name}-{half}", folder / "models" / str(half), local=True)


def ingest_workers(folder: Path, sizes: Sizes, name: str, workers: int) -> list[Log]:
    models = folder / "models" / "0" if workers == 1 else folder / "models"
    with cluster(num_cpus=workers) as settings:
        return ingest(folder, name, models, cluster=settings)


def render(dataset: Path, num_views: int, workers: int, settings: ClusterConfig | None = None) -> list[Log]:
    """Pictures of the training targets of a dataset, which is left as it was."""
    from jr_dist.data.dataset import open_dataset
    from jr_dist.data.render_images import plan_images, render_images
    from jr_dist.data.render_views import ViewSettings

    plan = plan_images(open_dataset(dataset), ViewSettings(), num_views=num_views, tables=["train"])
    log: Log = []
    with noting(log), progress_of("render", sum(task.num_pictures for task in plan.tasks), unit="picture") as state:
        render_images(plan, num_workers=workers, cluster=settings, advance=state.advance)
    shutil.rmtree(dataset / "images")
    return [log]


def render_alone(folder: Path, sizes: Sizes, name: str, half: int) -> list[Log]:
    return render(folder / f"shapes-{half}", VIEWS, 0)


def render_workers(folder: Path, sizes: Sizes, name: str, workers: int) -> list[Log]:
    with cluster() as settings:
        return render(folder / "shapes-0", VIEWS * workers, workers, settings)


@dataclass(frozen=True)
class Work:
    """One kind of work: what it is counted in, how one process does a half of it, and workers a half each."""

    unit: str
    alone: Callable[[Path, Sizes, str, int], list[Log]]
    by_workers: Callable[[Path, Sizes, str, int], list[Log]]
    shared_log: bool  # of all workers; else each has its own
    starting: float = 0.0  # seconds from the first entry on in which one of them may be starting


WORKS = {
    "train": Work("targets", train_alone, train_workers, False),
    "evaluate": Work("pairs", evaluate_alone, evaluate_workers, True),
    "ingest": Work("files", ingest_alone, ingest_workers, True, STARTING_S),
    "render": Work("pictures", render_alone, render_workers, True),
}


# ---- measuring -----------------------------------------------------------------------------------


def prepare(folder: Path, sizes: Sizes) -> None:
    """The data of all four."""
    from jr_dist.data.dataset import open_dataset, read_sources
    from jr_dist.data.synthesize.generate import synthesize
    from jr_dist.train.trainer import train

    progress("making shapes")
    write_boxes(folder / "boxes", 1024)
    write_boxes(folder / "trained", JOB_SOURCES, num_targets=64, num_val=2)
    epochs = {"train.epochs": 2, "train.warmup_epochs": 1, "train.validate_every": 2, "train.checkpoint_every": 2}
    run = {"data.path": str(folder / "trained"), "run.path": str(folder / "runs" / "trained"), "train.num_workers": 0}
    train(load_config(QUICKSTART, {**run, **epochs}))
    furniture = partial(synthesize, categories=("cabinet", "chair", "table"))
    furniture(folder / "furniture", num_sources=2 * sizes.files, num_targets=3, seed=0)
    for number, source in enumerate(read_sources(open_dataset(folder / "furniture"))):
        path = folder / "models" / str(number % 2) / f"{number:04}.glb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.mesh_glb)
    furniture(folder / "shapes-0", num_sources=3, num_targets=sizes.shapes + 6, seed=0, num_points=512)
    shutil.copytree(folder / "shapes-0", folder / "shapes-1")


def measure(
    folder: Path, sizes: Sizes, pool: ProcessPoolExecutor, names: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Of each work and contender the rate in each round."""
    rates: dict[str, dict[str, list[float]]] = {name: {who: [] for who in CONTENDERS} for name in names}
    for name in names:
        work = WORKS[name]
        for number in range(-1, sizes.rounds):  # the first compiles, and is not counted
            for who in CONTENDERS if number >= 0 else CONTENDERS[1:2]:
                progress(f"{name}, round {number + 1} of {sizes.rounds}, {who}")
                own = f"{name}-{number}-{CONTENDERS.index(who)}"
                if "process" in who:
                    halves = range(1 + (who == "two processes"))
                    runs = [pool.submit(work.alone, folder, sizes, own, half) for half in halves]
                    rate = steady_rate([log for run in runs for log in run.result()])
                else:
                    workers = int(who[0])
                    logs = work.by_workers(folder, sizes, own, workers)
                    rate = steady_rate(logs, workers if work.shared_log else 1, work.starting)
                if number >= 0:
                    rates[name][who].append(rate)
        shown = {who: round(median(values), 2) for who, values in rates[name].items()}
        print(f"{name}: {shown}", flush=True)
    return rates


def table(rates: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Markdown: medians over the rounds, with least and most; shares are those of the rounds."""
    lines = [
        "| a second | " + " | ".join(CONTENDERS) + " | 2 workers / 1 | 2 workers / two processes |",
        "|---" * (len(CONTENDERS) + 3) + "|",
    ]
    for name, own in rates.items():
        cells = [_spread(own[who]) for who in CONTENDERS]
        cells += [_spread(shares(own, peer)) for peer in ("1 worker", "two processes")]
        lines.append(f"| {name}, {WORKS[name].unit} | " + " | ".join(cells) + " |")
    return lines


def shares(own: Mapping[str, Sequence[float]], peer: str) -> list[float]:
    """The rate of 2 workers over a peer's, round by round."""
    return [a / b for a, b in zip(own["2 workers"], own[peer], strict=True)]


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Measure, print, write."""
    arguments = parser(__doc__)
    arguments.add_argument("--csv", type=Path, metavar="FILE", help="write the rate of each round here")
    arguments.add_argument("--work", default=",".join(WORKS), metavar="A,B", help="which of them [all]")
    options = arguments.parse_args()
    sizes = QUICK if options.quick else Sizes()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of every process that is started
    print(f"{machine(1)}; wall time")
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(2, mp_context=spawn) as pool:
        prepare(Path(name), sizes)
        rates = measure(Path(name), sizes, pool, options.work.split(","))
    print("\n" + "\n".join(table(rates)))
    if options.csv:
        from jr_dist.atomic import atomic_write

        rounds = [
            f"{work},{who},{number},{rate:.4g},{WORKS[work].unit} a second"
            for work, own in rates.items()
            for who, values in own.items()
            for number, rate in enumerate(values)
        ]
        atomic_write(options.csv, "\n".join(["work,contender,round,rate,unit", *rounds]) + "\n")
    records = [
        Record(f"workers.{name}", median(own["2 workers"]), f"{WORKS[name].unit}/s", peer, median(shares(own, peer)))
        for name, own in rates.items()
        for peer in ("two processes", "1 worker")
    ]
    finish(records, options.json)


if __name__ == "__main__":
    main()
