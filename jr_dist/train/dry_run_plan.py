"""The dry run of a training: its counts and bytes, with what it asks a cluster for, holds, writes and takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from jr_dist.cluster import is_own_cluster
from jr_dist.config import Config
from jr_dist.data.dataset import count_rows, open_dataset
from jr_dist.estimates import MB, MEASURED, Measured, step_bytes, step_seconds, validation_seconds
from jr_dist.locations import AnyPath, as_path
from jr_dist.placement import Ask, Node, of_training, on_gpus, threads
from jr_dist.plan import Amounts, Plan
from jr_dist.train.checkpoint import saved_step
from jr_dist.train.dry_run import FLOAT, TrainPlan, plan_training
from jr_dist.train.journal import recorded_step_seconds
from jr_dist.train.loop import LOG_EVERY

LINE_BYTES = 600  # of the log and its TensorBoard, a step that is written


def dry_run(config: Config, start: AnyPath | None, *, verb: str = "train", measured: Measured = MEASURED) -> Plan:
    """What `train` would do with settings that `check` has accepted, going on from `start`."""
    plan = plan_training(config)
    going_on = f", going on from {start}" if start else ""
    workers, shards = config.train.num_workers, config.bank.num_shards
    return Plan(
        verb=verb,
        lines=plan.lines,
        asks=lambda nodes: asks_of(config, plan, nodes),
        memory=training_memory(config, plan, measured),
        disk=training_disk(config, plan),
        seconds=lambda nodes: training_seconds(config, plan, nodes, measured),
        end=(f"would write the run to {config.run.path}{going_on}",),
        subject=f"train.num_workers {workers} and bank.num_shards {shards}",
        remedy="lower one of them, set cluster.num_cpus or train.device, or add nodes",
    )


def asks_of(config: Config, plan: TrainPlan, nodes: Sequence[Node]) -> tuple[Ask, ...]:
    """Of a cluster of these nodes."""
    return of_training(config, gpus=on_gpus(config.train.device, nodes), shard_memory=plan.shard_bytes)


def training_memory(config: Config, plan: TrainPlan, measured: Measured = MEASURED) -> Amounts:
    """Bytes of all processes together, at their peak."""
    networks = 4 * FLOAT * plan.network_parameters  # weights, gradients, two slots
    geometry = 0 if plan.geometry_mapped else plan.geometry_bytes
    step = step_bytes(config, plan.num_sources, measured)
    worker = measured.process_mb * MB + networks + geometry + step
    processes = max(1, plan.num_workers)
    parts = [(f"{processes} process(es) that train", processes * worker), ("the bank", plan.bank_bytes)]
    if plan.in_actors:
        parts.append((f"{plan.num_shards} shard(s)", plan.num_shards * measured.process_mb * MB))
    if plan.num_workers:
        parts.append(("the command", measured.process_mb * MB))
        if is_own_cluster(config.cluster):
            parts.append(("Ray", measured.ray_mb * MB))
            parts.append(("its object store, at most", config.cluster.object_store_mb * 2**20))
    return Amounts(tuple(parts))


def training_disk(config: Config, plan: TrainPlan) -> Amounts:
    """Bytes written; at the moment at which a third checkpoint is."""
    parts = [("checkpoints", 3.0 * plan.checkpoint_bytes), ("log", LINE_BYTES * (plan.num_steps / LOG_EVERY + 1))]
    if plan.geometry_mapped:
        parts.append(("geometry in JR_SCRATCH, on each machine", float(plan.geometry_bytes)))
    return Amounts(tuple(parts))


def training_seconds(config: Config, plan: TrainPlan, nodes: Sequence[Node], measured: Measured = MEASURED) -> Amounts:
    """What is left of the run on a cluster of these nodes, or in this process.

    By the run's own log where it has one of two validations, else by the formulas of `estimates`.
    """
    run = as_path(config.run.path)
    left = max(0, plan.num_steps - saved_step(run))
    asks = asks_of(config, plan, nodes)
    each = threads(nodes, asks) if asks else torch.get_num_threads()
    start = [("start", measured.ray_start_s)] if asks and is_own_cluster(config.cluster) else []
    recorded = recorded_step_seconds(run)
    if recorded is not None:
        return Amounts((*start, (f"{left} steps", left * recorded)), f"the run's own log: {recorded:.3g} s a step")
    dataset = open_dataset(config.data.path)
    num_validation = count_rows(dataset, "val", config.data.categories)
    validation = validation_seconds(config, plan.num_sources, num_validation, measured)
    validations = left * config.train.epochs / plan.num_steps / config.train.validate_every
    step = step_seconds(config, plan.num_sources, measured)
    labels = 1e-6 * measured.label_us * plan.label_pairs * config.labels.num_points
    parts = [
        *start,
        ("labels", labels / max(1, config.labels.num_workers)),
        (f"{left} steps", left * step / each),
        ("validations", validations * validation / each),
    ]
    return Amounts(tuple(parts), f"{each} thread(s) a worker")


def side_by_side(plan: Plan, count: int) -> Plan:
    """The same for so many runs at the same time."""
    return replace(
        plan,
        asks=lambda nodes: tuple(replace(ask, count=count * ask.count) for ask in plan.asks(nodes)),
        memory=Amounts(tuple((name, count * value) for name, value in plan.memory.parts)),
    )
