"""Which targets and which of their points the batch of a step holds, and how it is read. No Ray, no torch: a read task
starts in a fresh process, and every import delays its first batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jr_dist.data.dataset import Dataset, count_rows, read_batches, read_targets, require_rows
from jr_dist.data.decoded import mapped_column
from jr_dist.data.order import global_batch_indices, steps_per_epoch
from jr_dist.errors import InputError

# Several processes of a machine may read one split: above this they share its points in a mapped file.
IN_MEMORY_BYTES = 512 << 20
_MOST_TABLES = 2  # a process of Ray's outlives the run that it read for


@dataclass(frozen=True)
class StepPlan:
    """All that is needed to make the batch of any step of one rank."""

    dataset: Dataset
    split: str
    categories: tuple[str, ...] | None
    batch_size: int
    num_points: int
    encoder_points: int
    seed: int
    rank: int
    world_size: int

    @property
    def step_bytes(self) -> int:
        """Size of one batch."""
        return self.batch_size * (12 * self.num_points + 8) + 8

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (B,) int64 and points (B, N, 3) float32 of a step."""
        table = _table(self)
        rows = global_batch_indices(
            len(table.rows), self.batch_size, seed=self.seed, step=step, rank=self.rank, world_size=self.world_size
        )
        return rows, table.points[table.rows[rows, None], self.chosen_points(step)]

    def chosen_points(self, step: int) -> np.ndarray:
        """Which stored points (N,) a step uses: the same for all its targets and ranks, in random order."""
        raw = np.random.PCG64(np.random.SeedSequence([self.seed, step, 1])).random_raw(self.dataset.num_points)
        return np.argsort(raw, kind="stable")[: self.num_points]


def step_plan(
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
) -> StepPlan:
    """The plan of one rank, checked.

    `num_points` of the stored points are drawn for each step, in random order, so an encoder that takes the first
    `encoder_points` of them sees a fair sample. Raises `InputError` for an unknown split or category, too few targets
    for one step of all ranks, and more points than the dataset stores.
    """
    num_targets = require_rows(dataset, split, categories)
    if steps_per_epoch(num_targets, batch_size, world_size) < 1:
        raise InputError(
            f"a batch of {batch_size} on each of {world_size} worker(s) takes {batch_size * world_size} targets, but "
            f"split {split!r} of {dataset.path} has {num_targets}; lower the batch size or make a larger dataset"
        )
    if not 1 <= encoder_points <= num_points <= dataset.num_points:
        raise InputError(
            f"encoder_points is {encoder_points}, num_points {num_points}; allowed is encoder_points <= num_points <= "
            f"{dataset.num_points}, the points stored in {dataset.path}"
        )
    chosen = tuple(categories) if categories else None
    return StepPlan(dataset, split, chosen, batch_size, num_points, encoder_points, seed, rank, world_size)


def blocks_of(plan: StepPlan, steps: range, per_block: int) -> Iterator[pa.Table]:
    """The batches of `steps` as tables of `per_block` steps: columns "step", "rows" [B], "points" [B, N, 3]."""
    for first in range(0, len(steps), per_block):
        block = steps[first : first + per_block]
        batches = [plan.batch(step) for step in block]
        rows, points = (pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(arrays)) for arrays in zip(*batches))
        yield pa.table({"step": pa.array(block), "rows": rows, "points": points})


@dataclass(frozen=True)
class _Table:
    points: np.ndarray  # [T', N, 3], mapped from a file where they are many
    rows: np.ndarray  # [T] where the targets of the plan lie in it


_tables: dict[tuple[str, str, str, tuple[str, ...] | None], _Table] = {}


def _table(plan: StepPlan) -> _Table:
    """The targets of a plan, read once by each process."""
    dataset, split, categories = plan.dataset, plan.split, plan.categories
    key = (dataset.path, dataset.hash, split, categories)
    if key not in _tables:
        while len(_tables) >= _MOST_TABLES:
            del _tables[next(iter(_tables))]
        num_targets = count_rows(dataset, split, categories)
        if num_targets * dataset.num_points * 12 <= IN_MEMORY_BYTES:
            _tables[key] = _Table(read_targets(dataset, split, categories).points, np.arange(num_targets))
        else:
            names = [
                name for x in read_batches(dataset, split, columns=["category"]) for name in x["category"].to_pylist()
            ]
            rows = np.flatnonzero([categories is None or name in categories for name in names])
            _tables[key] = _Table(mapped_column(dataset, split, "points"), rows)
    return _tables[key]
