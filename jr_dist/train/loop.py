"""The training loop of one rank: steps, validation, checkpoints. Ray is not needed to run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jr_dist.config import Config
from jr_dist.data.dataset import Dataset, count_rows, open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.train.candidates import embedding_age, refresh_embeddings
from jr_dist.train.checkpoint import load_checkpoint, restore, save_checkpoint
from jr_dist.train.group import Group
from jr_dist.train.journal import Journal
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.run_directory import BEST, LAST, checkpoint_path, has_checkpoint, keep_metrics_until
from jr_dist.train.schedule import Schedule, make_schedule
from jr_dist.train.state import TrainState, new_state
from jr_dist.train.step import joint_step
from jr_dist.train.validate import nearest_undeformed, validate

if TYPE_CHECKING:  # the stream imports Ray; the loop does not need it
    from jr_dist.data.streams import TargetBatch

LOG_EVERY = 10
#: distributions spread over more than this share of what they could be spread over say nothing
FLAT_SHARE = 0.95

# (dataset, config, group, first step, number of steps) -> one batch a step, in order
BatchSource = Callable[[Dataset, Config, Group, int, int], "Iterator[TargetBatch]"]
# metrics of a validation, called by every rank equally often
Report = Callable[[dict[str, Any]], None]


def run_training(
    config: Config,
    group: Group,
    batches: BatchSource,
    *,
    start: Path | None,
    report: Report,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train from scratch or from the checkpoint `start`, to the end; returns the last validation's metrics.

    Every rank runs it. Only rank 0 writes. After a failure the group starts again from the run's last checkpoint,
    which is why `run.path` is looked at before `start`.
    """
    dataset = open_dataset(config.data.path)
    store = SourceStore.open(dataset, categories=config.data.categories)
    state = new_state(config, store, group, device)
    num_targets = count_rows(dataset, "train", config.data.categories)
    schedule = make_schedule(config.train, num_targets, group.world_size)
    run = Path(config.run.path)
    _go_on(state, run, start, dataset)
    if state.step == 0:
        refresh_embeddings(state)

    validation_points = _validation_points(dataset, config)
    nearest = None if METHODS[config.train.method].trains_retrieval else nearest_undeformed(state, validation_points)
    journal = _journal(run, schedule, state) if group.rank == 0 else nullcontext()
    effective: list[tuple[float, float]] = []  # of P_R and p_fit, in the steps of soft retrieval since a validation
    with journal as log:
        for batch in batches(dataset, config, group, state.step, schedule.num_steps - state.step):
            assert batch.step == state.step, (batch.step, state.step)
            logged = _one_step(state, schedule, batch)
            if log is not None:
                log.step(state.step, logged, rate=schedule.rate(state.step), every=LOG_EVERY)
            if "effective_fit" in logged and not schedule.is_warm_up(state.step):
                effective.append((logged["effective_candidates"], logged["effective_fit"]))
            step, state.step = state.step, state.step + 1
            if schedule.ends_period(step, config.train.validate_every):
                _validate_and_keep(state, validation_points, nearest, run, dataset, effective)
                effective.clear()
                if log is not None:
                    log.validation(step, state.validation)
                report(state.validation)
            if schedule.ends_period(step, config.train.checkpoint_every):
                group.average_buffers(state.networks)  # what is saved is what every rank goes on with
                if group.rank == 0:
                    save_checkpoint(checkpoint_path(run, LAST), state, dataset_hash=dataset.hash)
    assert state.step == schedule.num_steps, f"stream ended at step {state.step} of {schedule.num_steps}"
    return state.validation


def _one_step(state: TrainState, schedule: Schedule, batch: TargetBatch) -> dict[str, Any]:
    plan = METHODS[state.config.train.method].plan(
        state.step, schedule.is_warm_up(state.step), state.config.train.alternate
    )
    if plan.soft and embedding_age(state) >= state.config.retrieval.refresh_steps:
        refresh_embeddings(state)
    return joint_step(state, batch, plan, schedule.rate(state.step))


def _validate_and_keep(
    state: TrainState,
    points: torch.Tensor,
    nearest: np.ndarray | None,
    run: Path,
    dataset: Dataset,
    effective: list[tuple[float, float]],
) -> None:
    result = validate(state, points, nearest)
    improved = result.chamfer < state.best_validation
    state.best_validation = min(result.chamfer, state.best_validation)
    state.validation = {
        "chamfer_x100": result.chamfer * 100,
        "best_validation_x100": state.best_validation * 100,
        "distinct": result.distinct,
        "n": result.num_targets,
        "uniform_against_uniform": is_flat(state, effective),
    }
    if improved and state.group.rank == 0:
        save_checkpoint(checkpoint_path(run, BEST), state, dataset_hash=dataset.hash)


def is_flat(state: TrainState, effective: list[tuple[float, float]]) -> bool:
    """Whether soft retrieval and the fit's distribution are both uniform: Ours then silently is Uniform Sampling.

    `effective`: exp(entropy) of P_R over all sources and of p_fit over the K candidates, of some steps.
    """
    if not effective or METHODS[state.config.train.method].name != "ours":
        return False
    of_all, of_k = (sum(column) / len(effective) for column in zip(*effective, strict=True))
    flat_retrieval = of_all > FLAT_SHARE * len(state.store.ids)
    return flat_retrieval and of_k > FLAT_SHARE * state.config.retrieval.num_candidates


def _go_on(state: TrainState, run: Path, start: Path | None, dataset: Dataset) -> None:
    path = checkpoint_path(run, LAST) if has_checkpoint(run) else start
    if path is None:
        return
    restore(state, load_checkpoint(path), dataset_hash=dataset.hash)
    if not has_checkpoint(run, BEST):
        state.best_validation = float("inf")  # another run's best is not among this run's checkpoints
    if state.group.rank == 0:
        keep_metrics_until(run, state.step - 1)
        print(f"{METHODS[state.config.train.method].title} resumed at step {state.step} from {path}", flush=True)


def _journal(run: Path, schedule: Schedule, state: TrainState) -> Journal:
    title = METHODS[state.config.train.method].title
    return Journal(run, schedule.num_steps, state.step, title=title)


def _validation_points(dataset: Dataset, config: Config) -> torch.Tensor:
    table = read_targets(dataset, "val", config.data.categories)
    return torch.from_numpy(table.points[:, : config.data.num_points].copy())
