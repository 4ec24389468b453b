"""The training loop of one rank: steps, validation, checkpoints. Ray is not needed to run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from jr_dist.bank.client import ShardHandle
from jr_dist.config import Config
from jr_dist.data.dataset import Dataset, count_rows, open_dataset, read_targets
from jr_dist.data.nearest_source import nearest_by_chamfer
from jr_dist.data.pictures import open_pictures, picture_settings
from jr_dist.data.source_store import SourceStore, local_source_batches
from jr_dist.errors import InputError
from jr_dist.locations import AnyPath, UriPath, as_path, check_access
from jr_dist.log import say
from jr_dist.train.candidates import begin_draw
from jr_dist.train.checkpoint import load_checkpoint, restore, save_checkpoint
from jr_dist.train.encoder_weights import start_encoders
from jr_dist.train.group import Group
from jr_dist.train.journal import Journal
from jr_dist.train.methods.plan import StepPlan
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.run_directory import (
    BEST,
    LAST,
    STARTS,
    has_checkpoint,
    keep_metrics_until,
    start_note,
    write_settings,
)
from jr_dist.train.schedule import Schedule, make_schedule
from jr_dist.train.stages import StageClock
from jr_dist.train.state import CloudSource, TrainState, new_state
from jr_dist.train.teacher import take_over
from jr_dist.train.validate import ValidationTargets, validate, validation_targets

if TYPE_CHECKING:  # the stream imports Ray; the loop does not need it
    from jr_dist.data.streams import TargetBatch

LOG_EVERY = 10
#: distributions spread over more than this share of what they could be spread over say nothing
FLAT_SHARE = 0.95

# (dataset, config, group, first step, number of steps) -> one batch a step, in order
BatchSource = Callable[[Dataset, Config, Group, int, int], "Iterator[TargetBatch]"]
# metrics of a validation and the steps done, called by every rank equally often
Report = Callable[[dict[str, Any]], None]
#: in what `run_training` returns, the step at which it was asked to stop
STOPPED = "stopped_at_step"


class Watch(Protocol):
    """Somebody who looks on while a rank trains."""

    def step(self, state: TrainState, logged: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """A step is done: what it logged and its seconds by stage."""
        ...

    def validation(self, state: TrainState) -> None:
        """A validation is done; `state.validation` holds it."""
        ...


def run_training(
    config: Config,
    group: Group,
    batches: BatchSource,
    *,
    start: AnyPath | None,
    report: Report,
    device: str = "cpu",
    clouds: CloudSource = local_source_batches,
    shards: Sequence[ShardHandle] | None = None,
    incarnation: int = 0,
    stop: Callable[[], bool] = lambda: False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train from scratch or from the checkpoint `start`, to the end; returns the last validation's metrics.

    Every rank runs it. Rank 0 and the shards write. `incarnation` is this start's number (`claim`). Where `stop` says
    so on any rank, the state is saved behind the step under way, and the metrics name it as `STOPPED`. Raises
    `InputError` where a machine does not see `run.path`, and as `restore` and `save_checkpoint` do.
    """
    began, times = time.monotonic(), StageClock()
    with times.stage("start"):
        dataset = open_dataset(config.data.path)
        store = SourceStore.open(dataset, categories=config.data.categories)
        state = new_state(config, store, group, device, shards=shards, incarnation=incarnation, clouds=clouds)
        num_targets = count_rows(dataset, "train", config.data.categories)
        schedule = make_schedule(config.train, num_targets, group.world_size)
        run = as_path(config.run.path)
        _check_shared(state, run)
        _go_on(state, run, start, dataset)
        shown, nearest = _to_validate(state, dataset)
    journal = _journal(run, schedule, state, began) if group.rank == 0 else nullcontext()
    effective: list[tuple[float, float]] = []  # of P_R and p_fit, in the steps of soft retrieval since a validation
    ahead, stopped = config.bank.lookahead, False
    read = batches(dataset, config, group, state.step, schedule.num_steps - state.step + ahead)
    stream = times.waited_for(batch.on(state.device) for batch in read)
    with journal as log:
        for batch, following in pairwise(stream) if ahead else zip(stream, repeat(None)):
            assert batch.step == state.step, (batch.step, state.step)
            with times.computing(state):
                logged = _one_step(state, schedule, batch, following)
                stopped = group.any(stop())
            if log is not None:
                log.step(state.step, logged | times.shown(), rate=schedule.rate(state.step), every=LOG_EVERY)
            if watch is not None:
                watch.step(state, logged, times.step)
            times.next_step()
            if "effective_fit" in logged and not schedule.is_warm_up(state.step):
                effective.append((logged["effective_candidates"], logged["effective_fit"]))
            step, state.step = state.step, state.step + 1
            validates = schedule.ends_period(step, config.train.validate_every)
            names = []
            if validates:
                with times.stage("validation"):
                    # `best` first: should `last` alone have moved when the process dies, this best would be forgotten.
                    names += [BEST] if _validate(state, shown, nearest, effective) else []
                effective.clear()
                if log is not None:
                    log.validation(step, state.validation, times.total)
            if stopped or schedule.ends_period(step, config.train.checkpoint_every):
                names.append(LAST)
            if names:
                with times.stage("checkpoint"):
                    if log is not None:
                        log.publish()
                    save_checkpoint(run, names, state, dataset_hash=dataset.hash)
            if validates:
                if watch is not None:
                    watch.validation(state)
                report({"step": state.step, **state.validation})
            if stopped:
                break
        if log is not None:
            log.end(state.step - 1, times.total)
    if stopped:
        return state.validation | {STOPPED: state.step}
    assert state.step == schedule.num_steps, f"stream ended at step {state.step} of {schedule.num_steps}"
    return state.validation


