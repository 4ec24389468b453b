"""From one observation to its best sources: retrieve in the learned space, deform, measure, sort."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from jr_dist.config import IdoConfig
from jr_dist.data.part_mesh import PartMesh, deformed
from jr_dist.data.records import SourceModel
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer, one_sided
from jr_dist.geometry.joints import Joints, joint_gaps, num_connected_components
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import null_space_dimensions
from jr_dist.models.ido import Parameters
from jr_dist.models.refine import Refinement, refine
from jr_dist.serve.database import Database
from jr_dist.serve.inputs import Observation
from jr_dist.serve.result import Candidate, JointReport, part_fits

# Boards and panels keep half of their thickness at least. Without that one half-extent in seven of synthetic furniture
# ends below a tenth of the source's; with it the chamfer to points held out is 2 % higher (`benchmarks/thin_parts.py`).
_THIN_SCALE = 0.5


@dataclass(frozen=True)
class How:
    """How an observation is fitted. Raises `InputError` for what does not go together."""

    top_k: int = 5
    refine: bool = False
    partial: bool = False  # the observation shows a part of the shape: what is hidden counts for nothing
    mirror: bool = False  # the shape is symmetric in a plane x = const: its image shows some of what is hidden

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError(f"top-k is {self.top_k}; 1 or more is allowed; ask for at least one source")
        if self.mirror and not (self.partial and self.refine):
            raise InputError("mirror is on; it is allowed with partial and refine alone; add both or leave it out")

    @property
    def ranked_by(self) -> str:
        """The field of `Candidate` that candidates are sorted by."""
        if not self.partial:
            return "chamfer_after_x100"
        return "objective_x100" if self.refine else "one_sided_after_x100"

    def refinement(self, ido: IdoConfig) -> Refinement | None:
        """IDO with the run's settings; None without."""
        if not self.refine:
            return None
        whole = Refinement(ido.iterations, thin_scale=_THIN_SCALE)
        return (
            replace(whole, one_sided=True, prior_weight=ido.prior_weight, mirror=self.mirror) if self.partial else whole
        )


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


@torch.no_grad()
def fit_observation(database: Database, observation: Observation, how: How) -> list[Fitted]:
    """The sources nearest in the learned space, deformed; best first.

    Of a whole shape by chamfer after deformation. Of one seen in part, where that would punish what is hidden, by the
    half of it that looks from the observation; refined, by what was minimised (the pull towards the network included).
    """
    points = torch.from_numpy(observation.points)[None]
    rows, distances = retrieved(database, points, how.top_k)
    geometry = database.store.geometry(rows, num_points=database.num_points)
    undeformed = _measured(geometry, (geometry.centre, geometry.half_extent), points)
    by_network = deformed_by_network(database, points, rows) if database.deforms else None
    network = None if by_network is None else _measured(geometry, by_network, points)
    found = undeformed if network is None else network
    if (refinement := how.refinement(database.ido)) is not None:
        found = _refined(found, network, geometry, points, refinement, connectivity=database.connectivity)
    candidates = _Candidates(rows, distances, undeformed, network, found)
    fitted = [_fitted(database.store, candidates, k) for k in range(len(rows))]
    return sorted(fitted, key=lambda one: getattr(one.candidate, how.ranked_by))


def retrieved(database: Database, target: Tensor, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [K] int64 of the sources allowed that are nearest to one target, and squared d_R [K]."""
    distances = database.model.retrieval_distances(target)[0].double().cpu().numpy()
    rows = database.rows[np.argsort(distances[database.rows], kind="stable")[:top_k]]
    return rows, distances[rows]


def deformed_by_network(database: Database, target: Tensor, rows: np.ndarray) -> Parameters:
    """Centre and half-extent, each [K, P, 3] on the CPU, of the sources `rows` [K] deformed to one target."""
    parameters = database.model.deform(target, torch.from_numpy(rows)[None], database.store)
    centre, half_extent = (x[0].cpu() for x in parameters)
    if not (torch.isfinite(centre).all() and torch.isfinite(half_extent).all()):
        raise FloatingPointError(f"run {database.run} gives deformation parameters that are not finite")
    return centre, half_extent


@dataclass(frozen=True)
class _Measured:
    """K sources with part parameters, and what these are worth, x100."""

    centre: Tensor  # [K, P, 3]
    half_extent: Tensor  # [K, P, 3]
    chamfer: np.ndarray  # [K] float64
    one_sided: np.ndarray  # [K] the half of it that looks from the observation
    refined: np.ndarray  # [K] bool
    objective: np.ndarray | None = None  # [K] what refinement minimised, where that is not the chamfer


@dataclass(frozen=True)
class _Candidates:
    """K sources in the order of retrieval."""

    rows: np.ndarray  # [K] int64
    distances: np.ndarray  # [K] squared d_R
    undeformed: _Measured
    network: _Measured | None  # None: the run does not deform
    found: _Measured  # as they are returned


def _refined(
    found: _Measured,
    network: _Measured | None,
    geometry: PartGeometry,
    points: Tensor,
    how: Refinement,
    *,
    connectivity: bool,
) -> _Measured:
    """Each source improved by IDO; of a whole shape `found` is kept where that did not help."""
    given = None if network is None else (network.centre, network.half_extent)
    index = torch.zeros(len(geometry.points), dtype=torch.int64)
    inner = refine(geometry, points, index, given, how, connectivity=connectivity)
    refined = _measured(geometry, (inner.centre, inner.half_extent), points)
    if how.one_sided:
        everyone = np.ones(len(index), bool)
        return replace(refined, refined=everyone, objective=100 * inner.objective.double().numpy())
    better = refined.chamfer < found.chamfer
    parts = torch.from_numpy(better)[:, None, None]
    return _Measured(
        torch.where(parts, refined.centre, found.centre),
        torch.where(parts, refined.half_extent, found.half_extent),
        np.where(better, refined.chamfer, found.chamfer),
        np.where(better, refined.one_sided, found.one_sided),
        better,
    )


def _measured(geometry: PartGeometry, parameters: Parameters, target: Tensor) -> _Measured:
    """The sources with their parts at `parameters`, against the one target (1, N2, 3)."""
    clouds = deform(geometry, *parameters)
    index = torch.zeros(len(clouds), dtype=torch.int64)
    both = chamfer(clouds, target, y_index=index)
    half = one_sided(target.expand(len(clouds), -1, -1), clouds)
    of_both, of_half = (100 * values.double().numpy() for values in (both, half))
    return _Measured(*parameters, of_both, of_half, np.zeros(len(clouds), bool))


def _fitted(store: SourceStore, candidates: _Candidates, k: int) -> Fitted:
    row, found = int(candidates.rows[k]), candidates.found
    record = store.record(row)
    centre, half_extent = (x[k, : record.num_parts].numpy() for x in (found.centre, found.half_extent))
    kept = "undeformed" if candidates.network is None else "network"
    candidate = Candidate(
        source=record.id,
        category=record.category,
        retrieval_distance=float(candidates.distances[k]),
        retrieval_rank=k + 1,
        chamfer_before_x100=float(candidates.undeformed.chamfer[k]),
        chamfer_after_x100=float(found.chamfer[k]),
        chamfer_network_x100=None if candidates.network is None else float(candidates.network.chamfer[k]),
        one_sided_before_x100=float(candidates.undeformed.one_sided[k]),
        one_sided_after_x100=float(found.one_sided[k]),
        objective_x100=None if found.objective is None else float(found.objective[k]),
        parameters="refined" if found.refined[k] else kept,
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
