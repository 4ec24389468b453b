"""Training targets as a stream of batches: one Ray Data execution for each rank, over all steps that remain.

One row of the stream is the batch of one step, so no batch is short and all ranks have equally many; which targets it
holds is decided by `order` alone. Read tasks take the rows they need from the dataset themselves: nothing goes through
the driver. They ask for no CPU of Ray's (`_READ_CPUS`), because the workers of Ray Train may hold them all: a task that
waits for one would never start. One task a rank runs at a time, a few batches ahead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data import DataContext, Datasource, ReadTask
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.exceptions import RayTaskError
from torch import Tensor

from jr_dist.data.schema import tensor
from jr_dist.data.step_plan import StepPlan, blocks_of
from jr_dist.errors import InputError

_READ_CPUS = 0  # the two cores of a small machine belong to the training workers; reading is 1 % of their work
_NAP_SECONDS = 0.05  # far below what a stream is ahead
_BLOCK_BYTES = 1 << 20  # small blocks, so that the first batch comes soon and few are made in advance
_AHEAD_BYTES = 16 << 20  # what a stream may hold of the object store, which the bank's messages share
_AHEAD_STEPS = 4  # at least, where steps are large
_BLOCKS_PER_TASK = 64  # starting a task costs as much as some blocks


@dataclass(frozen=True)
class TargetBatch:
    """The targets of one step on one rank."""

    step: int
    rows: np.ndarray  # [B] int64, rows of `read_targets(dataset, split, categories)`
    points: Tensor  # [B, N, 3] float32


def target_batches(plan: StepPlan, steps: range, progress: bool = False) -> Iterator[TargetBatch]:
    """Batches of `steps` (counted over all epochs) through Ray Data.

    Closing the iterator ends the execution. `progress` shows Ray Data's own bars and messages. Raises `InputError` for
    files that are damaged.
    """
    if not steps:
        return
    with DataContext.current(_context(plan.step_bytes, progress)):
        stream = ray.data.read_datasource(
            _StepSource(plan, steps), num_cpus=_READ_CPUS, concurrency=1, override_num_blocks=1
        )
        blocks = iter(stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    try:
        for block in cast(Iterator[pa.Table], blocks):
            # Blocks are read-only memory shared with other processes; a batch is the trainer's own.
            rows, points = tensor(block.column("rows")).copy(), tensor(block.column("points")).copy()
            for index, step in enumerate(block.column("step").to_pylist()):
                yield _as_batch(step, rows[index], points[index])
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    finally:
        del blocks  # ends the execution where the reader stops early


def local_target_batches(plan: StepPlan, steps: range) -> Iterator[TargetBatch]:
    """The same batches, bit for bit, made in this process without Ray."""
    return (_as_batch(step, *plan.batch(step)) for step in steps)


def _context(step_bytes: int, progress: bool) -> DataContext:
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    ahead = max(_AHEAD_BYTES, _AHEAD_STEPS * step_bytes)
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(object_store_memory=ahead)
    context.target_max_block_size = _BLOCK_BYTES
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, _Nap]
    if not progress:
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that bars are off
    return context


class _Nap(ExecutionCallback):
    """A nap in every round of Ray Data's executor, which runs in a thread of the process that trains.

    While enough lies ahead, its wait for a task returns at once, for there is a block it may not fetch yet: without the
    nap it turns as fast as it can, takes a whole processor and holds the interpreter's lock against the training.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(_NAP_SECONDS)


def _as_batch(step: int, rows: np.ndarray, points: np.ndarray) -> TargetBatch:
    return TargetBatch(step, rows, torch.from_numpy(points))


class _StepSource(Datasource):
    """Steps as rows: consecutive ranges of steps as read tasks, a few steps a block."""

    def __init__(self, plan: StepPlan, steps: range) -> None:
        super().__init__()
        self._plan, self._steps = plan, steps

    def get_name(self) -> str:
        """What Ray Data's progress calls it."""
        return "TargetBatches"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all steps."""
        return len(self._steps) * self._plan.step_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Tasks in the order of the steps; their number follows from the steps, not from `parallelism`."""
        per_block = max(1, _BLOCK_BYTES // self._plan.step_bytes)
        per_task = per_block * _BLOCKS_PER_TASK
        ranges = [self._steps[first : first + per_task] for first in range(0, len(self._steps), per_task)]
        return [ReadTask(partial(blocks_of, self._plan, steps, per_block), self._metadata(steps)) for steps in ranges]

    def _metadata(self, steps: range) -> BlockMetadata:
        size = len(steps) * self._plan.step_bytes
        return BlockMetadata(num_rows=len(steps), size_bytes=size, input_files=None, exec_stats=None)
