"""Sources deformed to targets and measured: some of them (what retrieval offers), or the best of all (the oracle).

The oracle deforms and bounds all T x S pairs and finishes those that can be among the k best (geometry/
least_chamfer.py), so its answer is that of the full scan. Sources are laid out once a call, a block at a time, and what
was found in one block bounds the next: memory stays bounded however many sources there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jr_dist.evaluate import metrics
from jr_dist.evaluate.methods import TrainedModelLike
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer, chamfer_matrix, spatial_order
from jr_dist.geometry.chamfer import one_sided as half_chamfer
from jr_dist.geometry.least_chamfer import Least, OrderedSources, least_chamfers, nothing_yet, ordered_sources
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import BEND_MARGIN, MINIMUM_SCALE

MAX_PAIRS = 512  # pairs at once: 80 kB each at 2048 points where all belong to one target
ORACLE_SOURCES = 512  # of a block of the oracle, some 130 kB each at 2048 points
ORACLE_PAIRS = 4096  # whose parameters the oracle holds, 0.4 kB each at 16 parts
#: the share of itself that a half-extent stops at where nothing forces it further down
FLOOR = BEND_MARGIN * MINIMUM_SCALE

Report = Callable[[int], None]  # told how many pairs were finished


@dataclass(frozen=True)
class Cases:
    """T targets as they are seen, and the truth that errors are measured to, both in the observed frame."""

    observed: Tensor  # [T, M, 3]
    truth: Tensor  # [T, N, 3]
    scale: np.ndarray  # [T] float64: a length there times the scale is one in the truth's canonical frame
    pictures: Tensor | None = None  # [T, 3, S, S] uint8: what runs see, where they see no points

    @property
    def shown(self) -> Tensor:
        """What a run is given of each target."""
        return self.observed if self.pictures is None else self.pictures


@dataclass(frozen=True)
class PairFits:
    """K sources deformed to each of T targets, [T, K] float64 each."""

    chamfer: np.ndarray  # to the truth, in its canonical frame: squared, mean over points, both directions added
    observed: np.ndarray  # the error that is seen, in the observed frame
    gap: np.ndarray  # widest joint gap, units of the observed frame
    at_floor: np.ndarray  # share of half-extents at the least scale allowed


@dataclass(frozen=True)
class Oracle:
    """The k sources that fit each of T targets best, best first; of sources that fit equally, the lower row."""

    rows: np.ndarray  # [T, k] int64
    chamfer: np.ndarray  # [T, k] float64, to the truth, in its canonical frame
    gap: np.ndarray  # [T] widest joint gap over all sources
    at_floor: np.ndarray  # [T] mean share of half-extents at the least scale allowed, over all sources
    work: np.ndarray  # [T, NUM_COUNTS] int64, what it took (geometry/least_chamfer_kernels.py)


def undeformed_chamfer(
    store: Any,
    points: Tensor,
    *,
    num_points: int | None = None,
    one_sided: bool = False,
    device: str = "cpu",
    max_pairs: int = MAX_PAIRS,
    report: Report | None = None,
) -> np.ndarray:
    """(T, S) float64 chamfer of clouds `points` (T, N, 3) to all sources as they stand.

    `num_points` of a source are looked at, by default as many as a cloud has; `one_sided` looks from the clouds to the
    sources alone.
    """
    num_sources, result = len(store.ids), np.empty((len(points), len(store.ids)))
    for rows in blocks(num_sources, max_pairs):
        sources = store.clouds(rows, num_points or points.shape[1]).to(device)
        for targets in blocks(len(points), max(1, max_pairs // len(rows))):
            part = chamfer_matrix(points[targets].to(device), sources, two_sided=not one_sided)
            result[np.ix_(targets, rows)] = part.cpu().numpy()
            if report:
                report(part.numel())
    return result


# ---- some sources ----------------------------------------------------------------------------------------------------


def fits_of(
    model: TrainedModelLike,
    store: Any,
    cases: Cases,
    rows: np.ndarray,
    *,
    one_sided: bool = False,
    device: str = "cpu",
    report: Report | None = None,
) -> PairFits:
    """The sources `rows` (T, K) deformed by `model` to what is seen of the targets, and measured to the truth.

    `observed` is two-sided, or from the observation to the source alone. Raises FloatingPointError where the model's
    parameters are not finite.
    """
    fits = PairFits(*(np.empty(rows.shape) for _ in range(4)))
    for targets in blocks(len(rows), max(1, MAX_PAIRS // rows.shape[1])):
        centre, half_extent = _parameters(model, store, cases.shown[targets], rows[targets])
        for target, boxes in zip(targets, zip(centre, half_extent, strict=True), strict=True):
            block = _source_block(store, rows[target], cases.truth.shape[1], device)
            fits.gap[target], fits.at_floor[target] = block.soundness(*boxes)
            deformed, order = deform(block.geometry, *boxes), None
            if deformed.device.type == "cpu":
                order = spatial_order(block.geometry.points)
            index = torch.full((len(deformed),), int(target), device=deformed.device)
            fits.chamfer[target], fits.observed[target] = errors(deformed, index, cases, one_sided, order)
        if report:
            report(rows[targets].size)
    return fits


@torch.no_grad()
def errors(
    clouds: Tensor, index: Tensor, cases: Cases, one_sided: bool, order: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(M,) float64 each: chamfer of clouds (M, N, 3) to the truth of the targets `index` (M,), and the error seen.

    The first in the truth's canonical frame, the second in the observed one, two-sided or from the observation alone.
    `order` is the clouds' `spatial_order`, which saves time.
    """
    truth, observed = cases.truth.to(clouds.device), cases.observed.to(clouds.device)
    whole = chamfer(clouds, truth, y_index=index, x_order=order)
    if one_sided:
        seen = half_chamfer(observed[index], clouds, y_order=order)
    elif cases.observed is cases.truth:
        seen = whole
    else:
        seen = chamfer(clouds, observed, y_index=index, x_order=order)
    whole, seen = (values.double().cpu().numpy() for values in (whole, seen))
    return whole * cases.scale[index.cpu().numpy()] ** 2, seen


