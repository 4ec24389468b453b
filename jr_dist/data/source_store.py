"""The sources of a dataset as arrays in memory, once, and rows of them as padded batches ready for deformation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from jr_dist.data.dataset import Dataset, check_categories, read_group, read_groups
from jr_dist.data.manifest import FileEntry
from jr_dist.data.part_mesh import PartMesh, from_glb
from jr_dist.data.records import SourceModel
from jr_dist.data.schema import ragged, sources_from, tensor
from jr_dist.errors import InputError
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import axis_projections

_COLUMNS = ("id", "category", "centre", "half_extent", "points", "part_index", "joint_parts", "joint_coordinates")
_RECENT_GROUPS = 4  # `record` is asked for rows in order, or for a few of them again and again


@dataclass(frozen=True, eq=False)
class SourceStore:
    """S sources in the order of the dataset. Meshes stay in the file until they are asked for."""

    dataset: Dataset
    ids: tuple[str, ...]
    categories: tuple[str, ...]  # of each source
    num_points: int  # N, those kept of each source: a prefix of the stored ones
    num_parts: np.ndarray  # [S] int64
    points: np.ndarray  # [S, N, 3] float32
    part_index: np.ndarray  # [S, N] int16
    centre: np.ndarray  # [S, P, 3] float32, P = max_parts (padding: 0)
    half_extent: np.ndarray  # [S, P, 3] float32 (padding: 1)
    joint_offsets: np.ndarray  # [S + 1] int64: the joints of source s are rows joint_offsets[s] : joint_offsets[s + 1]
    joint_parts: np.ndarray  # [J, 2] int32
    joint_coordinates: np.ndarray  # [J, 2, 3] float32
    _places: tuple[tuple[FileEntry, int, int], ...]  # of each source: file, row group, row in it
    _projection: np.ndarray  # [S, 3, 2P, 2P] float32, filled row by row when asked for
    _projected: np.ndarray  # [S] bool, which rows are filled
    _recent: dict[tuple[str, int], pa.RecordBatch] = field(default_factory=dict)  # row groups that `record` read

    @classmethod
    def open(
        cls, dataset: Dataset, categories: Sequence[str] | None = None, num_points: int | None = None
    ) -> SourceStore:
        """Read the sources of the categories (all by default), `num_points` points of each (all by default).

        Raises `InputError` for a category the dataset lacks, a selection without sources, more points than are stored
        and damaged files.
        """
        return _open(dataset, categories, num_points)

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
        rows = self._rows(rows)
        count = self._num_points(num_points)
        points, part_index = self.points[rows, :count], self.part_index[rows, :count].astype(np.int64)
        centre, half_extent = self.centre[rows], self.half_extent[rows]
        each = np.arange(len(rows))[:, None]
        canonical = (points - centre[each, part_index]) / half_extent[each, part_index]
        return PartGeometry(
            points=torch.from_numpy(points),
            canonical=torch.from_numpy(canonical),
            part_index=torch.from_numpy(part_index),
            centre=torch.from_numpy(centre),
            half_extent=torch.from_numpy(half_extent),
            part_mask=torch.from_numpy(np.arange(self.max_parts) < self.num_parts[rows, None]),
            projection=torch.from_numpy(self._projections(rows)),
        ).to(device)

    def joints(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Joint parts (J, 2) and coordinates (J, 2, 3) of one source."""
        own = slice(self.joint_offsets[row], self.joint_offsets[row + 1])
        return self.joint_parts[own], self.joint_coordinates[own]

    def record(self, row: int) -> SourceModel:
        """One source whole, with all its stored points, mesh and provenance; reads the file."""
        entry, group, index = self._places[int(self._rows([row])[0])]
        key = (entry.path, group)
        if key not in self._recent:
            while len(self._recent) >= _RECENT_GROUPS:
                del self._recent[next(iter(self._recent))]
            self._recent[key] = read_group(self.dataset, "sources", entry, group)
        return next(sources_from(self._recent[key].slice(index, 1)))

    def mesh(self, row: int) -> PartMesh:
        """The mesh of one source, canonical frame; reads the file."""
        return from_glb(self.record(row).mesh_glb)

    def _rows(self, rows: Any) -> np.ndarray:
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

    def _projections(self, rows: np.ndarray) -> np.ndarray:
        for row in np.unique(rows[~self._projected[rows]]):
            parts, coordinates = self.joints(row)
            self._projection[row] = axis_projections(
                parts, coordinates, int(self.num_parts[row]), pad_to=self.max_parts
            )
            self._projected[row] = True
        return self._projection[rows]


def _open(dataset: Dataset, categories: Sequence[str] | None, num_points: int | None) -> SourceStore:
    chosen = check_categories(dataset, categories)
    chosen = dataset.categories if chosen is None else chosen
    num_sources = sum(dataset.manifest.categories[category]["sources"] for category in set(chosen))
    if not num_sources:
        raise InputError(f"dataset {dataset.path} has no source of {', '.join(chosen)}; choose other categories")
    count = dataset.num_points if num_points is None else num_points
    if not 1 <= count <= dataset.num_points:
        raise InputError(
            f"num_points is {count}; dataset {dataset.path} stores {dataset.num_points} points: allowed is 1 to that"
        )
    points, part_index = np.empty((num_sources, count, 3), np.float32), np.empty((num_sources, count), np.int16)
    ids, names, places = [], [], []
    ragged_columns = {name: [] for name in ("centre", "half_extent", "joint_parts", "joint_coordinates")}
    lengths = {name: [] for name in ragged_columns}
    for entry, group, batch in read_groups(dataset, "sources", _COLUMNS):
        kept = [i for i, name in enumerate(batch["category"].to_pylist()) if name in chosen]
        places += [(entry, group, i) for i in kept]
        batch = batch.take(pa.array(kept, pa.int64()))
        rows = slice(len(ids), len(ids) + len(kept))
        points[rows], part_index[rows] = tensor(batch["points"])[:, :count], tensor(batch["part_index"])[:, :count]
        ids += batch["id"].to_pylist()
        names += batch["category"].to_pylist()
        for name, column in ragged_columns.items():
            offsets, values = ragged(batch[name])
            column.append(values)
            lengths[name].append(np.diff(offsets))
    flat = {name: np.concatenate(column) for name, column in ragged_columns.items()}
    num_parts = np.concatenate(lengths["centre"]).astype(np.int64)
    max_parts = int(num_parts.max())
    centre, half_extent = _padded(flat["centre"], num_parts, 0), _padded(flat["half_extent"], num_parts, 1)
    return SourceStore(
        dataset=dataset,
        ids=tuple(ids),
        categories=tuple(names),
        num_points=count,
        num_parts=num_parts,
        points=points,
        part_index=part_index,
        centre=centre,
        half_extent=half_extent,
        joint_offsets=np.concatenate([[0], np.cumsum(np.concatenate(lengths["joint_parts"]))]).astype(np.int64),
        joint_parts=flat["joint_parts"],
        joint_coordinates=flat["joint_coordinates"],
        _places=tuple(places),
        _projection=np.zeros((num_sources, 3, 2 * max_parts, 2 * max_parts), np.float32),
        _projected=np.zeros(num_sources, bool),
    )


def _padded(flat: np.ndarray, num_parts: np.ndarray, padding: float) -> np.ndarray:
    result = np.full((len(num_parts), num_parts.max(), 3), padding, np.float32)
    result[np.arange(num_parts.max()) < num_parts[:, None]] = flat
    return result
