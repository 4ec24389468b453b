"""Training steps of different shapes, measured by stage; the model of a step fitted on some and checked on the others.

    python benchmarks/step_measure.py --csv steps.csv [--quick]     measure, then what follows
    python benchmarks/step_measure.py --fit steps.csv [--picture step-model.png]

Workers of Ray Train with one thread each and shards in actors, all on this machine's processors; the quickstart's
networks on 512 points, uniform draws (sigma0 100). The first steps of a run are left out, and validations: a step's
seconds are the median over steps and the mean over ranks, those that refresh the cached embedding counted apart. The
second form needs no Ray. What the model says of a cluster, scaling.py prints.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import progress, random_boxes, sample
from step_model import STAGES, Cluster, Observed, Rates, Shape, errors, fit, stages, step_seconds

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
NUM_POINTS, NUM_PARTS, NUM_TARGETS = 512, 8, 256
LEFT_OUT = 6  # steps that compile kernels, fill caches and wait for processes that start
TOGETHER = 8  # runs whose shards live at the same time
REFRESH_STEPS = 5
#: one worker or shard on a processor of this machine, until there are more of them than processors
HERE = Cluster(sharing_workers=64, shard_processors=2)


@dataclass(frozen=True)
class Trial:
    """A run to measure, and whether the model is fitted on it or checked."""

    shape: Shape
    fitted: bool
    target_code: int = 128  # makes dense weights, at little compute


def trials() -> list[Trial]:
    """The axes of the picture, and corners: fitted on the middle of the batches and the ends of the databases."""
    base = Shape(global_code=128, embedding=128, parts=NUM_PARTS, refresh_steps=REFRESH_STEPS)
    large = replace(base, embedding=512, refresh_steps=10_000)  # once, before the steps that count
    pair, wide = replace(base, workers=2), replace(base, global_code=512, embedding=512, part_code=64)
    found = [
        Trial(replace(base, workers=workers, batch=batch), fitted=batch in (8, 16))
        for workers in (1, 2)
        for batch in (4, 8, 16, 32)
    ]
    found += [
        Trial(replace(large, workers=workers, shards=shards, sources=sources), fitted=sources != 4096)
        for workers, shards in ((1, 1), (2, 1), (2, 2))
        for sources in (256, 4096, 16384)
    ]
    return [
        *found,
        Trial(replace(base, candidates=20), fitted=True),
        Trial(replace(pair, candidates=20), fitted=False),
        Trial(replace(base, shards=2), fitted=True),
        Trial(replace(pair, shards=4), fitted=True),
        Trial(wide, fitted=True),
        Trial(replace(wide, workers=2), fitted=True),
        Trial(replace(pair, batch=24, candidates=8, global_code=256, embedding=256, shards=2), fitted=False),
        Trial(replace(base, sources=64), fitted=True),
        Trial(replace(pair, sources=64), fitted=False),
        Trial(base, fitted=True, target_code=4096),
        Trial(pair, fitted=True, target_code=4096),
        Trial(replace(pair, shards=2), fitted=False, target_code=2048),
        Trial(replace(large, sources=16384, lookahead=1), fitted=False),
        Trial(replace(pair, lookahead=1), fitted=False),
    ]


# ---- measuring ---------------------------------------------------------------------------------


def write_boxes(path: Path, num_sources: int, *, num_targets: int = NUM_TARGETS, num_val: int = 1) -> None:
    """A dataset of 64 different shapes of `NUM_PARTS` parts, again and again: a step costs the same for all."""
    from step import random_source

    from jr_dist.data.dataset import write_dataset
    from jr_dist.data.records import TargetShape

    shapes = [random_source(number, num_parts=NUM_PARTS, num_points=NUM_POINTS) for number in range(64)]

    def target(number: int) -> TargetShape:
        rng = np.random.default_rng([1, number % 64])
        points, part_index = sample(random_boxes(rng), NUM_POINTS, rng)
        return TargetShape(f"target-{number:04}", "boxes", points, part_index.astype(np.int16), np.eye(4))

    sources = (replace(shapes[number % 64], id=f"source-{number:05}") for number in range(num_sources))
    targets = {"train": map(target, range(num_targets)), "val": map(target, range(num_targets, num_targets + num_val))}
    write_dataset(path, sources, targets, how={"made_by": "benchmarks/step_measure.py"})


def measure(some: Sequence[Trial], num_steps: int) -> list[Observed]:
    """One run of each trial, those with as many workers together."""
    from timed_training import train_on_ray

    from jr_dist.cluster import connect
    from jr_dist.config import ClusterConfig

    found: dict[int, Observed] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        connect(ClusterConfig(num_cpus=16, object_store_mb=512), log_to_driver=False),
    ):
        for sources in {trial.shape.sources for trial in some}:
            write_boxes(Path(name) / str(sources), sources)
        for workers in sorted({trial.shape.workers for trial in some}):
            places = [place for place, trial in enumerate(some) if trial.shape.workers == workers]
            for first in range(0, len(places), TOGETHER):
                own = places[first : first + TOGETHER]
                progress(f"{workers} worker(s), run {first} of {len(places)}")
                configs = [config_of(some[place], Path(name), f"run-{place}") for place in own]
                for place, config, ranks in zip(own, configs, train_on_ray(configs, num_steps, actors=True)):
                    shape = replace(some[place].shape, dense_bytes=dense_bytes(config))
                    found[place] = observed(shape, [rank.behind(LEFT_OUT) for rank in ranks])
    return [found[place] for place in range(len(some))]


def config_of(trial: Trial, folder: Path, run: str) -> Any:
    """The run's settings."""
    from jr_dist.config import load_config

    shape = trial.shape
    settings = {
        "data.path": str(folder / str(shape.sources)), "run.path": str(folder / run),
        "model.target_code": trial.target_code, "model.global_code": shape.global_code,
        "model.part_code": shape.part_code, "retrieval.embedding": shape.embedding,
        "retrieval.num_candidates": shape.candidates, "retrieval.sigma0": 100.0,
        "retrieval.refresh_steps": shape.refresh_steps, "train.batch_size": shape.batch,
        "train.num_workers": shape.workers, "train.epochs": 100, "train.warmup_epochs": 0,
        "train.validate_every": 100, "train.checkpoint_every": 100, "bank.num_shards": shape.shards,
        "bank.block_size": 16, "bank.lookahead": shape.lookahead,
    }  # fmt: skip
    return load_config(QUICKSTART, settings)


