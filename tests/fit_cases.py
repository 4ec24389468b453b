"""A small database and a model without a network, to test `fit` with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from torch import Tensor
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from jr_dist.data.build import build_source
from jr_dist.data.dataset import open_dataset, write_dataset
from jr_dist.data.part_mesh import PartMesh, transformed
from jr_dist.data.source_store import SourceStore
from jr_dist.geometry.chamfer import chamfer_matrix
from jr_dist.geometry.frames import up_axis_rotation
from jr_dist.serve.database import Database, allowed_rows

NUM_POINTS = 512
NOISE = 1.5  # chamfer x100 of two samplings of one surface by so many points, generously
COLOURS = ((10, 20, 30, 255), (200, 100, 50, 255), (90, 90, 160, 255))


def box(extents, centre, colour) -> trimesh.Trimesh:
    solid = trimesh.creation.box(extents=extents)
    material = PBRMaterial(name="paint", baseColorFactor=list(colour), roughnessFactor=0.5)
    visual = TextureVisuals(uv=np.zeros((len(solid.vertices), 2)), material=material)
    return trimesh.Trimesh(solid.vertices + np.asarray(centre), solid.faces, visual=visual, process=False)


def chair(width: float, height: float) -> PartMesh:
    legs = [
        box((0.1, height, 0.1), (x * (width - 0.1) / 2, height / 2, z * 0.4), COLOURS[0])
        for x in (-1, 1)
        for z in (-1, 1)
    ]
    seat = box((width, 0.1, 0.9), (0, height + 0.05, 0), COLOURS[1])
    back = box((width, 0.8, 0.1), (0, height + 0.5, -0.4), COLOURS[2])
    names = ("leg front left", "leg_2", "leg_3", "leg_4", "seat", "back")
    return PartMesh(names, tuple((piece,) for piece in (*legs, seat, back)))


def table(width: float) -> PartMesh:
    top = box((width, 0.08, 0.8), (0, 0.7, 0), COLOURS[1])
    post = box((0.12, 0.66, 0.12), (0, 0.33, 0), COLOURS[0])
    return PartMesh(("top", "post"), ((top,), (post,)))


MESHES = {"chair-low": chair(0.9, 0.4), "chair-high": chair(0.6, 1.1), "table-a": table(1.2), "table-b": table(2.5)}


@dataclass(frozen=True)
class FakeModel:
    """Retrieves by undeformed chamfer and deforms by a fixed move of all parts: a trained run's methods, no network."""

    store: SourceStore
    shift: float = 0.0
    growth: float = 1.0

    def retrieval_distances(self, points: Tensor) -> Tensor:
        sources = self.store.geometry(np.arange(len(self.store.ids)), num_points=NUM_POINTS).points
        return chamfer_matrix(points, sources)

    def deform(self, points: Tensor, rows: Tensor, store: SourceStore) -> tuple[Tensor, Tensor]:
        geometry = store.geometry(rows.reshape(-1).numpy(), num_points=1)
        shape = (*rows.shape, -1, 3)
        return (geometry.centre + self.shift).view(shape), (geometry.half_extent * self.growth).view(shape)


def write_sources(folder: Path) -> Path:
    """The dataset of `MESHES` in `folder`."""
    sources = [
        build_source(mesh, id=name, category=name.split("-")[0], num_points=NUM_POINTS, seed=0, provenance={})
        for name, mesh in MESHES.items()
    ]
    write_dataset(folder / "dataset", sources, {}, how={"test": True})
    return folder / "dataset"


def open_store(dataset: Path) -> SourceStore:
    """Its sources."""
    return SourceStore.open(open_dataset(dataset), num_points=NUM_POINTS)


def use(model: FakeModel, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let `fit` find `model` in whatever run it is told; `changes` to the fields of its database."""

    def opened(run, *, category, top_k, num_points, **_) -> Database:
        rows = allowed_rows(model.store, category, top_k)
        return Database(str(run), model, model.store, rows, min(num_points, NUM_POINTS), **changes)

    monkeypatch.setattr("jr_dist.serve.fit.open_database", opened)


def moved(mesh: PartMesh, *, up: str = "y", scale: float = 1.0, shift=(0.0, 0.0, 0.0)) -> PartMesh:
    """The upright `mesh` as a file in which `up` points up, somewhere else, in other units."""
    transform = np.eye(4)
    transform[:3, :3] = scale * up_axis_rotation(up).T
    transform[:3, 3] = shift
    return transformed(mesh, transform)


def read_result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())
