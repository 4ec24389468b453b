"""The k sources nearest to each target after deformation, on a GPU: bounds of all pairs first, then those in doubt.

A bound costs some fiftieth of a comparison. Sources are compared in rounds: first those that are likely the best, then
by their bounds, ascending, twice as many a round, until no bound is below a target's k-th best. The host waits once a
round, to learn how many pairs there are, and at both ends. All is in float32: a bound saves more than fewer bits would,
and is exact.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jr_dist.errors import InputError
from jr_dist.geometry import bound_kernels as kernels
from jr_dist.geometry import least_chamfer_kernels as on_cpu
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer
from jr_dist.geometry.chamfer_triton import launch, neighbours
from jr_dist.geometry.distance_field import ROUNDING
from jr_dist.geometry.distance_field import SLACK as FIELD_SLACK
from jr_dist.geometry.part_geometry import PartGeometry

#: cells of a field along the longest axis, and its vertices along each; making it costs as much as seven pairs
_ACROSS, _VERTICES = 22, 24
#: what bounds are lowered by, of themselves: sums of float32 in another order differ by less
_SLACK = 1e-5
#: sources of the first round, at the least
_FIRST = 8
#: fields made at a time: some 300 kB each
_FIELDS = 256
#: pairs compared at a time: some 150 kB each at 2048 points
_PAIRS = 2048
#: points of a program at a time
_BLOCK = 256
#: beyond every coordinate, yet with a square; beyond every bound
_FAR, _LARGEST = 1e19, 3e38


def least_on_device(
    geometry: PartGeometry,
    targets: Float[Tensor, "T N2 3"],
    centre: Float[Tensor, "T S P 3"],
    half_extent: Float[Tensor, "T S P 3"],
    visits: Int64[np.ndarray, "T V"],
    known: Float[np.ndarray, "T k"],
) -> tuple[Float[np.ndarray, "T S"], Int64[np.ndarray, "T C"]]:
    """Chamfer of every source that can be among the k best, infinity elsewhere, and what it took (`Least.work`).

    The values are those of `chamfer(deform(...))`, in every bit. `known` are the k best chamfers so far, ascending;
    the other arguments are those of `least_chamfers`, and so are its errors.
    """
    _check_finite("targets", targets)
    _check_finite("sources", geometry.points)
    bounds = lower_bounds(geometry, targets, centre, half_extent)
    likely = max(known.shape[1], _FIRST)
    order, bounds = _turns(torch.from_numpy(visits).to(targets.device), bounds, likely)
    first = best = torch.from_numpy(known).to(targets)
    sound = torch.ones((), dtype=torch.bool, device=targets.device)
    compared = torch.zeros(len(targets), dtype=torch.int64, device=targets.device)
    values = torch.full(order.shape, torch.inf, device=targets.device)
    start, width = 0, likely
    while start < order.shape[1]:
        turn = slice(start, start + width)
        in_doubt = (bounds[:, turn] < torch.inf) & (bounds[:, turn] <= best[:, -1:])
        target, place = in_doubt.nonzero(as_tuple=True)
        if len(target) == 0:
            break
        source = order[:, turn][target, place]
        found = _compared(geometry, targets, centre, half_extent, target, source)
        sound &= torch.isfinite(found).all()
        values[target, source] = found
        best = torch.cat([first, values], dim=1).topk(known.shape[1], largest=False)[0]
        compared += in_doubt.sum(1)
        start, width = start + width, 2 * width
    _check("sources after deformation", sound)
    num_compared = compared.cpu().numpy()
    work = np.zeros((len(targets), on_cpu.NUM_COUNTS), np.int64)
    work[:, on_cpu.BY_FIELD] = (visits >= 0).sum(1) - num_compared
    work[:, on_cpu.SEARCHED] = num_compared * (geometry.points.shape[1] + targets.shape[1])
    return values.cpu().numpy(), work


def lower_bounds(
    geometry: PartGeometry,
    targets: Float[Tensor, "T N2 3"],
    centre: Float[Tensor, "T S P 3"],
    half_extent: Float[Tensor, "T S P 3"],
) -> Float[Tensor, "T S"]:
    """None is above the chamfer of the pair as float32 computes it."""
    targets = targets.contiguous()
    bounds = targets.new_empty(centre.shape[:2])
    shift, growth = centre - geometry.centre, half_extent - geometry.half_extent
    source = (geometry.points, geometry.canonical, geometry.part_index, shift, growth)
    boxes = _boxes(geometry, centre, half_extent)
    arguments = [tensor.contiguous() for tensor in (*source, *boxes, targets, *_fields(targets))]
    sizes = (bounds.shape[1], geometry.points.shape[1], targets.shape[1], centre.shape[2])
    forms = {"SLACK": _SLACK, "FIELD_SLACK": float(FIELD_SLACK), "VERTICES": _VERTICES, "BLOCK": _BLOCK}
    launch(kernels.lower_bounds, bounds.numel(), *arguments, bounds, *sizes, **forms, num_warps=4)
    return bounds


def _boxes(geometry: PartGeometry, centre: Tensor, half_extent: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest corner, [T, S, P, 3] each, of boxes that hold the moved points of each part that has some."""
    points, q, part = geometry.points, geometry.canonical, geometry.part_index[..., None].expand(-1, -1, 3)
    start, size = geometry.centre, geometry.half_extent
    least = torch.full_like(start, torch.inf).scatter_reduce_(1, part, q, "amin")
    largest = torch.full_like(start, -torch.inf).scatter_reduce_(1, part, q, "amax")
    empty = least > largest
    least, largest = least.masked_fill(empty, 0.0), largest.masked_fill(empty, 0.0)
    # how far c0 + s0 q is from x, by rounding alone, and what rounding does to the moved point
    residual = (points - start.gather(1, part) - size.gather(1, part) * q).abs().amax((1, 2))[:, None, None]
    reach = torch.maximum(least.abs(), largest.abs())
    pad = residual + 2e-6 * (centre.abs() + half_extent.abs() * reach + start.abs() + size * reach)
    ends = half_extent * least, half_extent * largest
    low = centre + torch.minimum(*ends) - pad
    return low.masked_fill(empty, _FAR), (centre + torch.maximum(*ends) + pad).masked_fill(empty, _FAR)


