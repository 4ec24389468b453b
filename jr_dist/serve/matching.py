"""From one observation to its best sources: retrieve in the learned space, deform, measure, sort."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jr_dist.data.dataset import Dataset, open_dataset
from jr_dist.data.part_mesh import PartMesh, deformed
from jr_dist.data.records import SourceModel
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer
from jr_dist.geometry.joints import Joints, joint_gaps, num_connected_components
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import null_space_dimensions
from jr_dist.models.ido import optimise_inner
from jr_dist.serve.inputs import Observation
from jr_dist.serve.result import Candidate, JointReport, part_fits
from jr_dist.train.trained import load_run

REFINE_ITERATIONS = 12  # of IDO; most of the gain is in the first six


class Matcher(Protocol):
    """What a trained run offers here (train/trained.py); T targets, S sources, K candidates, P parts."""

    def retrieval_distances(self, points: Tensor) -> Tensor:
        """Squared d_R (T, S) of targets (T, N, 3) to every source; the least is the best."""
        ...

    def deform(self, points: Tensor, rows: Tensor, store: Any) -> tuple[Tensor, Tensor]:
        """(centre, half_extent), each (T, K, P, 3), of sources `rows` (T, K) fitted to targets (T, N, 3)."""
        ...


@dataclass(frozen=True)
class Database:
    """A trained run with the sources it may retrieve."""

    run: str
    model: Matcher
    store: SourceStore
    rows: np.ndarray  # [R] int64, the sources allowed
    num_points: int  # of a source in the chamfer: as asked for, or what the dataset has where that is fewer
    connectivity: bool = True  # whether the run keeps joints closed; refinement then does as well


@dataclass(frozen=True)
class Fitted:
    """One source deformed to one observation; P parts, canonical frame."""

    record: SourceModel
    mesh: PartMesh  # undeformed
    centre: np.ndarray  # [P, 3] float32
    half_extent: np.ndarray  # [P, 3] float32
    candidate: Candidate

    def deformed_mesh(self) -> PartMesh:
        """The source's own mesh, each part carried to its new box; canonical frame."""
        return deformed(self.mesh, self.record, self.centre, self.half_extent)


def open_database(
    run: str | Path,
    *,
    data: str | Path | None = None,
    category: str | None = None,
    num_points: int = 2048,
    top_k: int = 1,
) -> Database:
    """The run's model with the sources of its dataset, or of `data` where that has moved.

    Raises `InputError` where the dataset is not the run's, the category is unknown, or `top_k` too large.
    """
    model = load_run(run)
    if not model.has_retrieval:
        raise InputError(
            f"run {run} was trained by the method {model.method}, which learns no retrieval; "
            "ours or uniform is allowed; name such a run"
        )
    dataset = _open_dataset(run, data, model.config.data.path)
    if dataset.hash != model.dataset_hash:
        raise InputError(
            f"dataset {dataset.path} (hash {dataset.hash[:12]}) is not the one that run {run} was trained on "
            f"({model.dataset_hash[:12]}); the same one is needed; name it with --data"
        )
    num_points = min(num_points, dataset.num_points)
    store = SourceStore.open(dataset, categories=model.config.data.categories, num_points=num_points)
    assert tuple(store.ids) == tuple(model.source_ids), "one dataset, one order of sources"
    rows = allowed_rows(store, category, top_k)
    return Database(str(run), model, store, rows, num_points, model.config.model.connectivity)


def _open_dataset(run: str | Path, data: str | Path | None, trained_on: str) -> Dataset:
    try:
        return open_dataset(data or trained_on)
    except InputError as error:
        if data is not None:
            raise
        raise InputError(f"the dataset of run {run}: {error}; where it has moved, name it with --data") from error


def allowed_rows(store: SourceStore, category: str | None, top_k: int) -> np.ndarray:
    """Rows [R] int64 of the sources of `category` (None: all); `InputError` for fewer than `top_k`."""
    known = sorted(set(store.categories))
    if category is not None and category not in known:
        raise InputError(f"category is {category!r}; allowed are {', '.join(known)}; choose one of these or none")
    rows = np.array([row for row, name in enumerate(store.categories) if category in (None, name)], np.int64)
    if top_k > len(rows):
        raise InputError(
            f"top-k is {top_k}; the database has {len(rows)} sources"
            + (f" of category {category}" if category else "")
            + f"; ask for at most {len(rows)}"
        )
    return rows


