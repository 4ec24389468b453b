"""A stream of tables as one Ray Data execution: made by read tasks in order, a few blocks ahead of whoever reads it.

Read tasks take the rows they need from the dataset themselves: nothing goes through the driver. They ask for no CPU of
Ray's (`_READ_CPUS`), because the workers of Ray Train may hold them all: a task that waits for one would never start.
One task a stream runs at a time, or several where making a batch is work; the order stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import ray.data
from ray.data import DataContext, Datasource, ReadTask
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.exceptions import RayTaskError

from jr_dist.errors import InputError

_READ_CPUS = 0  # the two cores of a small machine belong to the training workers; reading is 1 % of their work
_NAP_SECONDS = 0.05  # far below what a stream is ahead
_BLOCK_BYTES = 1 << 20  # small blocks, so that the first batch comes soon and few are made in advance
_AHEAD_BYTES = 16 << 20  # what a stream may hold of the object store, which the bank's messages share
_AHEAD_BATCHES = 4  # at least, where batches are large
_BLOCKS_PER_TASK = 64  # starting a task costs as much as some blocks
_BLOCKS_PER_TASK_OF_SEVERAL = 4  # what the later ones have made waits for the first

# (batches, batches that fill a block) -> what a read task runs to make them, as tables in order
TaskOf = Callable[[range, int], Callable[[], Iterator[pa.Table]]]


@dataclass(frozen=True)
class Stream:
    """What is streamed: batches in order, whatever they are."""

    name: str  # what Ray Data's progress calls it
    num_batches: int
    batch_bytes: int
    task_of: TaskOf
    tasks: int = 1  # at the same time

    @property
    def batches_per_block(self) -> int:
        """Batches that fill a block."""
        return max(1, _BLOCK_BYTES // self.batch_bytes)

    @property
    def batches_per_task(self) -> int:
        """Batches that a task makes."""
        return self.batches_per_block * (_BLOCKS_PER_TASK if self.tasks == 1 else _BLOCKS_PER_TASK_OF_SEVERAL)

    @property
    def bytes_ahead(self) -> int:
        """What it may hold of the object store: of several tasks all that they make."""
        held = _AHEAD_BATCHES if self.tasks == 1 else self.tasks * self.batches_per_task
        return max(_AHEAD_BYTES, held * self.batch_bytes)


def tables_of(stream: Stream, *, progress: bool = False) -> Generator[pa.Table]:
    """The tables of a stream, in blocks as Ray Data cuts them: read-only memory, shared with other processes.

    Closing the iterator ends the execution. `progress` shows Ray Data's own bars and messages. Raises the `InputError`
    that a task raised.
    """
    if not stream.num_batches:
        return
    with DataContext.current(_context(stream.bytes_ahead, progress)):
        data = ray.data.read_datasource(
            _Batches(stream), num_cpus=_READ_CPUS, concurrency=stream.tasks, override_num_blocks=1
        )
        blocks = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    try:
        yield from cast(Iterator[pa.Table], blocks)
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    finally:
        del blocks  # ends the execution where the reader stops early


def _context(ahead: int, progress: bool) -> DataContext:
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
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


class _Batches(Datasource):
    """Consecutive ranges of batches as read tasks, a few batches a block."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def get_name(self) -> str:
        """What Ray Data's progress calls it."""
        return self._stream.name

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all batches."""
        return self._stream.num_batches * self._stream.batch_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Tasks in the order of the batches; their number follows from the batches, not from `parallelism`."""
        num_batches, batch_bytes = self._stream.num_batches, self._stream.batch_bytes
        per_block, per_task = self._stream.batches_per_block, self._stream.batches_per_task
        everything = range(num_batches)
        parts = [everything[first : first + per_task] for first in range(0, num_batches, per_task)]
        return [
            ReadTask(
                self._stream.task_of(part, per_block),
                BlockMetadata(num_rows=None, size_bytes=len(part) * batch_bytes, input_files=None, exec_stats=None),
            )
            for part in parts
        ]


@contextmanager
def only_from(level: int) -> Iterator[None]:
    """Ray Data tells nothing below `level`, one of `logging`'s: jobs that report for themselves need no second voice."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
