"""How much of a training step waits for the bank (for bank.py).

A group of Ray Train's workers trains `ours` several times, with and without lookahead in turn. What a run waits is
noted around the answers of its shards, the time of a step at the stream of its targets; training itself is as it is.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import Record, random_boxes, sample
from step import random_source

from jr_dist.bank.actors import running_shards
from jr_dist.bank.client import Answer, ShardHandle
from jr_dist.bank.desk import Request
from jr_dist.config import Config, load_config
from jr_dist.data.dataset import Dataset, open_dataset, write_dataset
from jr_dist.data.records import TargetShape
from jr_dist.data.source_store import SourceStore
from jr_dist.data.step_plan import step_plan
from jr_dist.data.streams import TargetBatch, local_target_batches
from jr_dist.train.group import Group
from jr_dist.train.loop import run_training
from jr_dist.train.run_directory import claim, prepare
from jr_dist.train.state import bank_layout, row_optimiser

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
NUM_TARGETS = 64
SKIPPED_STEPS = 10  # they compile kernels and fill caches


@dataclass
class Waits:
    """Seconds waited for shards so far."""

    seconds: float = 0.0


@dataclass(frozen=True)
class TimedShard:
    """A shard whose answers note how long they were waited for."""

    shard: ShardHandle
    waits: Waits

    def send(self, request: Request) -> Answer:
        """Hand the request over."""
        return TimedAnswer(self.shard.send(request), self.waits)


@dataclass(frozen=True)
class TimedAnswer:
    """What becomes of a request."""

    answer: Answer
    waits: Waits

    def result(self) -> Any:
        """Waits, and notes it."""
        start = time.perf_counter()
        try:
            return self.answer.result()
        finally:
            self.waits.seconds += time.perf_counter() - start


def wait_share(quick: bool) -> list[Record]:
    """Training of `ours`, from P_R throughout, with settings of the quickstart."""
    num_steps, rounds = (32, 1) if quick else (80, 2)
    records = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_boxes(folder / "dataset", num_sources=256, num_targets=NUM_TARGETS)
        for workers in (2, 1):
            configs = [
                _training(folder, f"{workers}-{number}-{lookahead}", workers, lookahead, num_steps)
                for number in range(rounds)
                for lookahead in (0, 1)
            ]
            measured = _train_all(configs)
            shares = [median(share for share, _ in measured[lookahead::2]) for lookahead in (0, 1)]
            steps = [median(seconds for _, seconds in measured[lookahead::2]) for lookahead in (0, 1)]
            of = "" if workers == 2 else ".1_worker"
            records += [
                Record(f"bank.wait_share{of}", shares[1], "", "no lookahead", shares[0] / max(shares[1], 1e-9)),
                Record(f"bank.wait_share{of}.no_lookahead", shares[0], ""),
                Record(f"bank.train_step{of}", steps[1] * 1e3, "ms", "no lookahead", steps[0] / steps[1]),
            ]
    return records


def _write_boxes(path: Path, *, num_sources: int, num_targets: int) -> None:
    def target(number: int) -> TargetShape:
        rng = np.random.default_rng([1, number])
        points, part_index = sample(random_boxes(rng), 2048, rng)
        return TargetShape(f"target-{number:03}", "boxes", points, part_index.astype(np.int16), np.eye(4))

    splits = {"train": map(target, range(num_targets)), "val": map(target, range(num_targets, num_targets + 4))}
    write_dataset(path, map(random_source, range(num_sources)), splits, how={"made_by": "benchmarks/bank.py"})


def _training(folder: Path, name: str, workers: int, lookahead: int, num_steps: int) -> Config:
    epochs = num_steps * workers * 16 // NUM_TARGETS
    settings = {
        "data.path": str(folder / "dataset"),
        "run.path": str(folder / name),
        "train.num_workers": workers,
        "train.epochs": epochs,
        "train.warmup_epochs": 0,
        "train.validate_every": epochs,
        "train.checkpoint_every": epochs,
        "bank.num_shards": 2,
        "bank.block_size": 32,
        "bank.lookahead": lookahead,
    }
    return load_config(QUICKSTART, settings)


def _train_all(configs: list[Config]) -> list[tuple[float, float]]:
    """(share of the time that waits for the bank, seconds a step) of each run, one after the other in one group."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    settings, store = configs[0], SourceStore.open(open_dataset(configs[0].data.path), num_points=1)
    with ExitStack() as stack:
        trials = []
        for config in configs:
            run = prepare(config)
            shards = running_shards(
                bank_layout(config, store.num_parts), config.bank.num_shards, row_optimiser(config),
                num_ranks=config.train.num_workers, num_threads=1, incarnation=claim(run, "benchmark"), run=str(run),
            )  # fmt: skip
            trials.append((config.model_dump(mode="json"), stack.enter_context(shards)))
        trainer = TorchTrainer(
            train_and_measure,
            train_loop_config={"trials": trials},
            scaling_config=ScalingConfig(num_workers=settings.train.num_workers, resources_per_worker={"CPU": 0.5}),
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(name="ray-train", storage_path=settings.run.path),
        )
        measured = trainer.fit().return_value
    assert measured is not None, "rank 0 returns what was measured"
    return [tuple(pair) for pair in measured]


def train_and_measure(settings: dict[str, Any]) -> list[list[float]]:
    """What each worker runs: the trials, and the mean over the workers of what they took."""
    import ray.train

    torch.set_num_threads(1)
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size())
    results = []
    for tree, shards in settings["trials"]:
        own = np.array(_one_training(Config.model_validate(tree), group, shards))
        results.append(np.mean([of_rank for (of_rank,) in group.gather([own])], axis=0).tolist())
    return results


def _one_training(config: Config, group: Group, shards: list[ShardHandle]) -> tuple[float, float]:
    waits, marks = Waits(), []

    def batches(dataset: Dataset, config: Config, group: Group, first: int, count: int) -> Iterator[TargetBatch]:
        plan = step_plan(
            dataset, "train", None, batch_size=config.train.batch_size, num_points=config.data.num_points,
            encoder_points=config.data.encoder_points, seed=0, rank=group.rank, world_size=group.world_size,
        )  # fmt: skip
        for batch in local_target_batches(plan, range(first, first + count)):
            marks.append((time.perf_counter(), waits.seconds))
            yield batch

    timed = [TimedShard(shard, waits) for shard in shards]
    run_training(config, group, batches, start=None, report=lambda _: None, shards=timed, incarnation=1)
    (start, before), (end, after) = marks[SKIPPED_STEPS], marks[-1]
    return (after - before) / (end - start), (end - start) / (len(marks) - 1 - SKIPPED_STEPS)