@torch.no_grad()
def fit_observation(database: Database, observation: Observation, *, top_k: int, refine: bool = False) -> list[Fitted]:
    """The `top_k` sources nearest in the learned space, deformed; best first by chamfer after deformation."""
    model, store = database.model, database.store
    points = torch.from_numpy(observation.points)[None]
    distances = model.retrieval_distances(points)[0].double().cpu().numpy()
    rows = database.rows[np.argsort(distances[database.rows], kind="stable")[:top_k]]
    geometry = store.geometry(rows, num_points=database.num_points)
    centre, half_extent = (x[0].cpu() for x in model.deform(points, torch.from_numpy(rows)[None], store))
    if not (torch.isfinite(centre).all() and torch.isfinite(half_extent).all()):
        raise FloatingPointError(f"run {database.run} gives deformation parameters that are not finite")
    chamfers = _chamfer_x100(deform(geometry, centre, half_extent), points)
    found = _Deformations(
        rows=rows,
        distances=distances[rows],
        before=_chamfer_x100(geometry.points, points),
        network=chamfers,
        after=chamfers,
        centre=centre,
        half_extent=half_extent,
    )
    if refine:
        found = _refined(found, geometry, points, connectivity=database.connectivity)
    return [_fitted(store, found, int(k)) for k in np.argsort(found.after, kind="stable")]


@dataclass(frozen=True)
class _Deformations:
    """K sources deformed to one observation, in the order of retrieval; chamfers x100."""

    rows: np.ndarray  # [K] int64
    distances: np.ndarray  # [K] squared d_R
    before: np.ndarray  # [K]
    network: np.ndarray  # [K] with the network's parameters
    after: np.ndarray  # [K] with `centre` and `half_extent`
    centre: Tensor  # [K, P, 3]
    half_extent: Tensor  # [K, P, 3]


def _refined(found: _Deformations, geometry: PartGeometry, points: Tensor, *, connectivity: bool) -> _Deformations:
    """Each source improved by IDO from the network's parameters; these are kept where that did not help."""
    inner = optimise_inner(
        geometry,
        points,
        torch.zeros(len(found.rows), dtype=torch.int64),
        start=(found.centre, found.half_extent),
        iterations=REFINE_ITERATIONS,
        connectivity=connectivity,
    )
    chamfers = _chamfer_x100(deform(geometry, inner.centre, inner.half_extent), points)
    better = torch.from_numpy(chamfers < found.network)[:, None, None]
    return replace(
        found,
        after=np.minimum(chamfers, found.network),
        centre=torch.where(better, inner.centre, found.centre),
        half_extent=torch.where(better, inner.half_extent, found.half_extent),
    )


def _chamfer_x100(clouds: Tensor, target: Tensor) -> np.ndarray:
    """(K,) float64 chamfer times 100 of clouds (K, N, 3) with the one target (1, N2, 3)."""
    return 100 * chamfer(clouds, target, y_index=torch.zeros(len(clouds), dtype=torch.int64)).double().numpy()


def _fitted(store: SourceStore, found: _Deformations, k: int) -> Fitted:
    row = int(found.rows[k])
    record = store.record(row)
    centre, half_extent = (x[k, : record.num_parts].numpy() for x in (found.centre, found.half_extent))
    candidate = Candidate(
        source=record.id,
        category=record.category,
        retrieval_distance=float(found.distances[k]),
        retrieval_rank=k + 1,
        chamfer_before_x100=float(found.before[k]),
        chamfer_after_x100=float(found.after[k]),
        chamfer_network_x100=float(found.network[k]),
        parameters="refined" if found.after[k] < found.network[k] else "network",
        glb="",
        joints=joint_report(record, centre, half_extent),
        parts=part_fits(record.part_names, record.centre, record.half_extent, centre, half_extent),
    )
    return Fitted(record, store.mesh(row), centre, half_extent, candidate)


def joint_report(record: SourceModel, centre: np.ndarray, half_extent: np.ndarray) -> JointReport:
    """How well `record` hangs together with its parts at the boxes (P, 3), (P, 3)."""
    joints = Joints(record.joint_parts.astype(np.int64), record.joint_coordinates.astype(np.float64))
    num_groups = num_connected_components(joints, record.num_parts)
    x, y, z = null_space_dimensions(joints.parts, joints.coordinates, record.num_parts).tolist()
    return JointReport(
        num_joints=len(joints),
        joints_max_gap=float(joint_gaps(joints, centre, half_extent).max(initial=0.0)),
        joint_graph_connected=num_groups == 1,
        num_joint_groups=num_groups,
        null_space_dimensions=(x, y, z),
    )
