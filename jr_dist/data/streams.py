"""Training targets as a stream of batches: one Ray Data execution for each rank, over all steps that remain.

One row of the stream is the batch of one step, so no batch is short and all ranks have equally many; which targets it
holds is decided by `order` alone. Read tasks take the rows they need from the dataset themselves: nothing goes through
the driver. They ask for no CPU of Ray's (`_READ_CPUS`), because the workers of Ray Train may hold them all: a task that
waits for one would never start. One task a rank runs at a time, a few batches ahead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ray.data
import torch
from ray.data import DataContext
from ray.exceptions import RayTaskError
from torch import Tensor

from jr_dist.data.dataset import Dataset
from jr_dist.data.schema import tensor
from jr_dist.data.step_plan import StepPlan, step_plan
from jr_dist.data.step_source import BLOCK_BYTES, StepSource
from jr_dist.errors import InputError

_READ_CPUS = 0  # the two cores of a small machine belong to the training workers; reading is 1 % of their work


@dataclass(frozen=True)
class TargetBatch:
    """The targets of one step on one rank."""

    step: int
    rows: np.ndarray  # [B] int64, rows of `read_targets(dataset, split, categories)`
    points: Tensor  # [B, N, 3] float32


def target_batches(
    dataset: Dataset,
    split: str,
    categories: Sequence[str] | None,
    *,
    batch_size: int,
    num_points: int,
    encoder_points: int,
    seed: int,
    rank: int,
    world_size: int,
    start_step: int,
    num_steps: int,
    progress: bool = False,
) -> Iterator[TargetBatch]:
    """Batches of the steps start_step .. start_step + num_steps - 1 (counted over all epochs), through Ray Data.

    `num_points` of the stored points are drawn for each step, in random order, so an encoder that takes the first
    `encoder_points` of them sees a fair sample. Closing the iterator ends the execution. `progress` shows Ray Data's
    own bars and messages. Raises `InputError` as `step_plan` does, and for files that are damaged.
    """
    plan = step_plan(
        dataset,
        split,
        categories,
        batch_size=batch_size,
        num_points=num_points,
        encoder_points=encoder_points,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    return _streamed(plan, range(start_step, start_step + num_steps), progress)


def local_target_batches(
    dataset: Dataset,
    split: str,
    categories: Sequence[str] | None,
    *,
    batch_size: int,
    num_points: int,
    encoder_points: int,
    seed: int,
    rank: int,
    world_size: int,
    start_step: int,
    num_steps: int,
) -> Iterator[TargetBatch]:
    """The same batches, bit for bit, made in this process without Ray."""
    plan = step_plan(
        dataset,
        split,
        categories,
        batch_size=batch_size,
        num_points=num_points,
        encoder_points=encoder_points,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    return (_as_batch(step, *plan.batch(step)) for step in range(start_step, start_step + num_steps))


def _streamed(plan: StepPlan, steps: range, progress: bool) -> Iterator[TargetBatch]:
    with DataContext.current(_context(progress)):
        stream = ray.data.read_datasource(
            StepSource(plan, steps), num_cpus=_READ_CPUS, concurrency=1, override_num_blocks=1
        )
        blocks = iter(stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    try:
        for block in blocks:
            # Blocks are read-only memory shared with other processes; a batch is the trainer's own.
            rows, points = tensor(block["rows"]).copy(), tensor(block["points"]).copy()
            for index, step in enumerate(block["step"].to_pylist()):
                yield _as_batch(step, rows[index], points[index])
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    finally:
        del blocks  # ends the execution where the reader stops early


def _context(progress: bool) -> DataContext:
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.target_max_block_size = BLOCK_BYTES
    if not progress:
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that bars are off
    return context


def _as_batch(step: int, rows: np.ndarray, points: np.ndarray) -> TargetBatch:
    return TargetBatch(step, rows, torch.from_numpy(points))
