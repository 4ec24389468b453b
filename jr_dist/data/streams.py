"""Training targets as a stream of batches: one Ray Data execution for each rank, over all steps that remain.

One row of the stream is the batch of one step, so no batch is short and all ranks have equally many; which targets it
holds is decided by `order` alone. Read tasks take the rows they need from the dataset themselves: nothing goes through
the driver. They ask for no CPU of Ray's (`_READ_CPUS`), because the workers of Ray Train may hold them all: a task that
waits for one would never start. One task a rank runs at a time, a few batches ahead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data import DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayTaskError
from torch import Tensor

from jr_dist.data.dataset import Dataset, count_rows, read_targets
from jr_dist.data.order import global_batch_indices, steps_per_epoch
from jr_dist.data.schema import tensor
from jr_dist.errors import InputError

_READ_CPUS = 0  # the two cores of a small machine belong to the training workers; reading is 1 % of their work
_BLOCK_BYTES = 1 << 20  # steps travel in blocks of this size: small, so that the first batch comes soon
_BLOCKS_PER_TASK = 64  # starting a task costs as much as some blocks


@dataclass(frozen=True)
class TargetBatch:
    """The targets of one step on one rank."""

    step: int
    rows: np.ndarray  # [B] int64, rows of `read_targets(dataset, split, categories)`
    points: Tensor  # [B, N, 3] float32


@dataclass(frozen=True)
class _Plan:
    """All that a read task needs to make the batch of any step."""

    dataset: Dataset
    split: str
    categories: tuple[str, ...] | None
    batch_size: int
    num_points: int
    seed: int
    rank: int
    world_size: int

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (B,) and points (B, N, 3) of a step."""
        table = _points(self.dataset, self.split, self.categories)
        rows = global_batch_indices(
            len(table), self.batch_size, seed=self.seed, step=step, rank=self.rank, world_size=self.world_size
        )
        return rows, table[rows[:, None], _chosen_points(self, step)]


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
    own bars and messages. Raises `InputError` for an unknown split or category, too few targets for one step of all
    ranks, and more points than there are.
    """
    plan = _plan(dataset, split, categories, batch_size, num_points, encoder_points, seed, rank, world_size)
    return _streamed(plan, start_step, num_steps, progress)


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
    plan = _plan(dataset, split, categories, batch_size, num_points, encoder_points, seed, rank, world_size)
    return (_as_batch(step, *plan.batch(step)) for step in range(start_step, start_step + num_steps))


def _plan(
    dataset: Dataset,
    split: str,
    categories: Sequence[str] | None,
    batch_size: int,
    num_points: int,
    encoder_points: int,
    seed: int,
    rank: int,
    world_size: int,
) -> _Plan:
    num_targets = count_rows(dataset, split, categories)
    if steps_per_epoch(num_targets, batch_size, world_size) < 1:
        raise InputError(
            f"a batch of {batch_size} on each of {world_size} worker(s) needs {batch_size * world_size} targets, split "
            f"{split!r} of {dataset.path} has {num_targets}; lower the batch size"
        )
    if not 1 <= encoder_points <= num_points <= dataset.num_points:
        raise InputError(
            f"num_points is {num_points} and encoder_points {encoder_points}; allowed is encoder_points <= num_points <= "
            f"{dataset.num_points}, the points that {dataset.path} stores"
        )
    chosen = tuple(categories) if categories else None
    return _Plan(dataset, split, chosen, batch_size, num_points, seed, rank, world_size)


def _chosen_points(plan: _Plan, step: int) -> np.ndarray:
    """Which stored points a step uses: the same for all its targets and ranks (stored points are in random order)."""
    raw = np.random.PCG64(np.random.SeedSequence([plan.seed, step, 1])).random_raw(plan.dataset.num_points)
    return np.argsort(raw, kind="stable")[: plan.num_points]


_tables: dict[tuple[str, str, str, tuple[str, ...] | None], np.ndarray] = {}


def _points(dataset: Dataset, split: str, categories: tuple[str, ...] | None) -> np.ndarray:
    """The points of a split [T, N, 3], read once by each process."""
    key = (dataset.path, dataset.hash, split, categories)
    if key not in _tables:
        _tables[key] = read_targets(dataset, split, categories).points
    return _tables[key]


def _as_batch(step: int, rows: np.ndarray, points: np.ndarray) -> TargetBatch:
    return TargetBatch(step, rows, torch.from_numpy(points))


def _streamed(plan: _Plan, start_step: int, num_steps: int, progress: bool) -> Iterator[TargetBatch]:
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.target_max_block_size = _BLOCK_BYTES
    if not progress:
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
    with DataContext.current(context):
        stream = ray.data.read_datasource(
            _Steps(plan, start_step, num_steps), num_cpus=_READ_CPUS, concurrency=1, override_num_blocks=1
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


class _Steps(Datasource):
    """Steps as rows: consecutive ranges of them as read tasks."""

    def __init__(self, plan: _Plan, start_step: int, num_steps: int) -> None:
        super().__init__()
        self._plan, self._steps = plan, range(start_step, start_step + num_steps)
        self._step_bytes = plan.batch_size * (plan.num_points * 12 + 8) + 8

    def get_name(self) -> str:
        return "TargetBatches"

    def estimate_inmemory_data_size(self) -> int:
        return len(self._steps) * self._step_bytes

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None):
        per_block = max(1, _BLOCK_BYTES // self._step_bytes)
        per_task = per_block * _BLOCKS_PER_TASK
        return [
            ReadTask(
                _reader(self._plan, self._steps[first : first + per_task], per_block),
                BlockMetadata(
                    num_rows=len(self._steps[first : first + per_task]),
                    size_bytes=len(self._steps[first : first + per_task]) * self._step_bytes,
                    input_files=None,
                    exec_stats=None,
                ),
            )
            for first in range(0, len(self._steps), per_task)
        ]


def _reader(plan: _Plan, steps: range, per_block: int) -> Callable[[], Iterable[pa.Table]]:
    def read() -> Iterator[pa.Table]:
        for first in range(0, len(steps), per_block):
            yield _block(plan, steps[first : first + per_block])

    return read


def _block(plan: _Plan, steps: range) -> pa.Table:
    rows, points = zip(*(plan.batch(step) for step in steps))
    columns = {"step": np.array(steps), "rows": np.stack(rows), "points": np.stack(points)}
    return pa.table({name: _tensor_column(array) for name, array in columns.items()})


def _tensor_column(array: np.ndarray) -> pa.Array:
    return pa.array(array) if array.ndim == 1 else pa.FixedShapeTensorArray.from_numpy_ndarray(array)