def _to_validate(state: TrainState, dataset: Dataset) -> tuple[ValidationTargets, np.ndarray | None]:
    """The targets of validations; of a method without retrieval also the source of each, as R+DF will choose it."""
    config = state.config
    table = read_targets(dataset, "val", config.data.categories)
    how = picture_settings(config.data)
    pictures = None if how is None else open_pictures(dataset, "val", config.data.categories, how)
    shown = validation_targets(table, config.data, pictures)
    method = METHODS[config.train.method]
    if method.prepare is not None:
        method.prepare(state, dataset)
    if method.trains_retrieval:
        return shown, None
    whole = torch.from_numpy(table.points[:, : config.data.num_points].copy())
    return shown, nearest_by_chamfer(state.store, whole, config.data.num_points)


def _one_step(
    state: TrainState, schedule: Schedule, batch: TargetBatch, following: TargetBatch | None
) -> dict[str, Any]:
    draw = state.upcoming or begin_draw(state, batch, soft=_plan(state, schedule, batch.step).soft)
    # Asked for before this step's gradients are pushed: by the codes that this step starts from, whoever is quicker.
    state.upcoming = None
    if following is not None:
        state.upcoming = begin_draw(state, following, soft=_plan(state, schedule, following.step).soft)
    step = METHODS[state.config.train.method].step
    return step(state, batch, _plan(state, schedule, batch.step), schedule.rate(batch.step), draw)


def _plan(state: TrainState, schedule: Schedule, step: int) -> StepPlan:
    settings = state.config.train
    return METHODS[settings.method].plan(step, schedule.is_warm_up(step), settings.alternate)


def _validate(
    state: TrainState, targets: ValidationTargets, nearest: np.ndarray | None, effective: list[tuple[float, float]]
) -> bool:
    """Note what a validation gives; whether it is the best so far."""
    result = validate(state, targets, nearest)
    improved = result.chamfer < state.best_validation
    state.best_validation = min(result.chamfer, state.best_validation)
    state.validation = {
        "chamfer_x100": result.chamfer * 100,
        "best_validation_x100": state.best_validation * 100,
        "distinct": result.distinct,
        "n": result.num_targets,
        "uniform_against_uniform": is_flat(state, effective),
    }
    return improved


def is_flat(state: TrainState, effective: list[tuple[float, float]]) -> bool:
    """Whether soft retrieval and the fit's distribution are both uniform: Ours then silently is Uniform Sampling.

    `effective`: exp(entropy) of P_R over all sources and of p_fit over the K candidates, of some steps.
    """
    if not effective or not METHODS[state.config.train.method].plan(0, False, False).soft:
        return False
    of_all, of_k = (sum(column) / len(effective) for column in zip(*effective, strict=True))
    flat_retrieval = of_all > FLAT_SHARE * len(state.store.ids)
    return flat_retrieval and of_k > FLAT_SHARE * state.config.retrieval.num_candidates


def _go_on(state: TrainState, run: AnyPath, start: AnyPath | None, dataset: Dataset) -> None:
    if METHODS[state.config.train.method].teacher is not None:
        state.networks.keep_deformation()
    if start is not None:
        restore(state, load_checkpoint(start), dataset_hash=dataset.hash)
    else:
        start_encoders(state.config, state.networks)
        if METHODS[state.config.train.method].teacher is not None:
            take_over(state, dataset_hash=dataset.hash)
    # What rank 0 sees holds for all: a shared file system may be a moment behind elsewhere.
    [seen] = state.group.gather([np.array([has_checkpoint(run, BEST)])])[0]
    if not seen[0]:
        state.best_validation = float("inf")  # another run's best is not among this run's checkpoints
    if state.group.rank == 0:
        write_settings(state.config)
        keep_metrics_until(run, state.step - 1)
        if start is not None:
            title, fields = METHODS[state.config.train.method].title, {"event": "resumed", "step": state.step}
            say(f"{title} resumed at step {state.step} from {start}", fields=fields)


def _check_shared(state: TrainState, run: AnyPath) -> None:
    """Raise `InputError` where a worker or a shard runs on a machine that does not see the run, or may not write it."""
    note = start_note(run, state.incarnation)
    if isinstance(run, UriPath):
        check_access(run / STARTS, "run.path")
    if not note.is_file() or (state.group.rank == 0 and not state.bank.all_see(note)):
        raise InputError(
            f"run.path {run} is not the same directory on all machines: a worker or a shard does not see {note.name} "
            "there; allowed is a file system that all nodes share, or a URI; name a directory of one"
        )


def _journal(run: AnyPath, schedule: Schedule, state: TrainState, began: float) -> Journal:
    title = METHODS[state.config.train.method].title
    return Journal(run, schedule.num_steps, state.step, title=title, start=state.incarnation, began=began)
