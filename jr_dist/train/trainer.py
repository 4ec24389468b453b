"""Ray Train around the loop: workers, restarts after failures, one stream of targets a rank."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.exceptions import RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from torch import Tensor

from jr_dist.atomic import NO_ROOM
from jr_dist.bank.actors import running_shards
from jr_dist.bank.layout import BankLayout, largest_shard_bytes
from jr_dist.cluster import connect, is_own_cluster, spilled_bytes
from jr_dist.cluster_room import cluster_nodes, wait_for_room
from jr_dist.config import Config
from jr_dist.data.dataset import Dataset, open_dataset
from jr_dist.data.pictures import picture_settings
from jr_dist.data.source_store import SourceStore, local_source_batches
from jr_dist.data.step_plan import StepPlan, step_plan
from jr_dist.data.streams import TargetBatch, local_target_batches, source_batches, target_batches
from jr_dist.errors import InputError
from jr_dist.locations import AnyPath, StoreAwayError, UriPath, as_path
from jr_dist.log import say
from jr_dist.placement import Ask, of_run, on_gpus, sets_at_once, threads
from jr_dist.stop import StoppedError, asked_to_stop
from jr_dist.storage import resolve
from jr_dist.train.checkpoint import saved_step
from jr_dist.train.checks import check, with_absolute_paths
from jr_dist.train.group import Group
from jr_dist.train.loop import STOPPED, Report, run_training
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.recovery import Failure, after_failure, failure_of
from jr_dist.train.run_directory import (
    LAST,
    check_newest,
    checkpoint_path,
    claim,
    goes_on_from,
    prepare,
    start_point,
)
from jr_dist.train.run_report import Resources, run_report, write_report
from jr_dist.train.state import bank_layout, row_optimiser
from jr_dist.train.stop_signal import passing_on, stop_asked
from jr_dist.train.telemetry import TrainTelemetry
from jr_dist.train.validations import Validations


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves."""

    path: AnyPath
    metrics: dict[str, Any]  # of the last validation


def train(config: Config, *, side_by_side: int = 1, report: Report | None = None) -> TrainResult:
    """Train `config.train.method` on `config.data.path` and leave the run in `config.run.path`.

    With `train.num_workers` 0 the loop runs in this process, without Ray; with W > 0, Ray Train starts W workers, and
    starts them again from the last checkpoint when something dies (`recovery`). `side_by_side` runs share the
    processors. `report` is called with each validation, in this process or, with W > 0, in Ray Train's controller,
    whereto it is sent. SIGTERM saves a checkpoint and raises `StoppedError`. A run report is left in any case. Raises
    `InputError` for wrong settings or data, before anything is started or written.
    """
    config = with_absolute_paths(config)
    check(config)
    start = start_point(config)
    run = prepare(config)
    before = METHODS[config.train.method].before
    if before is not None:
        before(config)
    try:
        if config.train.num_workers == 0:
            with asked_to_stop() as asked, _reporting(config, run):
                metrics = _train_here(config, run, start, asked, report)
        else:
            with connect(config.cluster), asked_to_stop() as asked, _reporting(config, run):
                metrics = _train_on_ray(config, run, start, side_by_side, asked, report)
    except StoreAwayError as error:
        raise InputError(f"run.path {run} was lost sight of: {error}; start it again with run.resume auto") from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise InputError(
            f"run.path {run} has no room for a checkpoint ({error.strerror}); {_what_is_left(saved_step(run))}; make "
            "room and start it again with run.resume auto"
        ) from error
    if (step := metrics.pop(STOPPED, None)) is not None:
        raise StoppedError(
            f"stopped by SIGTERM behind step {step}, whose checkpoint is in {checkpoint_path(run, LAST)}; the same "
            "command goes on from there"
        )
    if metrics.get("uniform_against_uniform"):
        say(
            f"{METHODS[config.train.method].title}: WARNING retrieval learned nothing: P_R and p_fit are both uniform, "
            "so this run is Uniform Sampling; lower retrieval.sigma0 or change retrieval.fit_scale",
            level="warning",
        )
    return TrainResult(run, metrics)


