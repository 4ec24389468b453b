"""The sources of a dataset as arrays, and rows of them as padded batches ready for deformation.

In memory are a few hundred bytes a source (boxes, joints, its id) and the points, or, where these are many, a file that
all processes of the machine map.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from jr_dist.data.dataset import check_categories, require_rows
from jr_dist.data.decoded import mapped_column
from jr_dist.data.manifest import FileEntry
from jr_dist.data.part_mesh import PartMesh, from_glb
from jr_dist.data.recent_projections import RecentProjections
from jr_dist.data.records import SourceModel
from jr_dist.data.schema import ragged, sources_from, tensor
from jr_dist.data.source_rows import check_num_points
from jr_dist.data.table_reader import Dataset, read_group, read_groups
from jr_dist.geometry.part_geometry import PartGeometry

_RAGGED = ("centre", "half_extent", "joint_parts", "joint_coordinates")
_POINT_COLUMNS = ("points", "part_index")
_POINT_BYTES = 14  # three float32 and the part
IN_MEMORY_BYTES = 4 << 30  # of points; more of them are not read but mapped from a file
_RECENT_GROUPS = 4  # `record` is asked for rows in order, or for a few of them again and again


@dataclass(frozen=True, eq=False)
class SourceStore:
    """S sources in the order of the dataset. Meshes stay in the file until they are asked for."""

    dataset: Dataset
    ids: tuple[str, ...]
    categories: tuple[str, ...]  # of each source
    num_points: int  # N, those kept of each source: a prefix of the stored ones
    num_parts: np.ndarray  # [S] int64
    points: np.ndarray  # [S', >= N, 3] float32; the points of source s are row stored[s], mapped from a file where many
    part_index: np.ndarray  # [S', >= N] int16, likewise
    stored: np.ndarray  # [S] int64
    centre: np.ndarray  # [S, P, 3] float32, P = max_parts (padding: 0)
    half_extent: np.ndarray  # [S, P, 3] float32 (padding: 1)
    joint_offsets: np.ndarray  # [S + 1] int64: the joints of source s are rows joint_offsets[s] : joint_offsets[s + 1]
    joint_parts: np.ndarray  # [J, 2] int32
    joint_coordinates: np.ndarray  # [J, 2, 3] float32
    _projections: RecentProjections
    _groups: tuple[tuple[FileEntry, int], ...]  # the row groups with sources
    _places: np.ndarray  # [S, 2] int32: which of these, and the row in it
    _recent: dict[tuple[str, int], pa.RecordBatch] = field(default_factory=dict)  # row groups that `record` read

    @classmethod
    def open(
        cls,
        dataset: Dataset,
        categories: Sequence[str] | None = None,
        num_points: int | None = None,
    ) -> SourceStore:
        """Read the sources of the categories (all by default), `num_points` points of each (all by default).

        Points of more than `IN_MEMORY_BYTES` are not read but mapped from a file that all processes share (`decoded`).
        Raises `InputError` for a category the dataset lacks, a selection without sources, more points than are stored
        and damaged files.
        """
        return _open(dataset, categories, num_points)

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the points where this one does, on another machine from a file of its own.
        mapped = dict.fromkeys(_POINT_COLUMNS) if isinstance(self.points, np.memmap) else {}
        return {**vars(self), **mapped, "_recent": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        missing = [name for name in _POINT_COLUMNS if state[name] is None]
        vars(self).update(state | {name: mapped_column(state["dataset"], "sources", name) for name in missing})

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def max_parts(self) -> int:
        """P, the number of parts that batches are padded to."""
        return self.centre.shape[1]

    @property
    def part_offsets(self) -> np.ndarray:
        """[S + 1] int64: where the parts of each source begin in tables with a row a part."""
        return np.concatenate([[0], np.cumsum(self.num_parts)])

    def geometry(
        self,
        rows: np.ndarray | Sequence[int] | Tensor,
        device: torch.device | str = "cpu",
        num_points: int | None = None,
    ) -> PartGeometry:
        """The sources `rows` [M] as a padded batch with a prefix of `num_points` points (all by default)."""
        rows = self.check_rows(rows)
        count = self._num_points(num_points)
        stored = self.stored[rows]
        points, part_index = self.points[stored, :count], self.part_index[stored, :count].astype(np.int64)
        centre, half_extent = self.centre[rows], self.half_extent[rows]
        # Rows of the flattened tables: `take` gathers them four times faster than two index arrays do.
        boxes = (np.arange(len(rows))[:, None] * self.max_parts + part_index).reshape(-1)
        canonical = points - centre.reshape(-1, 3).take(boxes, axis=0).reshape(points.shape)
        canonical /= half_extent.reshape(-1, 3).take(boxes, axis=0).reshape(points.shape)
        return PartGeometry(
            points=torch.from_numpy(points),
            canonical=torch.from_numpy(canonical),
            part_index=torch.from_numpy(part_index),
            centre=torch.from_numpy(centre),
            half_extent=torch.from_numpy(half_extent),
            part_mask=torch.from_numpy(np.arange(self.max_parts) < self.num_parts[rows, None]),
            projection=torch.from_numpy(self._projections.take(rows)),
        ).to(device)

    def clouds(self, rows: np.ndarray | Sequence[int] | Tensor, num_points: int | None = None) -> Tensor:
        """Points alone, [M, N, 3] float32, of the sources `rows` [M]: a prefix of `num_points` (all by default)."""
        return torch.from_numpy(self.points[self.stored[self.check_rows(rows)], : self._num_points(num_points)])

    def joints(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Joint parts (J, 2) and coordinates (J, 2, 3) of one source."""
        own = slice(self.joint_offsets[row], self.joint_offsets[row + 1])
        return self.joint_parts[own], self.joint_coordinates[own]

    def record(self, row: int) -> SourceModel:
        """One source whole, with all its stored points, mesh and provenance; reads the file."""
        place, index = self._places[int(self.check_rows([row])[0])].tolist()
        entry, group = self._groups[place]
        key = (entry.path, group)
        if key not in self._recent:
            while len(self._recent) >= _RECENT_GROUPS:
                del self._recent[next(iter(self._recent))]
            self._recent[key] = read_group(self.dataset, "sources", entry, group)
        return next(sources_from(self._recent[key].slice(index, 1)))

    def mesh(self, row: int) -> PartMesh:
        """The mesh of one source, canonical frame; reads the file."""
        return from_glb(self.record(row).mesh_glb)

    def check_rows(self, rows: Any) -> np.ndarray:
        """The rows as [M] int64. Raises `IndexError` for one that the store does not have."""
        rows = rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        assert rows.ndim == 1, f"rows are a list of row numbers, not of shape {rows.shape}"
        assert rows.dtype.kind in "iu" or rows.size == 0, f"rows are integers, not {rows.dtype}"
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self.ids)):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of a store of {len(self.ids)} sources")
        return rows.astype(np.int64)

    def _num_points(self, num_points: int | None) -> int:
        if num_points is None:
            return self.num_points
        assert 1 <= num_points <= self.num_points, f"{num_points} points of a store that holds {self.num_points}"
        return num_points


