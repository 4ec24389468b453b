"""A lower bound of the squared distance from a point to a cloud, from a grid: 8 numbers looked up a point.

The grid holds the exact squared distance d^2 at its vertices. Inside, d^2(p) - |p|^2 = min_j (|y_j|^2 - 2 p y_j) is a
minimum of linear functions, so concave, and therefore not below its trilinear interpolation; with the interpolation of
|p|^2, which is known, d^2(p) >= interpolation of d^2 - side^2 (u (1 - u) + v (1 - v) + w (1 - w)) for a point at
(u, v, w) in its cell. A point p outside the grid's box, which holds the cloud, is farther than its projection p' on the
box: d^2(p) >= d^2(p') + |p - p'|^2.
"""

from typing import NamedTuple

import numpy as np
from numba import float32, int32

from jr_dist.geometry.gather_lanes import as_floats, gather, multiply_add_integers, whole
from jr_dist.geometry.leaves import Cloud, bound, new_cloud
from jr_dist.geometry.nearest import search, squared_length
from jr_dist.geometry.simd import LANES, compiled, maximum, minimum, multiply, multiply_add, splat, subtract

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "b637a59c9c8b3275"

#: cells along the longest axis of the cloud; only speed depends on it
ACROSS = 48
#: vertices along an axis at the most: a multiple of the 4 that are looked up together, above ACROSS + 2
VERTICES = 52
_BATCH = 64  # packets of vertices at a time
_ZERO, _ONE = np.float32(0), np.float32(1)
#: what bounds are lowered by, of d^2 + side^2: five times what rounding of the interpolation and its place can do
SLACK = np.float32(1.5e-4)
ROUNDING = np.float32(1.2e-7)


class Field(NamedTuple):
    """The field of one cloud after another."""

    frame: np.ndarray  #: [8] float32: lowest corner, cells a unit (0: no field), side, extent in cells along x, y, z
    size: np.ndarray  #: [3] int32, vertices along each axis
    values: np.ndarray  #: [VERTICES^3] float32, the last axis fastest
    queries: Cloud  #: room


@compiled
def new_field():
    """Room for fields."""
    values = np.empty(VERTICES * VERTICES * VERTICES, np.float32)
    return Field(np.empty(8, np.float32), np.empty(3, np.int32), values, new_cloud(_BATCH * LANES))


@compiled
def lay_out(cloud, field):
    """Make the field of a cloud (leaves.py)."""
    leaves = cloud.tree.shape[1] // LANES
    frame, size = field.frame, field.size
    longest, farthest = _ZERO, _ZERO
    for axis in range(3):
        low, high = cloud.boxes[axis, :leaves].min(), cloud.boxes[3 + axis, :leaves].max()
        frame[axis], frame[5 + axis] = low, high - low
        longest, farthest = max(longest, high - low), max(farthest, max(abs(low), abs(high)))
    side = longest / float32(ACROSS)
    # nothing to tell apart in a cloud of one place, or so far out that cells are not much wider than rounding
    if side < float32(1e-15) or ROUNDING * farthest > float32(1e-5) * side:
        frame[3] = _ZERO
        return
    frame[3], frame[4] = _ONE / side, side
    for axis in range(3):
        # a little more than the box on both sides, so that rounding leaves no point outside
        frame[axis] -= float32(1e-3) * side
        frame[5 + axis] = frame[5 + axis] * frame[3] + float32(2e-3)
        size[axis] = (int32(frame[5 + axis]) + 2 + 3) // 4 * 4
    _fill(cloud, field)


@compiled
def _fill(cloud, field):
    """The exact values, sixteen vertices (2 x 2 x 4) a packet."""
    frame, size, queries = field.frame, field.size, field.queries
    packets = (size[0] // 2) * (size[1] // 2) * (size[2] // 4)
    for start in range(0, packets, _BATCH):
        for packet in range(_BATCH):
            corner = _corner(min(start + packet, packets - 1), size)
            for lane in range(LANES):
                slot = packet * LANES + lane
                queries.tree[0, slot] = frame[0] + float32(corner[0] + lane // 8) * frame[4]
                queries.tree[1, slot] = frame[1] + float32(corner[1] + lane // 4 % 2) * frame[4]
                queries.tree[2, slot] = frame[2] + float32(corner[2] + lane % 4) * frame[4]
        bound(queries.tree, queries.boxes)
        search(queries, cloud)
        for packet in range(min(_BATCH, packets - start)):
            i, j, k = _corner(start + packet, size)
            for lane in range(LANES):
                at = ((i + lane // 8) * size[1] + j + lane // 4 % 2) * size[2] + k + lane % 4
                field.values[at] = queries.distances[packet * LANES + lane]


@compiled
def _corner(packet, size):
    """The first vertex of a packet."""
    across, deep = size[1] // 2, size[2] // 4
    return packet // (across * deep) * 2, packet // deep % across * 2, packet % deep * 4


@compiled
def lower_bounds(x, y, z, field):
    """Of sixteen points; none is above the squared distance as float32 brute force computes it."""
    frame, size = field.frame, field.size
    i, u, x_out = _place(x, frame[0], frame[3], frame[5])
    j, v, y_out = _place(y, frame[1], frame[3], frame[6])
    k, w, z_out = _place(z, frame[2], frame[3], frame[7])
    one, deep = splat(int32(1)), splat(size[2])
    here = multiply_add_integers(multiply_add_integers(i, splat(size[1]), j), deep, k)
    beside = multiply_add_integers(one, deep, here)
    above = multiply_add_integers(splat(size[1]), deep, here)
    across = multiply_add_integers(one, deep, above)
    low = _between(v, _along(field.values, here, one, w), _along(field.values, beside, one, w))
    high = _between(v, _along(field.values, above, one, w), _along(field.values, across, one, w))
    interpolated = multiply(_between(u, low, high), splat(_ONE - SLACK))
    bend = multiply_add(u, subtract(splat(_ONE), u), splat(float32(3) * SLACK))
    bend = multiply_add(v, subtract(splat(_ONE), v), bend)
    bend = multiply_add(w, subtract(splat(_ONE), w), bend)
    area = splat(frame[4] * frame[4])
    inside = maximum(subtract(interpolated, multiply(area, bend)), splat(_ZERO))
    side = splat(frame[4])  # in units of length before it is squared: cells may be so small that a count overflows
    outside = squared_length(multiply(x_out, side), multiply(y_out, side), multiply(z_out, side))
    return multiply_add(outside, splat(_ONE - SLACK), inside)


@compiled
def _place(values, low, per_unit, extent):
    """Cell, place in it from 0 to 1, and how many cells it lies outside the grid's box, along one axis."""
    at = multiply(subtract(values, splat(low)), splat(per_unit))
    inside = minimum(maximum(at, splat(_ZERO)), splat(extent))
    cell = whole(inside)
    return cell, subtract(inside, as_floats(cell)), subtract(at, inside)


@compiled
def _along(values, index, one, w):
    return _between(w, gather(values, index), gather(values, multiply_add_integers(one, one, index)))


@compiled
def _between(share, a, b):
    return multiply_add(share, subtract(b, a), a)
