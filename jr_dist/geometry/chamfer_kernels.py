"""The GPU kernels of the chamfer, in Triton. This file is imported on a GPU only: chamfer_triton.py launches them.

One pass over the distances serves both directions. A program is one warp; each of its lanes holds CHUNK points of x in
registers and the warp walks along points of y, STEP at a time. Squared distances are taken as differences, and the
least of them is all that the loop keeps:

- for a point of x in registers, with the chunk of y where it was found;
- for a point of y over the warp (distances are not negative, so their bits order as integers, for which a warp has one
  instruction), with the lane that held it: a chunk of x.

Both go to a table by an atomic minimum of (bits of the distance << 32 | chunk): the order in which programs come does
not matter, and of equally near chunks the first wins. `resolve` looks a chunk up again to name the point, the first of
equals as well, so every answer has the same bits every time.

No multiplication is fused with an addition unless `fma` says so (the launch turns it off): both looks at a pair then
round alike, and points move as they do in torch.
"""

# What Triton makes of these functions is not what their Python types say.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

#: points of x that a lane holds, and points of a chunk on both sides
CHUNK = 8
#: points of x that a program holds
TILE = 32 * CHUNK
#: points of y taken at a time: no more than a chunk, and a part of one
STEP = 8
#: where a table starts: beyond every distance
NOTHING = 2**63 - 1

_LANES = tl.constexpr(32)
_CHUNK = tl.constexpr(CHUNK)
_TILE = tl.constexpr(TILE)
_STEP = tl.constexpr(STEP)
#: stands for the coordinates of points beyond the last, on either side: its squares overflow to infinity, never to NaN
_FAR = tl.constexpr(1e30)
_LAST = tl.constexpr(2**31 - 1)
#: bits of the longest pull on a point; 24 more are left for the number of pulls
_PULL_BITS = tl.constexpr(38)


@triton.jit
def _squared(x0, x1, x2, y0, y1, y2):
    a = x0 - y0
    b = x1 - y1
    c = x2 - y2
    return tl.fma(c, c, tl.fma(b, b, a * a))


@triton.jit
def _load(points, n, mask, far):
    """Coordinates of the points n, or of one far away."""
    x0 = tl.load(points + n * 3, mask=mask, other=far)
    x1 = tl.load(points + n * 3 + 1, mask=mask, other=far)
    x2 = tl.load(points + n * 3 + 2, mask=mask, other=far)
    return x0, x1, x2


@triton.jit
def _moved(x, canonical, part, shift, growth, axis: tl.constexpr, mask):
    """An axis of x + shift[part] + growth[part] * q (boxes.deform), in its order of operations."""
    by = tl.load(shift + part * 3 + axis, mask=mask, other=0.0)
    times = tl.load(growth + part * 3 + axis, mask=mask, other=0.0)
    return x + by + times * tl.load(canonical + axis, mask=mask, other=0.0)


