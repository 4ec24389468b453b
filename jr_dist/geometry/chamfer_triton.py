"""The chamfer on a GPU: launches of the kernels in chamfer_kernels.py and matched_kernels.py.

For chamfer.py, symmetry.py, deformed.py and matched_sums.py.

No launch waits for the device, and every result has the same bits every time: distances meet in an atomic minimum,
whose order does not matter; gradients of parts are sums in a fixed order; those of points, where several neighbours
pull at one, are added as whole numbers. So there is no other, deterministic, mode.

Triton comes with torch on Linux. With TRITON_INTERPRET=1 in the environment it runs the kernels on the CPU, slowly: the
tests do.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float32, Float64, Int32, Int64
from torch import Tensor

from jr_dist.geometry import chamfer_kernels as kernels
from jr_dist.geometry.matched_kernels import match_parts

#: programs that fill a GPU several times over: few pairs are cut into more, shorter ones
_PROGRAMS = 8192
#: points of y that a program meets at the least
_LEAST_SPAN = 128
#: queries of a program that names neighbours, pulls at points or adds up matches, and of one that pulls at parts
_QUERIES, _PART_QUERIES = 128, 256
#: see the head of chamfer_kernels.py
_ROUNDED: dict[str, Any] = {"enable_fp_fusion": False}


class Neighbours(NamedTuple):
    """The nearest point of a cloud to each query, the first of equals, and which tables of clouds these are."""

    queries: Tensor  #: [A, N, 3] float32
    query_rows: Tensor  #: [M] int64
    cloud: Tensor  #: [B, N2, 3] float32
    cloud_rows: Tensor  #: [M] int64
    distances: Float32[Tensor, "M N"]  #: squared
    indices: Int32[Tensor, "M N"]


class Parts(NamedTuple):
    """What moves the points of sources: boxes.deform's arguments, with P parts."""

    points: Float32[Tensor, "M N 3"]
    canonical: Float32[Tensor, "M N 3"]
    part_index: Int64[Tensor, "M N"]
    shift: Float32[Tensor, "M P 3"]
    growth: Float32[Tensor, "M P 3"]


def neighbours(
    x: Float32[Tensor, "M N 3"], y: Float32[Tensor, "B N2 3"], rows: Int64[Tensor, " M"]
) -> tuple[Float32[Tensor, "M N"], Int64[Tensor, "M N"]]:
    """Squared distance and index of the point of y[rows[m]] nearest to each of x[m], the first of equals."""
    (look,) = _looks(x.contiguous(), y.contiguous(), rows, two_sided=False)
    return look.distances, look.indices.long()


def pairs(
    x: Float32[Tensor, "M N 3"],
    y: Float32[Tensor, "B N2 3"],
    rows: Int64[Tensor, " M"],
    *,
    two_sided: bool,
    gradients: tuple[bool, bool],
) -> tuple[Float32[Tensor, " M"], Float32[Tensor, "M N 3"] | None, Float32[Tensor, "M N2 3"] | None]:
    """Chamfer of pairs (x[m], y[rows[m]]), one direction unless two-sided, and its gradient to each cloud asked for."""
    looks = _looks(x.contiguous(), y.contiguous(), rows, two_sided=two_sided)
    value = _value(looks)
    if not two_sided:  # nobody looks from y: what isn't finite there shall show all the same
        value = value + (0 * y).sum((1, 2))[rows]
    there, back = looks if two_sided else (looks[0], None)
    to_x = _point_gradient(there, back) if gradients[0] else None
    to_y = _point_gradient(back, there) if gradients[1] else None
    return value, to_x, to_y


def mirror_pairs(
    points: Float32[Tensor, "M N 3"], *, gradient: bool
) -> tuple[Float32[Tensor, " M"], Float32[Tensor, "M N 3"] | None]:
    """Chamfer of each cloud with its mirror image in x = 0, and its gradient: one direction, doubled."""
    look = _mirror_look(points.contiguous())
    return 2 * _value([look]), _point_gradient(look, look, mirror=True) if gradient else None


def deformed_pairs(
    parts: Parts, y: Float32[Tensor, "B N2 3"], rows: Int64[Tensor, " M"], *, gradient: bool
) -> tuple[Float32[Tensor, "M N 3"], Float32[Tensor, " M"], Float32[Tensor, "M P 6"] | None]:
    """The points moved, their chamfer to y[rows[m]], and its gradient to shift and growth, one after the other."""
    parts = Parts(*(tensor.contiguous() for tensor in parts))
    moved, y = torch.empty_like(parts.points), y.contiguous()
    looks = _looks(moved, y, rows, two_sided=True, parts=parts)
    sums = None
    if gradient:
        sums = _part_sums(moved, parts, looks[0], from_x=True) + _part_sums(moved, parts, looks[1], from_x=False)
    return moved, _value(looks), sums


