"""The k sources nearest to each target after deformation, exactly: what `chamfer(deform(...), target)` finds, bit for
bit, without finishing the sources that a lower bound shows to be farther than the k-th best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jr_dist.errors import InputError
from jr_dist.geometry import least_chamfer_kernels as kernels
from jr_dist.geometry.blocks import run_blocks
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import Backend, as_array, chamfer, choose_backend
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.simd import LANES
from jr_dist.geometry.source_arrays import SourceArrays, fill_block

#: pairs at a time where all are compared: some 100 kB each at 2048 points
_SCANNED_PAIRS = 256
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class OrderedSources:
    """S sources as `least_chamfers` reads them: laid out once for all targets."""

    geometry: PartGeometry
    rows: np.ndarray  #: [S] int64, their names in results
    arrays: SourceArrays | None  #: None off the CPU


@dataclass(frozen=True)
class Least:
    """The k best sources of each of T targets, ascending; among equals the lower row comes first."""

    chamfer: np.ndarray  #: [T, k] float32, infinite where there are fewer
    rows: np.ndarray  #: [T, k] int64, -1 there
    work: np.ndarray  #: [T, NUM_COUNTS] int64, what was done to find them (least_chamfer_kernels.py); 0 in a plain scan


def nothing_yet(num_targets: int, k: int) -> Least:
    """To start from."""
    assert k >= 1, f"k is {k}; at least one source is kept"
    return Least(
        np.full((num_targets, k), np.inf, np.float32),
        np.full((num_targets, k), -1, np.int64),
        np.zeros((num_targets, kernels.NUM_COUNTS), np.int64),
    )


def ordered_sources(geometry: PartGeometry, rows: np.ndarray) -> OrderedSources:
    """Lay out sources, whose names are `rows` [S]. Raises `InputError` for points that are not finite (on the CPU)."""
    on_cpu = geometry.points.device.type == "cpu"
    return OrderedSources(geometry, rows.astype(np.int64), _arrays(geometry) if on_cpu else None)


def _arrays(geometry: PartGeometry) -> SourceArrays:
    num_sources, num_points = geometry.part_index.shape
    slots = num_points + -num_points % LANES
    num_parts = geometry.centre.shape[1]
    arrays = SourceArrays(
        points=np.empty((num_sources, 3, slots), np.float32),
        canonical=np.empty((num_sources, 3, slots), np.float32),
        parts=np.empty((num_sources, slots), np.int32),
        centre=as_array(geometry.centre),
        half_extent=as_array(geometry.half_extent),
        ranges=np.empty((num_sources, 2, num_parts, 3), np.float32),
        residual=np.empty(num_sources, np.float32),
        num_points=num_points,
    )
    given = (as_array(values) for values in (geometry.points, geometry.canonical, geometry.part_index))
    if code := run_blocks(partial(fill_block, *given, arrays), num_sources, torch.get_num_threads()):
        raise InputError(
            f"chamfer: source {code - 1} has a coordinate that is NaN, infinite or beyond 1e18; finite points are "
            "allowed, so look where they come from"
        )
    return arrays


def least_chamfers(
    sources: OrderedSources,
    targets: Float[Tensor, "T N2 3"],
    centre: Float[Tensor, "T S P 3"],
    half_extent: Float[Tensor, "T S P 3"],
    visits: Int[np.ndarray, "T V"],
    known: Least,
    *,
    backend: Backend = "auto",
) -> Least:
    """The k best of the sources known so far and of those visited, deformed to the boxes `centre`, `half_extent`.

    Args:
        visits: the sources (0 to S - 1) that each target meets, the likely best first: an order saves time and
            changes nothing. Negative entries are passed over.
        known: the best of other sources, or `nothing_yet`.

    The result equals, in every bit, all chamfers of `chamfer(deform(...), target, x_order=spatial_order(points))`
    sorted. Threads (torch.get_num_threads()) share the targets. Types other than float32 are compared one by one.

    Raises:
        InputError: a coordinate or a parameter that isn't finite.
    """
    assert visits.size == 0 or visits.max() < len(sources.rows), "visits are rows of the sources"
    for name, values in (("centre", centre), ("half_extent", half_extent)):
        if not bool(torch.isfinite(values).all()):
            raise InputError(
                f"chamfer: {name} holds NaN or infinity; finite boxes are allowed, so look where they come from"
            )
    visits = np.ascontiguousarray(visits, np.int64)
    backend = choose_backend(backend, targets, centre, half_extent)
    if backend == "triton":
        return _on_device(sources, targets, centre, half_extent, visits, known)
    if backend == "torch":
        return _scan(sources, targets, centre, half_extent, visits, known)
    best, rows, work = known.chamfer.copy(), known.rows.copy(), known.work.copy()
    assert sources.arrays is not None, "sources and targets are on one device"
    sequences = _sequence(sources.arrays.num_points), _sequence(targets.shape[1])
    boxes = as_array(centre), as_array(half_extent)
    block = partial(
        kernels.least_block,
        as_array(targets),
        sources.arrays,
        *boxes,
        visits,
        sources.rows,
        sequences,
        best,
        rows,
        work,
    )
    if code := run_blocks(block, len(targets), torch.get_num_threads()):
        what = f"target {code - 1}" if code > 0 else f"source {-code - 1} after deformation"
        raise InputError(
            f"chamfer: {what} has a coordinate that is NaN, infinite or beyond 1e18; finite points are allowed, so "
            "look where they come from"
        )
    return Least(best, rows, work)


def _sequence(num_points: int) -> np.ndarray:
    """The packets of a cloud in an order whose every beginning is spread evenly over the cloud."""
    packets = np.arange(-(-num_points // LANES))
    return np.argsort((packets + 1) * _GOLDEN % 1)


def _on_device(sources, targets, centre, half_extent, visits, known) -> Least:
    from jr_dist.geometry.least_chamfer_triton import least_on_device  # all but a GPU works without Triton

    best, rows = known.chamfer.copy(), known.rows.copy()
    values, work = least_on_device(sources.geometry, targets, centre, half_extent, visits, best)
    for t in range(len(targets)):
        visited = visits[t][visits[t] >= 0]
        both = np.concatenate([best[t], values[t, visited]]), np.concatenate([rows[t], sources.rows[visited]])
        best[t], rows[t] = _first(*both, best.shape[1])
    return Least(best, rows, known.work + work)


def _scan(sources, targets, centre, half_extent, visits, known) -> Least:
    best, rows = known.chamfer.copy(), known.rows.copy()
    for t, target in enumerate(targets):
        visited = visits[t][visits[t] >= 0]
        values = [known.chamfer[t]]
        for start in range(0, len(visited), _SCANNED_PAIRS):
            some = torch.from_numpy(visited[start : start + _SCANNED_PAIRS]).to(target.device)
            moved = deform(sources.geometry.take(some), centre[t, some], half_extent[t, some])
            same = torch.zeros_like(some)
            values.append(chamfer(moved, target[None], y_index=same, backend="torch").cpu().numpy())
        best[t], rows[t] = _first(
            np.concatenate(values), np.concatenate([known.rows[t], sources.rows[visited]]), best.shape[1]
        )
    return Least(best, rows, known.work)


def _first(values: np.ndarray, rows: np.ndarray, k: int) -> Sequence[np.ndarray]:
    order = np.lexsort((rows, values))[:k]
    return values[order], rows[order]
