"""Which targets and which of their points the batch of a step holds, and how it is read. No Ray, no torch: a read task
starts in a fresh process, and every import delays its first batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from jr_dist.data.dataset import Dataset, count_rows, read_batches, read_targets, require_rows
from jr_dist.data.decoded import mapped_column
from jr_dist.data.order import global_batch_indices, steps_per_epoch
from jr_dist.data.pictures import Pictures, PictureSettings, open_pictures
from jr_dist.data.shown import cut_targets
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
    observed: Literal["full", "partial"]
    pictures: PictureSettings | None  # None where encoders see points
    identity: str  # of the pictures' content

    @property
    def step_bytes(self) -> int:
        """Size of one batch."""
        of_cuts = 12 * self.encoder_points + 16 if self.observed == "partial" else 0
        of_pictures = 3 * self.pictures.size**2 if self.pictures is not None else 0
        return self.batch_size * (12 * self.num_points + 8 + of_cuts + of_pictures) + 8

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """`rows` (B,) int64 and `points` (B, N, 3) float32 of a step; `shown` (B, 3, S, S) uint8 where encoders see
        pictures; what else `cut_targets` gives where targets are seen in part. Each cut is a function of seed, step and
        row, each picture one of seed, epoch and row."""
        table = _table(self)
        rows = global_batch_indices(
            len(table.rows), self.batch_size, seed=self.seed, step=step, rank=self.rank, world_size=self.world_size
        )
        order = self.order_of_points(step)
        if self.observed == "full":
            points = table.points[table.rows[rows, None], order[: self.num_points]]
            return {"rows": rows, "points": points, **self._pictures(step, rows, len(table.rows))}
        stored = table.points[table.rows[rows, None], order]
        keys = [("train", self.seed, step, int(row)) for row in rows]
        cut = cut_targets(stored, keys, num_points=self.num_points, encoder_points=self.encoder_points)
        return {"rows": rows, **cut}

    def _pictures(self, step: int, rows: np.ndarray, num_targets: int) -> dict[str, np.ndarray]:
        if self.pictures is None:
            return {}
        epoch = step // steps_per_epoch(num_targets, self.batch_size, self.world_size)
        how = self.pictures.augment
        return {"shown": _pictures(self).training(rows, seed=self.seed, epoch=epoch, augment=how)}

    def order_of_points(self, step: int) -> np.ndarray:
        """The stored points in random order, of which a step uses the first: the same for all its targets and ranks."""
        raw = np.random.PCG64(np.random.SeedSequence([self.seed, step, 1])).random_raw(self.dataset.num_points)
        return np.argsort(raw, kind="stable")


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
    observed: Literal["full", "partial"] = "full",
    pictures: PictureSettings | None = None,
) -> StepPlan:
    """The plan of one rank, checked.

    `num_points` of the stored points are drawn for each step, in random order, so an encoder that takes the first
    `encoder_points` of them sees a fair sample. With `observed` "partial" each target is cut before, with all its
    stored points, and encoders see the first of what is left. With `pictures` encoders see one view of each whole
    target. Raises `InputError` for an unknown split or category, too few targets for one step of all ranks, more points
    than the dataset stores, and as `open_pictures` does.
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
    assert pictures is None or observed == "full", "the settings agree"
    identity = "" if pictures is None else open_pictures(dataset, split, chosen, pictures).identity
    return StepPlan(
        dataset, split, chosen, batch_size, num_points, encoder_points, seed, rank, world_size, observed, pictures,
        identity,
    )  # fmt: skip


def blocks_of(plan: StepPlan, steps: range, per_block: int) -> Iterator[pa.Table]:
    """The batches of `steps` as tables of `per_block` steps: columns "step" and those of `StepPlan.batch`."""
    for first in range(0, len(steps), per_block):
        block = steps[first : first + per_block]
        batches = [plan.batch(step) for step in block]
        columns = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
        tensors = {name: pa.FixedShapeTensorArray.from_numpy_ndarray(values) for name, values in columns.items()}
        yield pa.table({"step": pa.array(block), **tensors})


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


_opened: dict[tuple[str, str, tuple[str, ...] | None, PictureSettings, str], Pictures] = {}


def _pictures(plan: StepPlan) -> Pictures:
    """The pictures of a plan, opened once by each process. Raises `InputError` where they are others by now."""
    assert plan.pictures is not None
    key = (plan.dataset.path, plan.split, plan.categories, plan.pictures, plan.identity)
    if key not in _opened:
        while len(_opened) >= _MOST_TABLES:
            del _opened[next(iter(_opened))]
        pictures = open_pictures(plan.dataset, plan.split, plan.categories, plan.pictures)
        if pictures.identity != plan.identity:
            raise InputError(
                f"the pictures of {plan.dataset.path} have changed since the run started; allowed are the same; start "
                "it again"
            )
        _opened[key] = pictures
    return _opened[key]