def local_source_batches(
    store: SourceStore, rows: np.ndarray, *, num_points: int, batch_size: int
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Rows [M] int64 and points [M, N, 3] of the sources `rows` [R], in order; M is `batch_size`, less in the last.

    `streams.source_batches` gives the same, bit for bit, of sources that no store of this process holds.
    """
    for first in range(0, len(rows), batch_size):
        own = store.check_rows(rows[first : first + batch_size])
        yield own, store.clouds(own, num_points)


def _open(dataset: Dataset, categories: Sequence[str] | None, num_points: int | None) -> SourceStore:
    chosen = check_categories(dataset, categories) or dataset.categories
    num_sources = require_rows(dataset, "sources", categories)
    count = dataset.num_points if num_points is None else num_points
    check_num_points(dataset, count)
    mapped = num_sources * count * _POINT_BYTES > IN_MEMORY_BYTES
    table = _read_table(dataset, chosen, None if mapped else (num_sources, count))
    stored = table.numbers if mapped else np.arange(num_sources)
    points = mapped_column(dataset, "sources", "points") if mapped else table.points
    part_index = mapped_column(dataset, "sources", "part_index") if mapped else table.part_index
    num_parts = np.diff(table.ragged["centre"][0])
    offsets, joint_parts = table.ragged["joint_parts"]
    joint_coordinates = table.ragged["joint_coordinates"][1]
    return SourceStore(
        dataset=dataset,
        ids=tuple(table.ids),
        categories=tuple(table.categories),
        num_points=count,
        num_parts=num_parts,
        points=points,
        part_index=part_index,
        stored=stored,
        centre=_padded(table.ragged["centre"][1], num_parts, 0),
        half_extent=_padded(table.ragged["half_extent"][1], num_parts, 1),
        joint_offsets=offsets,
        joint_parts=joint_parts,
        joint_coordinates=joint_coordinates,
        _projections=RecentProjections(num_parts, offsets, joint_parts, joint_coordinates),
        _groups=tuple(table.groups),
        _places=table.places,
    )


@dataclass
class _Table:
    """Columns of the chosen sources while they are read."""

    points: np.ndarray
    part_index: np.ndarray
    ids: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    groups: list[tuple[FileEntry, int]] = field(default_factory=list)
    places: np.ndarray = field(
        default_factory=lambda: np.zeros((0, 2), np.int32)
    )  # place in `groups`, row in the group
    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # their rows in the dataset
    ragged: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # offsets, values


def _read_table(dataset: Dataset, categories: Sequence[str], size: tuple[int, int] | None) -> _Table:
    """Read the sources; of their points `size` = (sources, points), or none of them."""
    num_sources, count = size or (0, 0)
    table = _Table(np.empty((num_sources, count, 3), np.float32), np.empty((num_sources, count), np.int16))
    columns = ("id", "category", *_RAGGED, *(() if size is None else _POINT_COLUMNS))
    pieces = {name: [] for name in _RAGGED}
    numbers, places, first = [], [], 0
    for entry, group, batch in read_groups(dataset, "sources", columns):
        kept = [i for i, name in enumerate(batch["category"].to_pylist()) if name in categories]
        numbers.append(first + np.array(kept, np.int64))
        first += batch.num_rows
        batch = batch.take(pa.array(kept, pa.int64()))
        if size is not None:
            rows = slice(len(table.ids), len(table.ids) + len(kept))
            table.points[rows] = tensor(batch["points"])[:, :count]
            table.part_index[rows] = tensor(batch["part_index"])[:, :count]
        places.append(np.stack([np.full(len(kept), len(table.groups)), kept], axis=1).astype(np.int32))
        table.groups.append((entry, group))
        table.ids += batch["id"].to_pylist()
        table.categories += map(sys.intern, batch["category"].to_pylist())  # one string a category, not one a source
        for name, column in pieces.items():
            column.append(ragged(batch[name]))
    table.numbers, table.places = np.concatenate(numbers), np.concatenate(places)
    for name, column in pieces.items():
        lengths = np.concatenate([np.diff(offsets) for offsets, _ in column]).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        table.ragged[name] = offsets, np.concatenate([values for _, values in column])
    return table


def _padded(flat: np.ndarray, num_parts: np.ndarray, padding: float) -> np.ndarray:
    result = np.full((len(num_parts), num_parts.max(), 3), padding, np.float32)
    result[np.arange(num_parts.max()) < num_parts[:, None]] = flat
    return result