@triton.jit
def _step(
    x0, x1, x2, least, chunk, y, start, stop, to_y, first_chunk, sign, MASKED: tl.constexpr, TWO_SIDED: tl.constexpr
):  # fmt: skip
    """Meet STEP points of y from `start` on: the least distances of the points of x, and their chunks, brought on."""
    n = tl.arange(0, _STEP)
    here = y + start * 3
    if MASKED:
        y0, y1, y2 = _load(here, n, start + n < stop, -_FAR)
    else:
        y0, y1, y2 = _load(here, n, None, None)
    squared = _squared(x0[None], x1[None], x2[None], sign * y0[:, None, None], y1[:, None, None], y2[:, None, None])
    nearest = tl.min(squared, axis=0)
    chunk = tl.where(nearest < least, start // _CHUNK, chunk)
    least = tl.minimum(nearest, least)
    if TWO_SIDED:
        bits = tl.min(squared, axis=1).to(tl.int32, bitcast=True)
        of_warp = tl.min(bits, axis=1)
        lane = tl.arange(0, _LANES)
        who = tl.min(tl.where(bits == of_warp[:, None], lane[None, :], _LANES), axis=1)
        key = (of_warp.to(tl.int64) << 32) | (first_chunk + who).to(tl.int64)
        if MASKED:
            tl.atomic_min(to_y + start + n, key, mask=start + n < stop, sem="relaxed")
        else:
            tl.atomic_min(to_y + start + n, key, sem="relaxed")
    return least, chunk


@triton.jit
def search(
    x, canonical, part_index, shift, growth, moved, y, y_rows, from_x, from_y,
    num_x, num_y, num_parts, num_tiles, num_splits, span,
    DEFORM: tl.constexpr, MIRROR: tl.constexpr, TWO_SIDED: tl.constexpr,
):  # fmt: skip
    """Lower the tables from_x [M, N] and from_y [M, N2] to what TILE points of x[m] and a span of y[y_rows[m]] show.

    DEFORM: x are points of sources: they are moved with their parts on the way in, and written to `moved`. MIRROR: y is
    the mirror image of x in x = 0; the distances are symmetric, so a tile meets what follows it alone, and from_y is
    from_x.
    """
    program = tl.program_id(0)
    split = program % num_splits
    tile = (program // num_splits) % num_tiles
    pair = (program // num_splits // num_tiles).to(tl.int64)

    n = tile * _TILE + tl.arange(0, _LANES)[None, :] * _CHUNK + tl.arange(0, _CHUNK)[:, None]
    mask = n < num_x
    x += pair * num_x * 3
    x0, x1, x2 = _load(x, n, mask, _FAR)
    if DEFORM:
        q = canonical + pair * num_x * 3 + n * 3
        part = tl.load(part_index + pair * num_x + n, mask=mask, other=0)
        shift += pair * num_parts * 3
        growth += pair * num_parts * 3
        x0 = _moved(x0, q, part, shift, growth, 0, mask)
        x1 = _moved(x1, q, part, shift, growth, 1, mask)
        x2 = _moved(x2, q, part, shift, growth, 2, mask)
        if split == 0:
            out = moved + pair * num_x * 3 + n * 3
            tl.store(out, x0, mask=mask)
            tl.store(out + 1, x1, mask=mask)
            tl.store(out + 2, x2, mask=mask)

    if MIRROR:
        row = pair
        sign = -1.0
        start = tl.maximum(split * span, tile * _TILE)
    else:
        row = tl.load(y_rows + pair)
        sign = 1.0
        start = split * span
    y += row * num_y * 3
    to_y = from_y + pair * num_y
    stop = tl.minimum(split * span + span, num_y)
    least = tl.full([_CHUNK, _LANES], float("inf"), tl.float32)
    chunk = tl.zeros([_CHUNK, _LANES], tl.int32)
    if start < stop:
        whole = start + (stop - start) // _STEP * _STEP
        first = tile * _LANES
        for at in range(start, whole, _STEP):
            least, chunk = _step(x0, x1, x2, least, chunk, y, at, stop, to_y, first, sign, False, TWO_SIDED)
        if whole < stop:
            least, chunk = _step(x0, x1, x2, least, chunk, y, whole, stop, to_y, first, sign, True, TWO_SIDED)
        key = (least.to(tl.int32, bitcast=True).to(tl.int64) << 32) | chunk.to(tl.int64)
        tl.atomic_min(from_x + pair * num_x + n, key, mask=mask, sem="relaxed")


@triton.jit
def resolve(
    queries, query_rows, cloud, cloud_rows, table, distances, indices, num_queries, num_points, num_blocks,
    MIRROR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Squared distance and index of the nearest point, [M, N] each, from the chunk that `table` names."""
    program = tl.program_id(0)
    pair = (program // num_blocks).to(tl.int64)
    n = (program % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = n < num_queries
    queries += tl.load(query_rows + pair) * num_queries * 3
    cloud += tl.load(cloud_rows + pair) * num_points * 3
    q0, q1, q2 = _load(queries, n, mask, 0.0)
    key = tl.load(table + pair * num_queries + n, mask=mask, other=0)
    k = tl.arange(0, _CHUNK)
    among = (key & _LAST).to(tl.int32)[:, None] * _CHUNK + k[None, :]
    there = among < num_points
    y0, y1, y2 = _load(cloud, among, there, 0.0)
    if MIRROR:
        y0 = -y0
    squared = _squared(q0[:, None], q1[:, None], q2[:, None], y0, y1, y2)
    bits = tl.where(there, squared.to(tl.int32, bitcast=True), _LAST)
    least = tl.min(bits, axis=1)
    first = tl.min(tl.where(bits == least[:, None], among, _LAST), axis=1)
    tl.store(distances + pair * num_queries + n, least.to(tl.float32, bitcast=True), mask=mask)
    # a cloud of NaN may have named a chunk beyond its end
    tl.store(indices + pair * num_queries + n, tl.minimum(first, num_points - 1), mask=mask)


@triton.jit
def _half_exponent(largest):
    """The least n with largest < 4^n: no coordinate of a pull is longer than 2^n."""
    return ((largest.to(tl.int32, bitcast=True) >> 23) - 125) >> 1


@triton.jit
def _power_of_two(exponent):
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def count_pulls(
    queries, query_rows, cloud, cloud_rows, indices, largest, counts, num_queries, num_points, num_blocks,
    MIRROR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add to each point of the clouds, counts [M, N2, 3], nearest - query over the queries it is nearest to.

    Counted in whole numbers, which add up to the same in any order: in units so small that the longest pull, which the
    `largest` squared distance [M] bounds, has _PULL_BITS. MIRROR: the query pulls on the point whose image is nearest.
    """
    program = tl.program_id(0)
    pair = (program // num_blocks).to(tl.int64)
    n = (program % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = n < num_queries
    queries += tl.load(query_rows + pair) * num_queries * 3
    cloud += tl.load(cloud_rows + pair) * num_points * 3
    per_length = _power_of_two(-_half_exponent(tl.load(largest + pair)) + _PULL_BITS)
    nearest = tl.load(indices + pair * num_queries + n, mask=mask, other=0)
    for axis in tl.static_range(3):
        query = tl.load(queries + n * 3 + axis, mask=mask, other=0.0)
        if MIRROR and axis == 0:
            query = -query
        pull = (tl.load(cloud + nearest * 3 + axis, mask=mask, other=0.0) - query) * per_length
        tl.atomic_add(counts + (pair * num_points + nearest) * 3 + axis, pull.to(tl.int64), mask=mask, sem="relaxed")


@triton.jit
def point_gradient(
    queries, query_rows, cloud, cloud_rows, indices, largest, counts, gradient, factor, factor_counted,
    num_queries, num_points, num_blocks,
    MIRROR: tl.constexpr, OWN: tl.constexpr, COUNTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gradient [M, N, 3] of the queries: `factor` (query - nearest) if OWN, and what count_pulls counted for them."""
    program = tl.program_id(0)
    pair = (program // num_blocks).to(tl.int64)
    n = (program % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = n < num_queries
    if OWN:
        queries += tl.load(query_rows + pair) * num_queries * 3
        cloud += tl.load(cloud_rows + pair) * num_points * 3
        nearest = tl.load(indices + pair * num_queries + n, mask=mask, other=0)
    if COUNTED:
        length = factor_counted * _power_of_two(_half_exponent(tl.load(largest + pair)) - _PULL_BITS)
    for axis in tl.static_range(3):
        at = (pair * num_queries + n) * 3 + axis
        total = tl.zeros([BLOCK], tl.float32)
        if OWN:
            point = tl.load(cloud + nearest * 3 + axis, mask=mask, other=0.0)
            if MIRROR and axis == 0:
                point = -point
            total = (tl.load(queries + n * 3 + axis, mask=mask, other=0.0) - point) * factor
        if COUNTED:
            total += tl.load(counts + at, mask=mask, other=0).to(tl.float32) * length
        tl.store(gradient + at, total, mask=mask)


@triton.jit
def pull_parts(
    moved, canonical, part_index, y, y_rows, indices, sums, num_x, num_y, num_queries, num_parts, num_blocks, factor,
    FROM_X: tl.constexpr, MIRROR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Six sums a part over a block of queries, sums [M, num_blocks, P, 6]: of the pull on its points, and of pull * q.

    Queries are the points of x (FROM_X) or of y; either way the pull is on the point of x, times `factor`. MIRROR: y is
    the mirror image of x, so a query pulls on itself and on the point whose image is nearest.
    """
    program = tl.program_id(0)
    pair = (program // num_blocks).to(tl.int64)
    n = (program % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = n < num_queries
    moved += pair * num_x * 3
    canonical += pair * num_x * 3
    part_index += pair * num_x
    nearest = tl.load(indices + pair * num_queries + n, mask=mask, other=0)
    if MIRROR:
        y0, y1, y2 = _load(moved, nearest, mask, 0.0)
        y0 = -y0
        on = n
    else:
        y += tl.load(y_rows + pair) * num_y * 3
        if FROM_X:
            y0, y1, y2 = _load(y, nearest, mask, 0.0)
            on = n
        else:
            y0, y1, y2 = _load(y, n, mask, 0.0)
            on = nearest
    x0, x1, x2 = _load(moved, on, mask, 0.0)
    g0 = (x0 - y0) * factor
    g1 = (x1 - y1) * factor
    g2 = (x2 - y2) * factor
    q0, q1, q2 = _load(canonical, on, mask, 0.0)
    part = tl.load(part_index + on, mask=mask, other=-1).to(tl.int32)
    if MIRROR:
        r0, r1, r2 = _load(canonical, nearest, mask, 0.0)
        other = tl.load(part_index + nearest, mask=mask, other=-1).to(tl.int32)
    sums += program.to(tl.int64) * num_parts * 6
    for p in range(num_parts):
        own = part == p
        s0 = tl.where(own, g0, 0.0)
        s1 = tl.where(own, g1, 0.0)
        s2 = tl.where(own, g2, 0.0)
        t0 = s0 * q0
        t1 = s1 * q1
        t2 = s2 * q2
        if MIRROR:
            image = other == p
            u0 = tl.where(image, g0, 0.0)
            u1 = tl.where(image, -g1, 0.0)
            u2 = tl.where(image, -g2, 0.0)
            s0 += u0
            s1 += u1
            s2 += u2
            t0 += u0 * r0
            t1 += u1 * r1
            t2 += u2 * r2
        at = sums + p * 6
        tl.store(at, tl.sum(s0, axis=0))
        tl.store(at + 1, tl.sum(s1, axis=0))
        tl.store(at + 2, tl.sum(s2, axis=0))
        tl.store(at + 3, tl.sum(t0, axis=0))
        tl.store(at + 4, tl.sum(t1, axis=0))
        tl.store(at + 5, tl.sum(t2, axis=0))


@triton.jit
def row_means(values, means, num_columns, BLOCK: tl.constexpr):
    """The mean of each row in the type of `means`, added in an order that other rows have no say in."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), means.dtype.element_ty)
    for first in range(0, num_columns, BLOCK):
        at = first + lanes
        total += tl.load(values + row * num_columns + at, mask=at < num_columns, other=0.0).to(total.dtype)
    tl.store(means + row, tl.sum(total, 0) / num_columns)