@contextmanager
def _reporting(config: Config, run: AnyPath) -> Iterator[None]:
    """However the block ends, a report of the run is left."""
    workers = config.train.num_workers
    try:
        yield
    finally:
        with suppress(OSError):  # a full disk has its own message
            asks = _asks(config) if workers else ()
            num_gpus = sum(ask.count * ask.gpus for ask in asks) if workers else float(_device(config) == "cuda")
            num_cpus = sum(ask.count * ask.cpus for ask in asks) if workers else 1.0
            resources = Resources(workers, num_gpus, num_cpus, spilled_bytes() if workers else None)
            report = write_report(run_report(run, METHODS[config.train.method].title, resources))
            say(f"run report: {report}", fields={"event": "report", "path": report})


def train_side_by_side(configs: Sequence[Config]) -> list[TrainResult]:
    """Train several runs in one Ray session, each as `train` does; the results in the order given.

    A small run can't keep many processors busy by itself: as many run at the same time as the session has room for,
    processors and GPUs. All settings are checked before the first run starts. Raises what the first run to fail raises.
    """
    configs = [with_absolute_paths(config) for config in configs]
    for config in configs:
        check(config)
    with connect(configs[0].cluster):
        nodes = cluster_nodes()
        room = min(sets_at_once(nodes, _asks(config), len(configs)) for config in configs)
        # Where there is room for none, the first one says so.
        ended = {place: ray.get(result) for place, result in _beside(configs, max(1, room))}
    return [ended[place] for place in range(len(configs))]


def train_each(configs: Sequence[Config], *, at_once: int = 1) -> Iterator[tuple[int, Exception | None]]:
    """Train several runs, `at_once` of them at a time; yields each one's place in `configs` as it ends, and its error.

    An error of one leaves the others alone. More than one at a time share a Ray session, also where train.num_workers
    is 0; a single one is trained in this process as `train` does.
    """
    if at_once == 1 or len(configs) == 1:
        for place, config in enumerate(configs):
            yield place, _outcome(lambda config=config: train(config))
    elif configs:
        with connect(configs[0].cluster):
            for place, result in _beside(configs, at_once):
                yield place, _outcome(lambda result=result: ray.get(result))


def _beside(configs: Sequence[Config], at_once: int) -> Iterator[tuple[int, ray.ObjectRef]]:
    """Each run's place and result as it ends."""
    # Drivers with workers only wait: processors and GPUs belong to those.
    driver = ray.remote(num_cpus=0, max_retries=0)(_train_beside)
    waiting, running = list(range(len(configs))), {}
    while waiting or running:
        while waiting and len(running) < at_once:
            place = waiting.pop(0)
            num_gpus = sum(ask.gpus for ask in _asks(configs[place]) if ask.what == "run")
            running[driver.options(num_gpus=num_gpus).remote(configs[place], at_once)] = place
        [ended], _ = ray.wait(list(running), num_returns=1)
        yield running.pop(ended), ended


def _outcome(work: Callable[[], Any]) -> Exception | None:
    try:
        work()
    except RayTaskError as error:
        return error.cause  # as it was raised there, without Ray's lines around it
    except (InputError, FloatingPointError, RuntimeError, TrainingFailedError, RayError) as error:
        return error
    return None


def _train_beside(config: Config, side_by_side: int) -> TrainResult:
    if config.train.num_workers == 0:
        torch.set_num_threads(threads_of_a_worker(ray.cluster_resources().get("CPU", 1), 1, side_by_side))
    return train(config, side_by_side=side_by_side)


