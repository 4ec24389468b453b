"""The shapes of a dataset with their surfaces. Sources keep theirs; a target's is made again from where it came from.

Targets are stored as points alone. A synthetic one is drawn again from its number, an ingested one is read again from
its file; either is sampled as it was then, and the points must be the stored ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jr_dist.data.build import build_target
from jr_dist.data.dataset import check_categories, read_batches, require_rows
from jr_dist.data.ingest_report import ingested_from
from jr_dist.data.manifest import FileEntry
from jr_dist.data.model_files import load_again, model_path
from jr_dist.data.part_mesh import PartMesh, from_glb, transformed
from jr_dist.data.records import TargetShape
from jr_dist.data.schema import tensor
from jr_dist.data.surface import Surface, surface_of
from jr_dist.data.synthesize.generate import GRAMMAR_VERSION, draw_shape, place_of
from jr_dist.data.synthesize.meshes import part_mesh
from jr_dist.data.table_reader import Dataset, read_group, read_groups
from jr_dist.errors import InputError
from jr_dist.geometry.frames import invert_transform

_RECENT_GROUPS = 2  # shapes are asked for in order
_MOVED = 1e-4  # canonical units: rounding moves points less
_MAY_MOVE = 0.01  # share of the points: rounding may put a few on the neighbouring triangle


@dataclass(frozen=True, eq=False)
class RenderShape:
    """A shape that pictures can be made of, in its canonical frame."""

    id: str
    part_names: tuple[str, ...]
    surface: Surface


@dataclass(frozen=True, eq=False)
class Shapes:
    """The sources or the targets of a split, numbered as `SourceStore` and `read_targets` do. Small, and it pickles."""

    dataset: Dataset
    table: str  # "sources" or a split
    models: Path | None  # the folder of the files of ingested targets
    ids: tuple[str, ...]
    categories: tuple[str, ...]  # of each shape
    _groups: tuple[tuple[FileEntry, int], ...]  # the row groups of the table
    _places: np.ndarray  # [R, 2] int32: which of these, and the row in it
    _recent: dict[int, Any] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_recent": {}}

    def __len__(self) -> int:
        return len(self.ids)

    def shape(self, row: int) -> RenderShape:
        """One shape as `render_view` takes it. Raises `InputError` as `mesh` does."""
        mesh = self.mesh(row)
        return RenderShape(self.ids[row], mesh.names, surface_of(mesh))

    def mesh(self, row: int) -> PartMesh:
        """Its mesh, canonical frame.

        Raises `InputError` for a target whose mesh can't be made again: a cloud, a file that is gone or another one
        now, shapes that this release draws otherwise.
        """
        if self.table == "sources":
            return from_glb(self._column("mesh_glb", row)[0].as_py())
        provenance = json.loads(self._column("provenance", row)[0].as_py())
        if provenance.get("made_by") == "synthesize":
            mesh, seed = self._drawn(row), int(self.dataset.manifest.how["seed"])
        else:
            mesh, seed = self._read(row, provenance), 0
        again = build_target(
            mesh, id=self.ids[row], category=self.categories[row], num_points=self.dataset.num_points, seed=seed,
            provenance={},
        )  # fmt: skip
        self._verify(row, again)
        return transformed(mesh, invert_transform(again.transform))

    def check(self) -> None:
        """Raise the `InputError` of the first target whose mesh surely can't be made again; opens no file."""
        if self.table == "sources":
            return
        told = read_batches(self.dataset, self.table, sorted(set(self.categories)), ["provenance"])
        for row, text in enumerate(text for batch in told for text in batch["provenance"].to_pylist()):
            provenance = json.loads(text)
            if provenance.get("made_by") != "synthesize":
                self._find(row, provenance)

    def _drawn(self, row: int) -> PartMesh:
        how = self.dataset.manifest.how
        if how["grammar_version"] != GRAMMAR_VERSION:
            raise InputError(
                f"dataset {self.dataset.path} was drawn by grammar {how['grammar_version']}, this release has "
                f"{GRAMMAR_VERSION}; synthesize it again"
            )
        return part_mesh(draw_shape(int(how["seed"]), "target", *place_of(self.ids[row])))

    def _read(self, row: int, provenance: Mapping[str, Any]) -> PartMesh:
        return load_again(self._find(row, provenance), provenance)

    def _find(self, row: int, provenance: Mapping[str, Any]) -> Path:
        """The folder in which the target's file lies."""
        name = self.ids[row]
        if "file" not in provenance or "parts_from" not in provenance:
            raise InputError(
                f"target {name} is points alone, it does not say which mesh it came from; pictures need a mesh: ingest "
                "the models as meshes, or choose other categories or splits"
            )
        if self.models is None:
            raise InputError(
                f"the file {provenance['file']} of target {name} can't be found: the dataset does not say where it was "
                "ingested from; name that folder by `jr-dist render --models`, and use data.images files"
            )
        path = model_path(self.models, provenance)
        if not path.exists():
            raise InputError(
                f"the file {path} of target {name} is gone; put it back, or name the folder it was moved to by "
                "`jr-dist render --models`, and use data.images files"
            )
        return self.models

    def _verify(self, row: int, again: TargetShape) -> None:
        stored = tensor(self._column("points", row))[0]
        moved = np.abs(again.points - stored).max(axis=1) > _MOVED
        if moved.mean() > _MAY_MOVE:
            raise InputError(
                f"target {self.ids[row]} is another shape now: {moved.mean():.0%} of its points are not those that "
                "were stored; put the file back as it was when it was ingested, or ingest anew"
            )

    def _column(self, name: str, row: int) -> Any:
        group, index = self._places[row].tolist()
        if group not in self._recent:
            while len(self._recent) >= _RECENT_GROUPS:
                del self._recent[next(iter(self._recent))]
            entry, number = self._groups[group]
            self._recent[group] = read_group(self.dataset, self.table, entry, number)
        return self._recent[group][name].slice(index, 1)


def open_shapes(
    dataset: Dataset, table: str, categories: Sequence[str] | None = None, *, models: str | Path | None = None
) -> Shapes:
    """The shapes of "sources" or a split, of the categories (all by default).

    `models` is the folder that was ingested, where it is not where the dataset says. Raises `InputError` for an unknown
    split or category and a selection without shapes.
    """
    require_rows(dataset, table, categories)
    chosen = check_categories(dataset, categories) or dataset.categories
    ids, names, groups, places = [], [], [], []
    for entry, group, batch in read_groups(dataset, table, ["id", "category"]):
        kept = [row for row, name in enumerate(batch["category"].to_pylist()) if name in chosen]
        places += [(len(groups), row) for row in kept]
        groups.append((entry, group))
        ids += [batch["id"][row].as_py() for row in kept]
        names += [batch["category"][row].as_py() for row in kept]
    folder = Path(models) if models is not None else ingested_from(dataset)
    where = np.array(places, np.int32).reshape(-1, 2)
    return Shapes(dataset, table, folder, tuple(ids), tuple(names), tuple(groups), where)
