"""Every source deformed to every target: the table that top-1, best of k and oracle retrieval are all read off.

Exact: all T x S pairs are deformed and measured. Memory is bounded by `max_pairs` pairs at a time; a source is read
once, a target is encoded once for each block of sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jr_dist.evaluate import metrics
from jr_dist.evaluate.methods import TrainedModelLike, scale_to_box
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer, chamfer_matrix, spatial_order
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import BEND_MARGIN, MINIMUM_SCALE

MAX_PAIRS = 512  # pairs at once: 80 kB each at 2048 points where all belong to one target
#: the share of itself that a half-extent stops at where nothing forces it further down
FLOOR = BEND_MARGIN * MINIMUM_SCALE

Report = Callable[[int], None]  # told how many pairs were finished


@dataclass(frozen=True)
class PairFits:
    """All pairs of T targets and S sources after deformation."""

    chamfer: np.ndarray  # [T, S] float64, squared, mean over points, both directions added
    gap: np.ndarray  # [T, S] widest joint gap, canonical units
    at_floor: np.ndarray  # [T, S] share of half-extents at the least scale allowed


def undeformed_chamfer(
    store: Any, points: Tensor, *, device: str = "cpu", max_pairs: int = MAX_PAIRS, report: Report | None = None
) -> np.ndarray:
    """(T, S) float64 chamfer of targets `points` (T, N, 3) to all sources as they stand, with N points each."""
    num_sources, result = len(store.ids), np.empty((len(points), len(store.ids)))
    for rows in blocks(num_sources, max_pairs):
        sources = store.clouds(rows, points.shape[1]).to(device)
        for targets in blocks(len(points), max(1, max_pairs // len(rows))):
            part = chamfer_matrix(points[targets].to(device), sources)
            result[np.ix_(targets, rows)] = part.cpu().numpy()
            if report:
                report(part.numel())
    return result


def box_chamfer(store: Any, points: Tensor, nearest: np.ndarray, *, device: str = "cpu") -> np.ndarray:
    """(T,) chamfer of the sources `nearest` (T,) after `scale_to_box`: both boxes are those of the points seen."""
    result = np.empty(len(points))
    for targets in blocks(len(points), MAX_PAIRS):
        sources = store.clouds(nearest[targets], points.shape[1]).to(device)
        wanted = points[targets].to(device)
        result[targets] = chamfer(scale_to_box(sources, wanted), wanted).cpu().numpy()
    return result


def fit_all_pairs(
    model: TrainedModelLike,
    store: Any,
    points: Tensor,
    *,
    device: str = "cpu",
    max_pairs: int = MAX_PAIRS,
    report: Report | None = None,
) -> PairFits:
    """All sources of `store` deformed to all targets `points` (T, N, 3) by `model`, measured with N points.

    Raises FloatingPointError where the model's parameters are not finite.
    """
    num_targets, num_sources = len(points), len(store.ids)
    fits = PairFits(*(np.empty((num_targets, num_sources)) for _ in range(3)))
    for rows in blocks(num_sources, max_pairs):
        block = _source_block(store, rows, points.shape[1], device)
        for targets in blocks(num_targets, max(1, max_pairs // len(rows))):
            chamfers, gaps, floors = _fit_block(model, store, block, points[targets].to(device))
            here = np.ix_(targets, rows)
            fits.chamfer[here], fits.gap[here], fits.at_floor[here] = chamfers, gaps, floors
            if report:
                report(chamfers.size)
    return fits


@dataclass(frozen=True)
class _Block:
    rows: np.ndarray  # [K] the sources
    geometry: PartGeometry
    order: Tensor | None  # of their points, for the chamfer; None off the CPU
    joint_parts: np.ndarray  # [K, J, 2], -1 where padded
    joint_coordinates: np.ndarray  # [K, J, 2, 3]


def _source_block(store: Any, rows: np.ndarray, num_points: int, device: str) -> _Block:
    joints = padded_joints([store.joints(int(row)) for row in rows])
    geometry = store.geometry(rows, device=device, num_points=num_points)
    return _Block(rows, geometry, spatial_order(geometry.points) if device == "cpu" else None, *joints)


@torch.no_grad()
def _fit_block(
    model: TrainedModelLike, store: Any, block: _Block, points: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(chamfer, gap, at_floor), each (B, K), of B targets and the K sources of a block."""
    num_targets, num_sources = len(points), len(block.rows)
    rows = torch.from_numpy(block.rows).expand(num_targets, -1)
    centre, half_extent = model.deform(points, rows, store)
    if not (torch.isfinite(centre).all() and torch.isfinite(half_extent).all()):
        raise FloatingPointError("its deformation parameters are not finite")
    shape = (num_targets, num_sources)
    source = np.tile(np.arange(num_sources), num_targets)  # target-major, as `flatten`
    half = half_extent.flatten(0, 1).cpu().numpy()
    gaps = metrics.joint_gap(
        centre.flatten(0, 1).cpu().numpy(), half, block.joint_parts[source], block.joint_coordinates[source]
    )
    undeformed, mask = block.geometry.half_extent.cpu().numpy(), block.geometry.part_mask.cpu().numpy()
    floors = metrics.share_at_floor(half, undeformed[source], mask[source], FLOOR)
    return _chamfers(block, points, centre, half_extent), gaps.reshape(shape), floors.reshape(shape)


def _chamfers(block: _Block, points: Tensor, centre: Tensor, half_extent: Tensor) -> np.ndarray:
    """(B, K) chamfer of the deformed sources; a target at a time, so that the sources' points are not repeated."""
    same = torch.zeros(len(block.rows), dtype=torch.int64, device=points.device)
    values = [
        chamfer(deform(block.geometry, c, s), target[None], y_index=same, x_order=block.order)
        for target, c, s in zip(points, centre, half_extent, strict=True)
    ]
    return torch.stack(values).cpu().numpy()


def padded_joints(joints: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Joints of several sources as (S, J, 2) int64, -1 where padded, and (S, J, 2, 3) float64."""
    num_joints = max((len(parts) for parts, _ in joints), default=0)
    all_parts = np.full((len(joints), num_joints, 2), -1, np.int64)
    all_coordinates = np.zeros((len(joints), num_joints, 2, 3))
    for row, (parts, coordinates) in enumerate(joints):
        all_parts[row, : len(parts)], all_coordinates[row, : len(parts)] = parts, coordinates
    return all_parts, all_coordinates


def blocks(count: int, size: int) -> Iterator[np.ndarray]:
    """0 ... count - 1 cut into runs of at most `size`, of nearly equal lengths."""
    return iter(np.array_split(np.arange(count), -(-count // size)) if count else [])