def threads_of_a_worker(num_cpus: float, num_workers: int, side_by_side: int) -> int:
    """Compute threads of each of the workers that share `num_cpus` processors; more would wait for one another."""
    return max(1, int(num_cpus) // (num_workers * side_by_side))


def _train_here(
    config: Config, run: AnyPath, start: AnyPath | None, asked: Event, report: Report | None
) -> dict[str, Any]:
    return run_training(
        config,
        Group(),
        _local,
        start=goes_on_from(run, start),
        report=report or (lambda _: None),
        device=_device(config),
        incarnation=claim(run, "started without Ray"),
        stop=asked.is_set,
    )


def _train_on_ray(
    config: Config, run: AnyPath, start: AnyPath | None, side_by_side: int, asked: Event, report: Report | None
) -> dict[str, Any]:
    """Attempts until one ends well, each a new start of the run from its last checkpoint."""
    title, reason = METHODS[config.train.method].title, "started"
    failures: list[Failure] = []
    _check_capacity(config, side_by_side, asked)
    while True:
        incarnation = claim(run, reason)
        try:
            return _attempt(config, run, start, side_by_side, incarnation, asked, report)
        except (TrainingFailedError, RayError) as error:
            failures.append(failure_of(error, saved_step(run)))
        decision = after_failure(failures)
        reason = f"start {incarnation} failed; {decision.reason}"
        fields = {"event": "failure", "start": incarnation, "go_on": decision.go_on, "step": failures[-1].step}
        say(f"{title}: {reason}", level="warning", fields=fields)
        if not decision.go_on:
            cause = failures[-1].cause
            if failures[-1].kind != "lost":
                raise cause
            raise RuntimeError(
                f"training stopped: {decision.reason}; {_what_is_left(failures[-1].step)}: mend the cause and start it "
                "again with run.resume auto"
            ) from cause
        if asked.wait(decision.seconds):
            raise StoppedError(f"stopped by SIGTERM while it waited; {_what_is_left(failures[-1].step)}")
        check_newest(run, incarnation)  # this start may have failed because another goes on in its place


def _attempt(
    config: Config, run: AnyPath, start: AnyPath | None, side_by_side: int, incarnation: int, asked: Event,
    report: Report | None,
) -> dict[str, Any]:  # fmt: skip
    """One start: the shards where there are several workers or shards, and the workers."""
    settings, asks = config.train, _asks(config)
    *of_shards, workers = asks
    num_threads = threads(cluster_nodes(), asks, side_by_side)
    shards = nullcontext() if not of_shards else running_shards(
        _layout(config), of_shards[0].count, row_optimiser(config),
        num_ranks=settings.num_workers, num_threads=num_threads, incarnation=incarnation, run=str(run),
    )  # fmt: skip
    start, use_gpu = goes_on_from(run, start), workers.gpus > 0
    # Ray Train's notes of its own; it can't be told the query of a URI, nor our timeouts.
    filesystem, root = resolve(str(run)) if isinstance(run, UriPath) else (None, str(run))
    trainer_class = _TrainerWithoutDashboard if is_own_cluster(config.cluster) else TorchTrainer
    with shards as handles, passing_on(asked) as stop:
        trainer = trainer_class(
            _worker,
            train_loop_config={
                "config": config.model_dump(mode="json"),
                "start": None if start is None else str(start),
                "threads": num_threads,
                "shards": handles,
                "incarnation": incarnation,
                "stop": stop,
            },
            scaling_config=ScalingConfig(
                num_workers=settings.num_workers,
                use_gpu=use_gpu,
                resources_per_worker=workers.resources,
                placement_strategy=workers.strategy,
            ),
            # Codes travel in host memory, dense gradients where the weights are.
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
            run_config=RunConfig(
                name=f"start-{incarnation}",
                storage_path=f"{root}/ray",
                storage_filesystem=filesystem,
                callbacks=[] if report is None else [Validations(report)],
                # Whether to start again is decided here: workers and shards begin anew together.
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
            ),
        )
        metrics = trainer.fit().return_value
    assert metrics is not None, "rank 0 returns the last validation"
    return metrics


class _TrainerWithoutDashboard(TorchTrainer):
    """Does without the actor that asks the dashboard whether the controller lives, to clean up after it.

    A cluster of our own has no dashboard and ends with us; there the actor learns nothing, keeps every start and every
    end waiting, 18 s together, and complains of it in a traceback.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [each for each in callbacks if type(each).__name__ != "PlacementGroupCleanerCallback"]


def _what_is_left(step: int) -> str:
    return f"the checkpoint of step {step} is whole" if step else "it had none before"


def _layout(config: Config) -> BankLayout:
    store = SourceStore.open(open_dataset(config.data.path), categories=config.data.categories, num_points=1)
    return bank_layout(config, store.num_parts)


def _asks(config: Config) -> tuple[Ask, ...]:
    """What the run asks the connected cluster for: shards where they are actors, and workers, or a GPU for itself."""
    layout, rule = _layout(config), row_optimiser(config)
    return of_run(
        config,
        gpus=on_gpus(config.train.device, cluster_nodes()),
        shard_memory=largest_shard_bytes(layout, config.bank.num_shards, rule.num_slots),
    )


def _check_capacity(config: Config, side_by_side: int, asked: Event) -> None:
    """What does not fit, shards and workers of all runs, would wait for ever."""
    asks = [replace(ask, count=side_by_side * ask.count) for ask in _asks(config)]
    runs = f"{side_by_side} runs with " if side_by_side > 1 else ""
    wait_for_room(
        config.cluster,
        asks,
        subject=f"{runs}train.num_workers {config.train.num_workers} and bank.num_shards {config.bank.num_shards}",
        remedy="lower one of them, set cluster.num_cpus or train.device, or add nodes",
        stop=asked.is_set,
    )


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What every worker of Ray Train runs."""
    config = Config.model_validate(settings["config"])
    torch.set_num_threads(settings["threads"])
    if "JR_DEBUG" not in os.environ:
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # the driver says in a line what failed
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size())
    start = None if settings["start"] is None else as_path(settings["start"])
    return run_training(
        config,
        group,
        _streamed,
        start=start,
        report=ray.train.report,
        device=str(get_device()),
        clouds=partial(_clouds, config.data.categories),
        shards=settings["shards"],
        incarnation=settings["incarnation"],
        stop=stop_asked(settings["stop"]) if group.rank == 0 else lambda: False,
        watch=TrainTelemetry(config.run.path, METHODS[config.train.method].title, group.rank),
    )


