"""Which row groups hold the wanted sources, and how their points are read. No Ray, no torch: a read task starts in a
fresh process, and every import delays its first batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jr_dist.data.dataset import Dataset, check_categories, require_rows
from jr_dist.data.manifest import FileEntry
from jr_dist.data.schema import tensor
from jr_dist.data.table_reader import read_group, read_groups
from jr_dist.errors import InputError

_MOST_PLACES = 2  # a process reads one database, or a few categories of it


@dataclass(frozen=True, eq=False)
class SourcePlan:
    """All that is needed to read the wanted sources, batch by batch."""

    dataset: Dataset
    categories: tuple[str, ...] | None
    rows: np.ndarray  # [R] int64, ascending: numbers among the sources of the categories
    num_points: int  # N, a prefix of the stored points
    batch_size: int  # M

    @property
    def num_batches(self) -> int:
        """The last one may be short."""
        return -(-len(self.rows) // self.batch_size)

    @property
    def batch_bytes(self) -> int:
        """Size of a full batch."""
        return self.batch_size * (12 * self.num_points + 8)

    def pieces(self, batches: range) -> list[GroupRows]:
        """The row groups with the sources of these batches, in order."""
        rows = self.rows[batches.start * self.batch_size : batches.stop * self.batch_size]
        places = _places(self.dataset, self.categories)
        groups = np.searchsorted(places.starts, rows, side="right") - 1
        cuts = np.flatnonzero(np.diff(groups)) + 1
        firsts = groups[np.concatenate([[0], cuts])] if len(rows) else []
        return [
            GroupRows(*places.groups[group], first=int(places.starts[group]), rows=own)
            for group, own in zip(firsts, np.split(rows, cuts))
        ]


@dataclass(frozen=True, eq=False)
class GroupRows:
    """Wanted sources of one row group."""

    entry: FileEntry
    group: int
    first: int  # the number of the group's first source of the categories
    rows: np.ndarray  # [m] int64


def source_plan(
    dataset: Dataset, categories: Sequence[str] | None, rows: np.ndarray, *, num_points: int, batch_size: int
) -> SourcePlan:
    """The plan, checked: `rows` [R] are distinct and ascending, as `SourceStore` numbers the sources of the categories.

    Raises `InputError` for an unknown category, one without sources and more points than are stored, `IndexError` for
    rows that there are not.
    """
    num_sources = require_rows(dataset, "sources", categories)
    check_num_points(dataset, num_points)
    rows = np.asarray(rows, np.int64)
    assert batch_size >= 1 and rows.ndim == 1 and (np.diff(rows) > 0).all(), "rows are distinct and ascending"
    if rows.size and not (rows[0] >= 0 and rows[-1] < num_sources):
        raise IndexError(f"rows {rows[0]}..{rows[-1]} of {num_sources} sources")
    return SourcePlan(dataset, check_categories(dataset, categories), rows, num_points, batch_size)


def check_num_points(dataset: Dataset, num_points: int) -> None:
    """Raises `InputError` for more points of a source than are stored, or none."""
    if not 1 <= num_points <= dataset.num_points:
        raise InputError(
            f"num_points is {num_points}; allowed is 1 to {dataset.num_points}, the points stored in {dataset.path}"
        )


def blocks_of_sources(
    dataset: Dataset, categories: tuple[str, ...] | None, num_points: int, pieces: Sequence[GroupRows]
) -> Iterator[pa.Table]:
    """The wanted sources of each row group as a table: columns "row", "points" [N, 3].

    Raises `InputError` for files that are damaged.
    """
    for piece in pieces:
        batch = read_group(dataset, "sources", piece.entry, piece.group, ["category", "points"])
        chosen = _chosen(batch, categories)[piece.rows - piece.first]
        points = pa.FixedShapeTensorArray.from_numpy_ndarray(tensor(batch["points"])[chosen, :num_points])
        yield pa.table({"row": pa.array(piece.rows), "points": points})


def _chosen(batch: pa.RecordBatch, categories: tuple[str, ...] | None) -> np.ndarray:
    """Places of the sources of the categories in a row group."""
    if categories is None:
        return np.arange(batch.num_rows)
    return np.flatnonzero([name in categories for name in batch["category"].to_pylist()])


@dataclass(frozen=True, eq=False)
class _Places:
    groups: tuple[tuple[FileEntry, int], ...]  # the G row groups of the sources
    starts: np.ndarray  # [G + 1] int64, how many sources of the categories lie before each


_known: dict[tuple[str, str, tuple[str, ...] | None], _Places] = {}


def _places(dataset: Dataset, categories: tuple[str, ...] | None) -> _Places:
    """Where the sources of the categories lie, looked up once by each process."""
    key = (dataset.path, dataset.hash, categories)
    if key not in _known:
        while len(_known) >= _MOST_PLACES:
            del _known[next(iter(_known))]
        groups, counts = [], []
        for entry, group, batch in read_groups(dataset, "sources", ["category"]):
            groups.append((entry, group))
            counts.append(len(_chosen(batch, categories)))
        _known[key] = _Places(tuple(groups), np.concatenate([[0], np.cumsum(counts)]))
    return _known[key]
