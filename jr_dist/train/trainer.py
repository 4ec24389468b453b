"""Ray Train around the loop: workers, restarts after failures, one stream of targets a rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from jr_dist.cluster import connect
from jr_dist.config import Config
from jr_dist.data.dataset import Dataset, count_rows, open_dataset, require_rows
from jr_dist.data.source_store import SourceStore
from jr_dist.data.step_plan import StepPlan, step_plan
from jr_dist.data.streams import TargetBatch, local_target_batches, target_batches
from jr_dist.errors import InputError
from jr_dist.train.checkpoint import check_same_run, read_manifest
from jr_dist.train.group import Group
from jr_dist.train.loop import run_training
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.run_directory import LAST, checkpoint_path, prepare, start_point
from jr_dist.train.schedule import Schedule, make_schedule
from jr_dist.train.state import new_state

MAX_FAILURES = 3


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves."""

    path: Path
    metrics: dict[str, Any]  # of the last validation


def train(config: Config, *, side_by_side: int = 1) -> TrainResult:
    """Train `config.train.method` on `config.data.path` and leave the run in `config.run.path`.

    With `train.num_workers` 0 the loop runs in this process, without Ray; with W > 0, Ray Train starts W workers and
    starts them again from the last checkpoint when one dies. `side_by_side` runs share the processors. Raises
    `InputError` for wrong settings or data, before anything is started or written.
    """
    config = with_absolute_paths(config)
    check(config)
    start = start_point(config)
    run = prepare(config)
    if config.train.num_workers == 0:
        device = _device(config)
        metrics = run_training(config, Group(), _local, start=start, report=lambda _: None, device=device)
    else:
        with connect(config.cluster):
            metrics = _train_on_ray(config, run, start, side_by_side)
    if metrics.get("uniform_against_uniform"):
        print(
            f"{METHODS[config.train.method].title}: WARNING retrieval learned nothing: P_R and p_fit are both uniform, "
            "so this run is Uniform Sampling; lower retrieval.sigma0 or change retrieval.fit_scale",
            flush=True,
        )
    return TrainResult(run, metrics)


def train_side_by_side(configs: Sequence[Config]) -> list[TrainResult]:
    """Train several runs at the same time in one Ray session, each as `train` does; the results in the order given.

    A small run can't keep many processors busy by itself. All settings are checked before the first run starts. Raises
    what the first run to fail raises.
    """
    configs = [with_absolute_paths(config) for config in configs]
    for config in configs:
        check(config)
    with connect(configs[0].cluster):
        # The drivers only wait; the processors belong to their workers.
        driver = ray.remote(num_cpus=0, max_retries=0)(_train_beside)
        return ray.get([driver.remote(config, len(configs)) for config in configs])


def _train_beside(config: Config, side_by_side: int) -> TrainResult:
    return train(config, side_by_side=side_by_side)


def with_absolute_paths(config: Config) -> Config:
    """The same settings whatever folder a worker stands in, or whoever opens the run later. URIs stay as they are."""

    def absolute(path: str) -> str:
        return path if "://" in path else str(Path(path).absolute())

    resume = config.run.resume
    run = {"path": absolute(config.run.path), "resume": resume if resume in ("auto", "never") else absolute(resume)}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"path": absolute(config.data.path)}),
            "run": config.run.model_copy(update=run),
        }
    )


def check(config: Config) -> None:
    """Raise `InputError` for what can be known wrong before anything starts: data, K, batch size."""
    if config.train.device == "cuda" and config.train.num_workers == 0 and not torch.cuda.is_available():
        raise InputError(
            "train.device is cuda, but this machine has no CUDA device; allowed is auto or cpu; set one of them, or "
            "train.num_workers to run on a cluster that has one"
        )
    dataset = open_dataset(config.data.path)
    stored = dataset.num_points
    if config.data.num_points > stored:
        raise InputError(
            f"data.num_points is {config.data.num_points}, but {config.data.path} stores {stored} points a shape; "
            f"allowed is at most {stored}; lower it or make the dataset with --num-points {config.data.num_points}"
        )
    require_rows(dataset, "val", config.data.categories)
    num_targets = count_rows(dataset, "train", config.data.categories)
    schedule = make_schedule(config.train, num_targets, max(config.train.num_workers, 1))
    state = new_state(config, SourceStore.open(dataset, categories=config.data.categories), Group())
    start = start_point(config)
    if start is not None:
        manifest = read_manifest(start)
        check_same_run(manifest, config, list(state.store.ids), dataset.hash, start)
        check_steps_left(manifest["step"], schedule, start, goes_on=start == checkpoint_path(config.run.path, LAST))


def check_steps_left(step: int, schedule: Schedule, start: Path, *, goes_on: bool) -> None:
    """Raise `InputError` where a checkpoint is behind the end of the run. A run may be started again at its own end."""
    if step > schedule.num_steps or (step == schedule.num_steps and not goes_on):
        raise InputError(
            f"checkpoint {start} is at step {step}, train.epochs {schedule.epochs} end at step {schedule.num_steps}; "
            "allowed is a later end; raise train.epochs"
        )


def threads_of_a_worker(num_cpus: float, num_workers: int, side_by_side: int) -> int:
    """Compute threads of each of the workers that share `num_cpus` processors; more would wait for one another."""
    return max(1, int(num_cpus) // (num_workers * side_by_side))


def _train_on_ray(config: Config, run: Path, start: Path | None, side_by_side: int) -> dict[str, Any]:
    use_gpu = config.train.device == "cuda" or (config.train.device == "auto" and _cluster_has_gpus())
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "start": None if start is None else str(start),
            "threads": threads_of_a_worker(
                ray.cluster_resources().get("CPU", 1), config.train.num_workers, side_by_side
            ),
        },
        # Half a processor each leaves room for the streams' tasks on a machine of two.
        scaling_config=ScalingConfig(
            num_workers=config.train.num_workers, use_gpu=use_gpu, resources_per_worker=_resources(use_gpu)
        ),
        # Codes travel between ranks in host memory, dense gradients where the weights are.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
        run_config=RunConfig(
            name="ray-train",
            storage_path=str(run),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    metrics = trainer.fit().return_value
    assert metrics is not None, "rank 0 returns the last validation"
    return metrics


def _resources(use_gpu: bool) -> dict[str, float]:
    return {"CPU": 0.5, "GPU": 1} if use_gpu else {"CPU": 0.5}


def _cluster_has_gpus() -> bool:
    return ray.cluster_resources().get("GPU", 0) > 0


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What every worker of Ray Train runs."""
    config = Config.model_validate(settings["config"])
    torch.set_num_threads(settings["threads"])
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size())
    start = None if settings["start"] is None else Path(settings["start"])
    return run_training(
        config,
        group,
        _streamed,
        start=start,
        report=ray.train.report,
        device=str(get_device()),
    )


def _streamed(dataset: Dataset, config: Config, group: Group, first_step: int, num_steps: int) -> Iterator[TargetBatch]:
    return target_batches(_step_plan(dataset, config, group), range(first_step, first_step + num_steps))


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
    )


def _device(config: Config) -> str:
    if config.train.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.train.device