def _streamed(dataset: Dataset, config: Config, group: Group, first_step: int, num_steps: int) -> Iterator[TargetBatch]:
    return target_batches(_step_plan(dataset, config, group), range(first_step, first_step + num_steps))


def _clouds(
    categories: Sequence[str] | None, store: SourceStore, rows: np.ndarray, *, num_points: int, batch_size: int
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Through Ray Data, which reads ahead from the disk; from memory where the database is there already."""
    if not isinstance(store.points, np.memmap):
        return local_source_batches(store, rows, num_points=num_points, batch_size=batch_size)
    return source_batches(store.dataset, categories, rows, num_points=num_points, batch_size=batch_size)


def _local(dataset: Dataset, config: Config, group: Group, first_step: int, num_steps: int) -> Iterator[TargetBatch]:
    return local_target_batches(_step_plan(dataset, config, group), range(first_step, first_step + num_steps))


def _step_plan(dataset: Dataset, config: Config, group: Group) -> StepPlan:
    return step_plan(
        dataset,
        "train",
        config.data.categories,
        batch_size=config.train.batch_size,
        num_points=config.data.num_points,
        encoder_points=config.data.encoder_points,
        seed=config.train.seed,
        rank=group.rank,
        world_size=group.world_size,
        observed=config.data.observed,
        pictures=picture_settings(config.data),
    )


def _device(config: Config) -> str:
    if config.train.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.train.device
