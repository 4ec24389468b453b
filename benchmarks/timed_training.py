"""Training for some steps, each timed by stage: in this process, or by workers of Ray Train with shards in actors.

For workers.py, step_measure.py and bank_wait.py. Training is as it is: seconds are noted around the answers of the
shards and at the end of each step, and a run is given up behind the last step that is asked for, without validation.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from jr_dist.bank.actors import running_shards
from jr_dist.bank.client import Answer, ShardHandle
from jr_dist.bank.desk import Request
from jr_dist.config import Config
from jr_dist.data.dataset import Dataset, open_dataset
from jr_dist.data.source_store import SourceStore
from jr_dist.data.step_plan import step_plan
from jr_dist.data.streams import TargetBatch, local_target_batches, target_batches
from jr_dist.placement import num_shard_actors
from jr_dist.train.group import Group
from jr_dist.train.loop import run_training
from jr_dist.train.run_directory import claim, prepare
from jr_dist.train.state import TrainState, bank_layout, row_optimiser

#: seconds that a step waits for shards, by what it asked them; embeddings are sent when the cache is refreshed
ASKED = ("propose", "pull", "push", "set_embedding")
#: of a step: when it ended (of `time.monotonic`, one clock for all processes of a machine), the sources that it pulled,
#: and seconds: waiting for its batch, computing, waiting for shards, waiting for the other ranks
COLUMNS = ("ended", "rows", "data", "compute", *ASKED, "exchange")


@dataclass(frozen=True)
class Steps:
    """What one rank noted of its steps."""

    values: np.ndarray  # [steps, COLUMNS] float64

    def __getitem__(self, column: str) -> np.ndarray:
        """[steps]."""
        return self.values[:, COLUMNS.index(column)]

    @property
    def seconds(self) -> np.ndarray:
        """[steps], waits included."""
        return self.values[:, 2:].sum(1)

    def behind(self, step: int) -> Steps:
        """Without the first `step`: they compile kernels, fill caches and wait for processes that start."""
        return Steps(self.values[step:])


def train_here(config: Config, num_steps: int) -> Steps:
    """One thread of this process, without Ray."""
    torch.set_num_threads(1)
    run = prepare(config)
    return _train(config, Group(), num_steps, None, claim(run, "benchmark"), streamed=False)


def train_on_ray(configs: Sequence[Config], num_steps: int, *, actors: bool = False) -> list[list[Steps]]:
    """The configs one after the other in one group of Ray Train's workers, a thread each: of each config, each rank.

    `actors`: shards are actors also where one worker would hold the only one itself. Ray is connected already.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    # Ray Train's own trainer keeps a cluster without a dashboard waiting for 18 s.
    from jr_dist.train.trainer import _TrainerWithoutDashboard

    [num_workers] = {config.train.num_workers for config in configs}
    with ExitStack() as stack:
        trials = []
        for config in configs:
            incarnation = claim(prepare(config), "benchmark")
            store = SourceStore.open(open_dataset(config.data.path), num_points=1)
            in_actors = actors or num_shard_actors(config) > 0
            shards = nullcontext() if not in_actors else running_shards(
                bank_layout(config, store.num_parts), config.bank.num_shards, row_optimiser(config),
                num_ranks=num_workers, num_threads=1, incarnation=incarnation, run=config.run.path,
            )  # fmt: skip
            trials.append((config.model_dump(mode="json"), stack.enter_context(shards), incarnation))
        trainer = _TrainerWithoutDashboard(
            _worker,
            train_loop_config={"trials": trials, "num_steps": num_steps},
            scaling_config=ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": 0.5}),
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(name="ray-train", storage_path=configs[0].run.path),
        )
        measured = trainer.fit().return_value
    assert measured is not None, "rank 0 returns what was measured"
    return [[Steps(np.array(of_rank)) for of_rank in of_trial] for of_trial in measured]


def _worker(settings: dict[str, Any]) -> list[list[list[list[float]]]]:
    """What each worker runs: the trials in turn; what all ranks noted."""
    import ray.train

    torch.set_num_threads(1)
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size())
    results = []
    for tree, shards, incarnation in settings["trials"]:
        steps = _train(Config.model_validate(tree), group, settings["num_steps"], shards, incarnation, streamed=True)
        results.append([of_rank.tolist() for (of_rank,) in group.gather([steps.values])])
    return results


def _train(
    config: Config, group: Group, num_steps: int, shards: list[ShardHandle] | None, incarnation: int, *, streamed: bool
) -> Steps:
    recorder = _Recorder(num_steps)
    timed = None if shards is None else [_TimedShard(shard, recorder.waited) for shard in shards]
    with ExitStack() as stack:

        def batches(dataset: Dataset, config: Config, group: Group, first: int, count: int) -> Iterator[TargetBatch]:
            plan = step_plan(
                dataset, "train", None, batch_size=config.train.batch_size, num_points=config.data.num_points,
                encoder_points=config.data.encoder_points, seed=0, rank=group.rank, world_size=group.world_size,
            )  # fmt: skip
            read = target_batches if streamed else local_target_batches
            return stack.enter_context(closing(_each(read(plan, range(first, first + count)))))

        try:
            run_training(
                config, group, batches, start=None, report=lambda _: None, shards=timed, incarnation=incarnation,
                watch=recorder,
            )  # fmt: skip
        except _EnoughError:
            return Steps(np.array(recorder.noted))
    raise AssertionError(f"the run has fewer than {num_steps} steps")


def _each(stream: Iterator[TargetBatch]) -> Generator[TargetBatch]:
    """The stream, which ends where this is closed: a run that is given up has not read it to its end."""
    yield from stream


class _EnoughError(Exception):
    """All steps that are asked for are noted."""


@dataclass
class _Recorder:
    """A `Watch` that notes steps."""

    num_steps: int
    waited: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ASKED, 0.0))
    noted: list[list[float]] = field(default_factory=list)
    _before: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*ASKED, "rows"), 0.0))

    def step(self, state: TrainState, logged: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        now = {**self.waited, "rows": float(state.bank.rows_pulled)}
        since = {name: value - self._before[name] for name, value in now.items()}
        self._before = now
        values = {
            "ended": time.monotonic(),
            **since,
            **{name: seconds[name] for name in ("data", "compute", "exchange")},
        }
        self.noted.append([values[name] for name in COLUMNS])
        if len(self.noted) == self.num_steps:
            raise _EnoughError

    def validation(self, state: TrainState) -> None:
        raise AssertionError("a run is given up before it validates")


@dataclass(frozen=True)
class _TimedShard:
    """A shard whose answers note how long they were waited for."""

    shard: ShardHandle
    waited: dict[str, float]

    def send(self, request: Request) -> Answer:
        """Hand the request over."""
        return _TimedAnswer(self.shard.send(request), request.work, self.waited)


@dataclass(frozen=True)
class _TimedAnswer:
    answer: Answer
    work: str
    waited: dict[str, float]

    def result(self) -> Any:
        """Waits, and notes it."""
        start = time.perf_counter()
        try:
            return self.answer.result()
        finally:
            # what is asked before the first step (whether a shard sees the run's directory) is of no step
            if self.work in self.waited:
                self.waited[self.work] += time.perf_counter() - start