def deformed_matches(
    parts: Parts, y: Float32[Tensor, "B N2 3"], rows: Int64[Tensor, " M"], *, two_sided: bool
) -> tuple[Float64[Tensor, " M"], Float64[Tensor, "M P 3 5"]]:
    """What `matched_sums` gives for the points moved."""
    parts, y = Parts(*(tensor.contiguous() for tensor in parts)), y.contiguous()
    moved = torch.empty_like(parts.points)
    there, back = _looks(moved, y, rows, two_sided=True, parts=parts)
    loss, sums = _means(back, torch.float64), _match_sums(moved, parts, back, from_x=False)
    if two_sided:
        loss = loss + _means(there, torch.float64)
        sums = sums + _match_sums(moved, parts, there, from_x=True)
    return loss, sums


def deformed_mirror(
    points: Float32[Tensor, "M N 3"], parts: Parts, *, gradient: bool
) -> tuple[Float32[Tensor, " M"], Float32[Tensor, "M P 6"] | None]:
    """As `mirror_pairs`, of `points` that have moved with `parts`, with the gradient of `deformed_pairs`."""
    points = points.contiguous()
    look = _mirror_look(points)
    sums = None
    if gradient:
        parts = Parts(*(tensor.contiguous() for tensor in parts))
        sums = 2 * _part_sums(points, parts, look, from_x=True, mirror=True)
    return 2 * _value([look]), sums


def _looks(x, y, rows, *, two_sided: bool, parts: Parts | None = None) -> list[Neighbours]:
    """From x to y, and back where two-sided. With `parts`, x is what they move and is written."""
    own = torch.arange(len(x), device=x.device)
    from_x, from_y = _tables(x, x.shape[1], y.shape[1] if two_sided else 0)
    _search(x, y, rows, from_x, from_y if two_sided else None, parts=parts)
    there = _resolve(x, own, y, rows, from_x)
    return [there, _resolve(y, rows, x, own, from_y)] if two_sided else [there]


def _mirror_look(points) -> Neighbours:
    own = torch.arange(len(points), device=points.device)
    table, _ = _tables(points, points.shape[1], 0)
    _search(points, points, own, table, table, mirror=True)
    return _resolve(points, own, points, own, table, mirror=True)


def _tables(x, *widths: int) -> list[Tensor]:
    """Tables [M, width] of nothing found yet, filled at once."""
    whole = torch.full((len(x) * sum(widths),), kernels.NOTHING, dtype=torch.int64, device=x.device)
    return [table.view(len(x), -1) if len(x) else table for table in whole.split([len(x) * width for width in widths])]


def _search(x, y, rows, from_x, from_y, *, parts: Parts | None = None, mirror: bool = False) -> None:
    (num_pairs, num_x, _), num_y = x.shape, y.shape[1]
    num_tiles = _blocks(num_x, kernels.TILE)
    wanted = min(_blocks(_PROGRAMS, max(1, num_pairs * num_tiles)), _blocks(num_y, _LEAST_SPAN))
    span = _blocks(_blocks(num_y, wanted), kernels.STEP) * kernels.STEP
    num_splits = _blocks(num_y, span)
    # An argument that a form of the kernel never reads is stood for by x.
    source = (x,) * 5 if parts is None else parts
    to_y = x if from_y is None else from_y
    sizes = (num_x, num_y, source[3].shape[1], num_tiles, num_splits, span)
    forms = {"DEFORM": parts is not None, "MIRROR": mirror, "TWO_SIDED": from_y is not None}
    launch(kernels.search, num_pairs * num_tiles * num_splits, *source, x, y, rows, from_x, to_y, *sizes, **forms)


def _resolve(queries, query_rows, cloud, cloud_rows, table, *, mirror: bool = False) -> Neighbours:
    shape, num_queries = (len(query_rows), queries.shape[1]), queries.shape[1]
    distances = torch.empty(shape, dtype=torch.float32, device=queries.device)
    indices = torch.empty(shape, dtype=torch.int32, device=queries.device)
    blocks = _blocks(num_queries, _QUERIES)
    arguments = (queries, query_rows, cloud, cloud_rows, table, distances, indices, num_queries, cloud.shape[1], blocks)
    launch(kernels.resolve, len(query_rows) * blocks, *arguments, MIRROR=mirror, BLOCK=_QUERIES, num_warps=4)
    return Neighbours(queries, query_rows, cloud, cloud_rows, distances, indices)


def _value(looks: list[Neighbours]) -> Tensor:
    there, *back = (_means(look, torch.float32) for look in looks)
    return there + back[0] if back else there


