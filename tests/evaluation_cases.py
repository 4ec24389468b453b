"""Small worlds for the tests of evaluation: box furniture, a store of it, and runs whose answers are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import trimesh

from jr_dist.config import Config, load_config
from jr_dist.data.build import build_source, build_target
from jr_dist.data.part_mesh import PartMesh, from_glb
from jr_dist.data.records import SourceModel, TargetShape
from jr_dist.evaluate import metrics
from jr_dist.evaluate.methods import Measured, chosen_fits
from jr_dist.geometry.boxes import canonical_coordinates, deform
from jr_dist.geometry.chamfer import chamfer
from jr_dist.geometry.part_geometry import PartGeometry

NUM_POINTS = 96


def box_mesh(sizes: np.ndarray, offsets: np.ndarray) -> PartMesh:
    """Parts that are boxes of `sizes` (P, 3) at `offsets` (P, 3)."""
    pieces = []
    for size, offset in zip(sizes, offsets, strict=True):
        piece = trimesh.creation.box(extents=size)
        piece.apply_translation(offset)
        pieces.append((piece,))
    return PartMesh(tuple(f"part{i}" for i in range(len(pieces))), tuple(pieces))


def table(rng: np.random.Generator) -> PartMesh:
    """A board on a column."""
    width, depth, height, column = rng.uniform((0.8, 0.6, 0.5, 0.1), (1.6, 1.2, 1.2, 0.4))
    sizes = np.array([[width, 0.1, depth], [column, height, column]])
    return box_mesh(sizes, np.array([[0, height + 0.05, 0], [0, height / 2, 0]]))


def chair(rng: np.random.Generator) -> PartMesh:
    """A seat with a back on a column."""
    width, height, column, back = rng.uniform((0.6, 0.4, 0.1, 0.4), (1.0, 0.9, 0.3, 1.0))
    sizes = np.array([[width, 0.1, width], [column, height, column], [width, back, 0.1]])
    offsets = [[0, height + 0.05, 0], [0, height / 2, 0], [0, height + 0.1 + back / 2, 0.05 - width / 2]]
    return box_mesh(sizes, np.array(offsets))


MAKERS = {"chair": chair, "table": table}


def sources(count: int = 8) -> list[SourceModel]:
    """Chairs and tables in turn."""
    return [
        build_source(
            MAKERS[kind](np.random.default_rng(i)),
            id=f"{kind}-{i:02}",
            category=kind,
            num_points=NUM_POINTS,
            seed=i,
            provenance={},
        )
        for i, kind in zip(range(count), ["chair", "table"] * count, strict=False)
    ]


def targets(count: int, first: int = 100) -> list[TargetShape]:
    """Chairs and tables in turn, none of them a source."""
    return [
        build_target(
            MAKERS[kind](np.random.default_rng(first + i)),
            id=f"target-{kind}-{first + i}",
            category=kind,
            num_points=NUM_POINTS,
            seed=first + i,
            provenance={},
        )
        for i, kind in zip(range(count), ["chair", "table"] * count, strict=False)
    ]


@dataclass
class FakeStore:
    """What evaluation asks of a source store, from records in memory."""

    records: list[SourceModel]
    largest_request: int = 0

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(record.id for record in self.records)

    def record(self, row: int) -> SourceModel:
        return self.records[row]

    def joints(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        return self.records[row].joint_parts, self.records[row].joint_coordinates

    def clouds(self, rows, num_points: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.records[int(row)].points[:num_points] for row in rows]))

    def mesh(self, row: int) -> PartMesh:
        return from_glb(self.records[row].mesh_glb)

    def geometry(self, rows, device: str = "cpu", num_points: int | None = None) -> PartGeometry:
        chosen = [self.records[int(row)] for row in rows]
        self.largest_request = max(self.largest_request, len(chosen))
        padded = max(record.num_parts for record in self.records)
        count = num_points or NUM_POINTS

        def pad(values: np.ndarray, fill: float) -> np.ndarray:
            return np.concatenate([values, np.full((padded - len(values), 3), fill, values.dtype)])

        part_index = np.stack([record.part_index[:count] for record in chosen]).astype(np.int64)
        canonical = [
            canonical_coordinates(r.points[:count], r.part_index[:count], r.centre, r.half_extent) for r in chosen
        ]
        return PartGeometry(
            points=torch.from_numpy(np.stack([record.points[:count] for record in chosen])).float(),
            canonical=torch.from_numpy(np.stack(canonical)).float(),
            part_index=torch.from_numpy(part_index),
            centre=torch.from_numpy(np.stack([pad(record.centre, 0) for record in chosen])).float(),
            half_extent=torch.from_numpy(np.stack([pad(record.half_extent, 1) for record in chosen])).float(),
            part_mask=torch.tensor([[p < record.num_parts for p in range(padded)] for record in chosen]),
            projection=torch.zeros(len(chosen), 3, 2 * padded, 2 * padded),
        ).to(device)


@dataclass
class BoxModel:
    """A run that scales every source as a whole to the target's box, and ranks by what it is told to.

    So its `R+DF` equals `Box`, its joints stay closed, and with `ranks_by="fit"` retrieval is the oracle.
    """

    config: Config
    dataset_hash: str
    source_ids: tuple[str, ...]
    store: FakeStore
    ranks_by: str = "fit"  # fit | reverse | first
    offset: float = 0.0  # added to every centre: a worse deformation
    calls: list[tuple[int, int]] = field(default_factory=list)

    @property
    def method(self) -> str:
        return self.config.train.method

    @property
    def has_retrieval(self) -> bool:
        return self.method != "df"

    @property
    def has_deformation(self) -> bool:
        return self.method not in ("mds", "ae")

    @property
    def identity(self) -> str:
        return f"{self.config.run.path} {self.ranks_by} {self.offset}"

    def deform(self, points, rows, store):
        self.calls.append(tuple(rows.shape))
        num_targets, k = rows.shape
        geometry = store.geometry(rows.reshape(-1).numpy(), device=points.device, num_points=points.shape[1])
        target = points.repeat_interleave(k, dim=0)
        low, high = geometry.points.amin(1, keepdim=True), geometry.points.amax(1, keepdim=True)
        target_low, target_high = target.amin(1, keepdim=True), target.amax(1, keepdim=True)
        scale = (target_high - target_low) / (high - low)
        centre = (geometry.centre - (low + high) / 2) * scale + (target_low + target_high) / 2 + self.offset
        shape = (num_targets, k, *centre.shape[1:])
        return centre.view(shape), (geometry.half_extent * scale).view(shape)

    def retrieval_distances(self, points):
        if self.ranks_by == "first":
            return torch.arange(len(self.source_ids)).float().expand(len(points), -1)
        fit = torch.from_numpy(all_fits(self, self.store, points))
        return fit if self.ranks_by == "fit" else -fit


def all_fits(model, store, points: torch.Tensor) -> np.ndarray:
    """[T, S] chamfer of every source deformed to every target, pair by pair."""
    rows = torch.arange(len(store.ids)).expand(len(points), -1)
    centre, half_extent = model.deform(points, rows, store)
    geometry = store.geometry(np.arange(len(store.ids)), num_points=points.shape[1])
    fits = [
        chamfer(deform(geometry, c, s), target.expand(len(c), -1, -1))
        for c, s, target in zip(centre, half_extent, points, strict=True)
    ]
    return torch.stack(fits).double().numpy()


def settings(dataset: Path | str, run: Path | str, **overrides: object) -> Config:
    """Settings with `section__key` overrides."""
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(None, {"data.path": str(dataset), "run.path": str(run), **named})


def measure_ranked(
    method: str, seed: int | None, source_ids, distances: np.ndarray, fit: np.ndarray, *, oracle: bool
) -> Measured:
    """A method that ranks the sources by `distances` (T, S) and fits them with chamfer `fit` (T, S), all of it seen."""
    ids, order = np.asarray(source_ids, dtype=str), metrics.retrieval_order(distances)
    ordered = np.take_along_axis(fit, order, axis=1)
    fits = chosen_fits(ordered, ordered) | ({"oracle": fit.min(axis=1)} if oracle else {})
    return Measured(
        method,
        seed,
        fits,
        retrieved=ids[order[:, 0]],
        best=ids[fit.argmin(axis=1)],
        rank=metrics.oracle_rank(fit, order).astype(float),
        least=fit.min(axis=1),
        ordered=ordered,
    )


def measure_nearest(source_ids, undeformed: np.ndarray) -> Measured:
    """`R` on undeformed chamfers (T, S)."""
    nearest = undeformed.argmin(axis=1)
    return Measured("R", None, {"top-1": undeformed.min(axis=1)}, retrieved=np.asarray(source_ids, str)[nearest])


def measure_oracle(method: str, seed: int | None, source_ids, fit: np.ndarray) -> Measured:
    """The best of all sources by chamfer `fit` (T, S)."""
    best = np.asarray(source_ids, dtype=str)[fit.argmin(axis=1)]
    return Measured(method, seed, {"oracle": fit.min(axis=1)}, best=best, least=fit.min(axis=1))