# ---- the best of all -------------------------------------------------------------------------------------------------


def oracle(
    model: TrainedModelLike,
    store: Any,
    cases: Cases,
    order: np.ndarray,
    *,
    k: int = 1,
    known: tuple[np.ndarray, np.ndarray] | None = None,
    device: str = "cpu",
    report: Report | None = None,
) -> Oracle:
    """The k best (all, where there are fewer) of the sources of `store`, deformed to what is seen, by fit to the truth.

    Args:
        order: (T, S) all sources of each target, the likely best first: it saves time and changes nothing.
        known: rows and chamfers, (T, K) each, that `fits_of` gave already: those pairs are not measured again.

    Raises FloatingPointError where the model's parameters are not finite.
    """
    num_targets, num_sources = order.shape
    assert num_sources == len(store.ids), "an order of all sources"
    k = min(k, num_sources)
    rows, values = known or (np.empty((num_targets, 0), np.int64), np.empty((num_targets, 0)))
    least = _known(rows, values, cases.scale, k)
    gap, at_floor = np.zeros(num_targets), np.zeros(num_targets)
    measured = np.zeros(order.shape, bool)
    np.put_along_axis(measured, rows, True, axis=1)
    measured = np.take_along_axis(measured, order, axis=1)
    for sources in blocks(num_sources, ORACLE_SOURCES):
        block = _source_block(store, sources, cases.truth.shape[1], device)
        laid_out = ordered_sources(block.geometry, sources)
        place = np.full(num_sources, -1)
        place[sources] = np.arange(len(sources))
        for targets in blocks(num_targets, max(1, ORACLE_PAIRS // len(sources))):
            visits = place[order[targets]]
            visits[measured[targets]] = -1
            found = _least_block(model, store, cases, laid_out, targets, visits, least, block)
            gap[targets] = np.maximum(gap[targets], found[0].max(1))
            at_floor[targets] += found[1].sum(1) / num_sources
            if report:
                report(len(targets) * len(sources))
    return Oracle(least.rows, least.chamfer * cases.scale[:, None] ** 2, gap, at_floor, least.work)


def _least_block(
    model: TrainedModelLike,
    store: Any,
    cases: Cases,
    sources: OrderedSources,
    targets: np.ndarray,
    visits: np.ndarray,
    least: Least,
    block: _Block,
) -> tuple[np.ndarray, np.ndarray]:
    """Bring the rows `targets` of `least` up to date; gap and share at the floor, (B, K) each."""
    rows = np.tile(sources.rows, (len(targets), 1))
    centre, half_extent = _parameters(model, store, cases.shown[targets], rows)
    truth = cases.truth[targets].to(centre.device)
    before = Least(*(values[targets] for values in (least.chamfer, least.rows, least.work)))
    after = least_chamfers(sources, truth, centre, half_extent, visits, before)
    least.chamfer[targets], least.rows[targets], least.work[targets] = after.chamfer, after.rows, after.work
    return block.soundness(centre, half_extent)


def _known(rows: np.ndarray, values: np.ndarray, scale: np.ndarray, k: int) -> Least:
    """The k best of the pairs known."""
    least = nothing_yet(len(rows), k)
    best = np.lexsort((rows, values), axis=1)[:, :k]
    # float32 numbers that were multiplied in float64 come back exactly
    found = (np.take_along_axis(values, best, axis=1) / scale[:, None] ** 2).astype(np.float32)
    least.chamfer[:, : best.shape[1]], least.rows[:, : best.shape[1]] = found, np.take_along_axis(rows, best, axis=1)
    return least


# ---- both ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _parameters(model: TrainedModelLike, store: Any, shown: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Centre and half-extent, (T, K, P, 3) each. Raises FloatingPointError where one is not finite."""
    centre, half_extent = model.deform(shown, torch.from_numpy(np.ascontiguousarray(rows)), store)
    if not (torch.isfinite(centre).all() and torch.isfinite(half_extent).all()):
        raise FloatingPointError("its deformation parameters are not finite")
    return centre, half_extent


@dataclass(frozen=True)
class _Block:
    """K sources."""

    geometry: PartGeometry
    joint_parts: Tensor  # [K, J, 2] int64, -1 where padded
    joint_coordinates: Tensor  # [K, J, 2, 3] float64

    def soundness(self, centre: Tensor, half_extent: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Widest joint gap and share of half-extents at their floor, (..., K) each, in boxes (..., K, P, 3)."""
        gap = metrics.joint_gap(centre, half_extent, self.joint_parts, self.joint_coordinates)
        undeformed, mask = self.geometry.half_extent, self.geometry.part_mask
        return gap.cpu().numpy(), metrics.share_at_floor(half_extent, undeformed, mask, FLOOR).cpu().numpy()


def _source_block(store: Any, rows: np.ndarray, num_points: int, device: str) -> _Block:
    geometry = store.geometry(rows, device=device, num_points=num_points)
    return _Block(geometry, *(values.to(device) for values in padded_joints([store.joints(int(row)) for row in rows])))


def padded_joints(joints: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Joints of several sources as (S, J, 2) int64, -1 where padded, and (S, J, 2, 3) float64."""
    num_joints = max((len(parts) for parts, _ in joints), default=0)
    all_parts = np.full((len(joints), num_joints, 2), -1, np.int64)
    all_coordinates = np.zeros((len(joints), num_joints, 2, 3))
    for row, (parts, coordinates) in enumerate(joints):
        all_parts[row, : len(parts)], all_coordinates[row, : len(parts)] = parts, coordinates
    return torch.from_numpy(all_parts), torch.from_numpy(all_coordinates)


def blocks(count: int, size: int) -> Iterator[np.ndarray]:
    """0 ... count - 1 cut into runs of at most `size`, of nearly equal lengths."""
    return iter(np.array_split(np.arange(count), -(-count // size)) if count else [])