def dense_bytes(config: Any) -> int:
    """What the ranks average in a step."""
    from jr_dist.train.dry_run import trained_parameters
    from jr_dist.train.state import build_networks
    from jr_dist.train.update import moving_statistics

    networks = build_networks(config)
    weights = [parameter.nbytes for parameter in trained_parameters(networks, config.train.method)]
    return sum(weights) + sum(buffer.nbytes for buffer in moving_statistics(networks))


def observed(shape: Shape, ranks: Sequence[Any]) -> Observed:
    """What the ranks of a run noted of its steps, the first ones left out."""

    def mean(*columns: str) -> np.ndarray:  # [steps]
        return np.mean([sum(rank[column] for column in columns) for rank in ranks], axis=0)

    # Steps are numbered from 0, the first one encodes everything as well.
    refreshing = (np.arange(len(ranks[0].values)) + LEFT_OUT) % shape.refresh_steps == 0
    seconds = np.mean([rank.seconds for rank in ranks], axis=0)
    plain = float(np.median(seconds[~refreshing]))
    refresh = float(np.median(seconds[refreshing])) - plain if refreshing.any() else 0.0
    columns = {
        "compute": ("data", "compute"), "proposals": ("propose",), "pull": ("pull",), "push": ("push", "set_embedding"),
        "all-reduce": ("exchange",),
    }  # fmt: skip
    of_stages = {name: float(np.median(mean(*own)[~refreshing])) for name, own in columns.items()}
    refresh /= shape.refresh_steps
    return Observed(shape, {**of_stages, "refresh": max(refresh, 0.0)}, plain + max(refresh, 0.0))


# ---- the file ----------------------------------------------------------------------------------