def _fields(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Frames [T, 8] and values [T, VERTICES^3] (distance_field.Field); zeros where there is nothing to tell apart."""
    low, high = targets.amin(1), targets.amax(1)
    side = (high - low).amax(1, keepdim=True) / _ACROSS
    farthest = torch.maximum(low.abs(), high.abs()).amax(1, keepdim=True)
    useful = (side >= 1e-15) & (float(ROUNDING) * farthest <= 1e-5 * side)
    per_unit = torch.where(useful, 1 / side, 0.0)
    # a little more than the box on both sides, so that rounding leaves no point outside
    corner, extent = low - 1e-3 * side, (high - low) * per_unit + 2e-3
    steps = torch.arange(_VERTICES, device=targets.device, dtype=targets.dtype)
    grid = torch.cartesian_prod(steps, steps, steps)
    values = targets.new_empty(len(targets), len(grid))
    for some in torch.arange(len(targets), device=targets.device).split(_FIELDS):
        values[some], _ = neighbours(corner[some, None] + grid * side[some, None], targets, some)
    return torch.cat([corner, per_unit, side, extent], dim=1), torch.where(useful, values, 0.0)


def _turns(visits: Tensor, bounds: Tensor, likely: int) -> tuple[Tensor, Tensor]:
    """The sources of each target in the order of their turn, [T, S], and their bounds: infinity where not visited."""
    # what overflowed is far away, or of no known place
    bounds = bounds.nan_to_num(nan=0.0, posinf=_LARGEST)
    wanted = torch.full((len(visits), bounds.shape[1] + 1), torch.inf, device=bounds.device)
    wanted.scatter_(1, visits.where(visits >= 0, bounds.shape[1]), 0.0)
    bounds = bounds + wanted[:, :-1]
    first = torch.zeros_like(wanted)
    turns = torch.where((visits >= 0).cumsum(1) <= likely, visits, -1)
    first.scatter_(1, turns.where(turns >= 0, bounds.shape[1]), 1.0)
    bounds = torch.where(first[:, :-1] > 0, -1.0, bounds)  # below all others, and every limit
    bounds, order = bounds.sort(dim=1, stable=True)
    return order, bounds


def _compared(geometry, targets, centre, half_extent, target, source) -> Tensor:
    parts = []
    for t, s in zip(target.split(_PAIRS), source.split(_PAIRS), strict=True):
        moved = deform(geometry.take(s), centre[t, s], half_extent[t, s])
        parts.append(chamfer(moved, targets, y_index=t, backend="triton"))
    return torch.cat(parts)


def _check_finite(what: str, values: Tensor) -> None:
    _check(what, torch.isfinite(values).all())


def _check(what: str, finite: Tensor) -> None:
    if not bool(finite):
        raise InputError(
            f"chamfer: {what} hold a coordinate that is NaN, infinite or too large; finite points are allowed, so look "
            "where they come from"
        )