def _means(look: Neighbours, dtype: torch.dtype) -> Tensor:
    """Of the distances of each pair. torch's own sum groups a row by how many rows there are: a pair's bits with it."""
    num_pairs, num_queries = look.distances.shape
    means = look.distances.new_empty(num_pairs, dtype=dtype)
    launch(kernels.row_means, num_pairs, look.distances, means, num_queries, BLOCK=_QUERIES, num_warps=4)
    return means


def _point_gradient(there: Neighbours | None, back: Neighbours | None, *, mirror: bool = False) -> Tensor:
    """The gradient of two looks' mean distances to the queries of `there`, which are the cloud of `back`: [M, N, 3]."""
    if there is not None:
        clouds, distances = (*there[:4], there.indices), there.distances
        num_queries, num_points = distances.shape[1], there.cloud.shape[1]
    else:
        assert back is not None, "a gradient comes from somewhere"
        clouds, distances = (*back[2:4], *back[:2], back.indices), back.distances
        num_queries, num_points = back.cloud.shape[1], distances.shape[1]
    gradient = distances.new_empty((len(distances), num_queries, 3))
    largest, counts, factor_counted = distances, clouds[-1], 0.0  # stand for what is not read
    if back is not None:
        largest, factor_counted = back.distances.max(1).values, (4 if mirror else 2) / back.distances.shape[1]
        counts = torch.zeros(gradient.shape, dtype=torch.int64, device=gradient.device)
        blocks = _blocks(back.distances.shape[1], _QUERIES)
        sizes = (back.distances.shape[1], num_queries, blocks)
        arguments = (*back[:4], back.indices, largest, counts, *sizes)
        launch(kernels.count_pulls, len(gradient) * blocks, *arguments, MIRROR=mirror, BLOCK=_QUERIES, num_warps=4)
    blocks = _blocks(num_queries, _QUERIES)
    factors, sizes = ((4 if mirror else 2) / num_queries, factor_counted), (num_queries, num_points, blocks)
    forms = {"MIRROR": mirror, "OWN": there is not None, "COUNTED": back is not None, "BLOCK": _QUERIES}
    arguments = (*clouds, largest, counts, gradient, *factors, *sizes)
    launch(kernels.point_gradient, len(gradient) * blocks, *arguments, **forms, num_warps=4)
    return gradient


def _part_sums(moved, parts: Parts, look: Neighbours, *, from_x: bool, mirror: bool = False) -> Tensor:
    """The gradient of the mean of a look's distances to shift and growth: [M, P, 6]."""
    (num_pairs, num_queries), num_parts = look.indices.shape, parts.shift.shape[1]
    y, rows = (look.cloud, look.cloud_rows) if from_x else (look.queries, look.query_rows)
    blocks = _blocks(num_queries, _PART_QUERIES)
    sums = moved.new_empty((num_pairs, blocks, num_parts, 6))
    sizes = (moved.shape[1], y.shape[1], num_queries, num_parts, blocks, 2 / num_queries)
    arguments = (moved, parts.canonical, parts.part_index, y, rows, look.indices, sums, *sizes)
    forms = {"FROM_X": from_x, "MIRROR": mirror, "BLOCK": _PART_QUERIES}
    launch(kernels.pull_parts, num_pairs * blocks, *arguments, **forms)
    return sums.sum(1)


def _match_sums(moved, parts: Parts, look: Neighbours, *, from_x: bool) -> Tensor:
    """The sums over the matches of one look, each of weight 1 / queries: [M, P, 3, 5] float64."""
    (num_pairs, num_queries), num_parts = look.indices.shape, parts.shift.shape[1]
    y, rows = (look.cloud, look.cloud_rows) if from_x else (look.queries, look.query_rows)
    blocks = _blocks(num_queries, _QUERIES)
    sums = torch.empty(num_pairs, blocks, num_parts, 3, 5, dtype=torch.float64, device=moved.device)
    sizes = (moved.shape[1], y.shape[1], num_queries, num_parts, blocks)
    arguments = (moved, parts.canonical, parts.part_index, y, rows, look.indices, sums, *sizes)
    launch(match_parts, num_pairs * blocks, *arguments, FROM_X=from_x, BLOCK=_QUERIES)
    return sums.sum(1) / num_queries


def launch(kernel, num_programs: int, *arguments, num_warps: int = 1, **forms) -> None:
    """Start so many programs of a kernel on the device of its first argument; none where there is nothing to do."""
    if num_programs:
        with torch.cuda.device_of(arguments[0]):
            kernel[(num_programs,)](*arguments, num_warps=num_warps, **forms, **_ROUNDED)


def _blocks(count: int, size: int) -> int:
    return -(-count // size)