def write(path: Path, some: Sequence[Trial], found: Sequence[Observed]) -> None:
    """A line a run: its shape, whether it is fitted on, milliseconds of its stages and of its step."""
    from jr_dist.atomic import atomic_write

    names = [each.name for each in fields(Shape)]
    lines = [",".join([*names, "use", *(f"{name} ms" for name in (*STAGES, "step"))])]
    for trial, each in zip(some, found, strict=True):
        values = [f"{1e3 * seconds:.3f}" for seconds in (*(each.stages[name] for name in STAGES), each.step)]
        lines.append(",".join([*map(str, astuple(each.shape)), "fit" if trial.fitted else "check", *values]))
    atomic_write(path, "\n".join(lines) + "\n")


def read(path: Path) -> tuple[list[Observed], list[bool]]:
    """The runs, and which of them the model is fitted on."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [
        Observed(
            Shape(**{each.name: int(row[each.name]) for each in fields(Shape)}),
            {name: float(row[f"{name} ms"]) / 1e3 for name in STAGES},
            float(row["step ms"]) / 1e3,
        )
        for row in rows
    ]
    return found, [row["use"] == "fit" for row in rows]


# ---- what it says ------------------------------------------------------------------------------


def fitted(found: Sequence[Observed], used: Sequence[bool]) -> Rates:
    """The rates, by the runs that are for fitting."""
    return fit([each for each, use in zip(found, used, strict=True) if use], HERE)


def checked(found: Sequence[Observed], used: Sequence[bool], rates: Rates) -> list[str]:
    """A Markdown table of all runs, and the errors of those that the model was not fitted on."""
    lines = [
        "| W | N | B | K | S | G, C, D | dense MB | | step, ms | model | error | largest stage error, of the step |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each, use, error in zip(found, used, errors(found, rates, HERE), strict=True):
        shape, seconds = each.shape, stages(each.shape, rates, HERE)
        worst = max(STAGES, key=lambda name: abs(seconds[name] - each.stages[name]))
        share = (seconds[worst] - each.stages[worst]) / each.step
        widths = f"{shape.global_code}, {shape.part_code}, {shape.embedding}" + ", lookahead" * shape.lookahead
        lines.append(
            f"| {shape.workers} | {shape.shards} | {shape.batch} | {shape.candidates} | {shape.sources} | {widths} | "
            f"{shape.dense_bytes / 1e6:.2f} | {'fitted' if use else '**checked**'} | {1e3 * each.step:.0f} | "
            f"{1e3 * step_seconds(shape, rates, HERE):.0f} | {error:+.1%} | {worst} {share:+.1%} |"
        )
    return lines


def summary(found: Sequence[Observed], used: Sequence[bool], rates: Rates) -> list[str]:
    """Errors of the step, fitted and checked."""
    all_errors, lines = np.abs(errors(found, rates, HERE)), []
    for name, use in (("fitted", True), ("checked", False)):
        own = all_errors[np.array(used) == use]
        lines.append(
            f"{name}: {len(own)} runs, error of the step {np.median(own):.1%} in the median, {own.max():.1%} at most"
        )
    return lines


def main() -> None:
    """Measure, or read what was measured; fit and check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, metavar="FILE", help="measure, and write what was measured here")
    source.add_argument("--fit", type=Path, metavar="FILE", help="read what was measured")
    parser.add_argument("--quick", action="store_true", help="few runs of few steps: that it works, not what it takes")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curves and the points (PNG)")
    options = parser.parse_args()
    if options.csv:
        chosen = trials()[1::4] if options.quick else trials()
        write(options.csv, chosen, measure(chosen, num_steps=12 if options.quick else 18))
    found, used = read(options.csv or options.fit)
    rates = fitted(found, used)
    print("rates: " + ", ".join(f"{name} {value:.3g}" for name, value in asdict(rates).items()) + "\n")
    print("\n".join([*checked(found, used, rates), "", *summary(found, used, rates)]))
    if options.picture:
        from step_picture import draw

        draw(options.picture, found, used, rates, HERE)


if __name__ == "__main__":
    main()
