"""Exact nearest neighbours between clouds on the CPU: pruned, sixteen queries at a time, parallel over pairs.

A packet of 16 neighbouring queries meets the leaves of the other cloud (leaves.py): first the distance between boxes
drops most leaves for the whole packet, then the distance from each query to a leaf's box drops more, and what is left
is compared point by point. Rounding is monotone, so a box is never farther than a point inside it as computed: the
distances are those of float32 brute force, bit for bit.

A kernel does one block of pairs and returns 0, or m + 1 where cloud m of x is not finite, or -row - 1 for one of y.
"""

from functools import partial

import numpy as np
from numba import int32, uint32

from jr_dist.errors import InputError
from jr_dist.geometry.blocks import run_blocks
from jr_dist.geometry.gather_lanes import gather, load_integers
from jr_dist.geometry.key_lanes import both, compress, count, opposite, places
from jr_dist.geometry.leaves import mirrored, new_cloud, prepare
from jr_dist.geometry.simd import (
    LANES,
    bits,
    compiled,
    inlined,
    largest,
    less,
    load,
    lowest_bit,
    maximum,
    minimum,
    multiply,
    multiply_add,
    smallest,
    splat,
    store,
    subtract,
    where,
)

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "62ec4b86b07cb425"

_INFINITY = np.float32(np.inf)
_ZERO = np.float32(0)
_ALL = np.uint32(0xFFFF)
#: leaves whose bounds are below this share of the way to what the first leaf has found are looked at before the others
_SOON = np.float32(0.03)
#: clouds of y whose trees a block of `chamfer_matrix` keeps at a time (36 kB each at 2048 points)
MATRIX_TILE = 16


# ---- searching ---------------------------------------------------------------------------------


@compiled
def gap(low, high, other_low, other_high):
    """How far apart two intervals are, 0 where they overlap."""
    return maximum(maximum(subtract(low, other_high), subtract(other_low, high)), splat(_ZERO))


@compiled
def squared_length(x, y, z):
    return multiply_add(z, z, multiply_add(y, y, multiply(x, x)))


@compiled
def _box_bounds(query_boxes, packet, boxes, bounds):
    """Squared distance from a packet's box to every leaf's box; returns the least."""
    x0, x1 = splat(query_boxes[0, packet]), splat(query_boxes[3, packet])
    y0, y1 = splat(query_boxes[1, packet]), splat(query_boxes[4, packet])
    z0, z1 = splat(query_boxes[2, packet]), splat(query_boxes[5, packet])
    least = splat(_INFINITY)
    for i in range(0, bounds.shape[0], LANES):
        squared = squared_length(
            gap(x0, x1, load(boxes[0], i), load(boxes[3], i)),
            gap(y0, y1, load(boxes[1], i), load(boxes[4], i)),
            gap(z0, z1, load(boxes[2], i), load(boxes[5], i)),
        )
        store(bounds, i, squared)
        least = minimum(least, squared)
    return smallest(least)


@compiled
def _first_at(bounds, least):
    """The first leaf whose bound is the least one."""
    limit = splat(least)
    for i in range(0, bounds.shape[0], LANES):
        nearer = bits(less(limit, load(bounds, i))) ^ _ALL
        if nearer != 0:
            return i + lowest_bit(nearer)
    return 0


@inlined
def _any_within(x, y, z, boxes, leaf, best):
    """Whether a leaf's box is nearer to any query than its best so far."""
    dx = gap(x, x, splat(boxes[0, leaf]), splat(boxes[3, leaf]))
    dy = gap(y, y, splat(boxes[1, leaf]), splat(boxes[4, leaf]))
    dz = gap(z, z, splat(boxes[2, leaf]), splat(boxes[5, leaf]))
    return bits(less(squared_length(dx, dy, dz), best)) != 0


@inlined
def _compare(x, y, z, tree, leaf, best, index):
    """Sixteen queries against the sixteen points of a leaf."""
    for slot in range(leaf * LANES, leaf * LANES + LANES):
        squared = squared_length(
            subtract(x, splat(tree[0, slot])),
            subtract(y, splat(tree[1, slot])),
            subtract(z, splat(tree[2, slot])),
        )
        nearer = less(squared, best)
        best = where(nearer, squared, best)
        index = where(nearer, splat(int32(slot)), index)
    return best, index


@compiled
def _list_leaves(bounds, least, limit, leaves):
    """List the leaves whose bounds are from the least to below the limit; returns how many."""
    low, high = splat(least), splat(limit)
    number = 0
    for i in range(0, bounds.shape[0], LANES):
        bound = load(bounds, i)
        listed = both(less(bound, high), opposite(less(bound, low)))
        store(leaves, number, compress(places(int32(i), int32(1)), listed))
        number += count(listed)
    return number


@compiled
def search_packets(queries, cloud, packets):
    """For each slot of some packets of `queries` the squared distance to the nearest slot of `cloud`, and that slot.

    First comes the leaf with the least bound, then those about as near, and only then, by what these have found, the
    rest: the nearer a leaf, the more others it spares.
    """
    tree, boxes = cloud.tree, cloud.boxes
    bounds = np.empty(boxes.shape[1], np.float32)
    leaves = np.empty(boxes.shape[1] + LANES, np.int32)
    for packet in packets:
        start = packet * LANES
        x, y, z = load(queries.tree[0], start), load(queries.tree[1], start), load(queries.tree[2], start)
        least = _box_bounds(queries.boxes, packet, boxes, bounds)
        leaves[0] = _first_at(bounds, least)
        number, limit = 1, _ZERO
        best, index = splat(_INFINITY), splat(int32(0))
        for turn in range(3):
            if turn == 1:
                bounds[leaves[0]] = _INFINITY
                limit = least + _SOON * (largest(best) - least)
                number = _list_leaves(bounds, _ZERO, limit, leaves)
            elif turn == 2:
                number = _list_leaves(bounds, limit, largest(best), leaves)
            for i in range(number):
                if _any_within(x, y, z, boxes, leaves[i], best):
                    best, index = _compare(x, y, z, tree, leaves[i], best, index)
        store(queries.distances, start, best)
        store(queries.nearest, start, index)


@compiled
def search(queries, cloud):
    """`search_packets` of all of them."""
    search_packets(queries, cloud, range(queries.tree.shape[1] // LANES))


# ---- one block of pairs a call -----------------------------------------------------------------


@compiled
def mean_distance(queries):
    total = 0.0
    for i in range(len(queries.order)):
        total += queries.distances[i]
    return total / len(queries.order)


@compiled
def _add_gradient(queries, cloud, to_queries, to_cloud):
    """Of mean |q - nearest|^2, to either or both: each query is drawn to its nearest point, and that point to it."""
    scale = splat(np.float32(2 / len(queries.order)))
    pull = queries.pull
    for i in range(0, len(queries.nearest), LANES):
        nearest = load_integers(queries.nearest, i)
        for axis in range(3):
            there = gather(cloud.tree[axis], nearest)
            store(pull[axis], i, multiply(scale, subtract(load(queries.tree[axis], i), there)))
    if to_queries:
        queries.gradient[:] += pull
    if to_cloud:
        for i in range(len(queries.order)):
            nearest = uint32(
                queries.nearest[i]
            )  # without a sign: numba then need not ask whether to count from the end
            for axis in range(3):
                cloud.gradient[axis, nearest] -= pull[axis, i]


@compiled
def _put_back(cloud, gradient):
    for i in range(len(cloud.order)):
        point = cloud.order[i]
        for axis in range(3):
            gradient[point, axis] = cloud.gradient[axis, i]


@compiled
def _pairs_block(pairs, x, y, rows, x_orders, y_orders, two_sided, value, gradient_x, gradient_y):
    """Chamfer (or the half that looks from x to y) of some pairs; the gradients wanted are those with rows."""
    here, there = new_cloud(x.shape[1]), new_cloud(y.shape[1])
    prepared = -1
    for m in pairs:
        if not prepare(x[m], x_orders, m, here):
            return m + 1
        if rows[m] != prepared:
            prepared = rows[m]
            if not prepare(y[prepared], y_orders, prepared, there):
                return -prepared - 1
        search(here, there)
        value[m] = mean_distance(here)
        if two_sided:
            search(there, here)
            value[m] += mean_distance(there)
        to_x, to_y = len(gradient_x) > 0, len(gradient_y) > 0
        here.gradient[:] = 0
        there.gradient[:] = 0
        _add_gradient(here, there, to_x, to_y)
        if two_sided:
            _add_gradient(there, here, to_y, to_x)
        if to_x:
            _put_back(here, gradient_x[m])
        if to_y:
            _put_back(there, gradient_y[m])
    return 0


@compiled
def _mirror_block(x, x_orders, value, gradient, start, stop):
    """Chamfer of each cloud with its mirror image, whose two directions are equal: one search, doubled."""
    here, image = new_cloud(x.shape[1]), new_cloud(x.shape[1])
    for m in range(start, stop):
        if not prepare(x[m], x_orders, m, here):
            return m + 1
        mirrored(here, image)
        search(here, image)
        value[m] = 2 * mean_distance(here)
        if len(gradient) > 0:
            here.gradient[:] = 0
            image.gradient[:] = 0
            _add_gradient(here, image, True, True)
            here.gradient[0] -= image.gradient[0]
            here.gradient[1:] += image.gradient[1:]
            here.gradient[:] *= np.float32(2)
            _put_back(here, gradient[m])
    return 0


@compiled
def _neighbours_block(pairs, x, y, rows, x_orders, y_orders, distances, indices):
    here, there = new_cloud(x.shape[1]), new_cloud(y.shape[1])
    prepared = -1
    for m in pairs:
        if not prepare(x[m], x_orders, m, here):
            return m + 1
        if rows[m] != prepared:
            prepared = rows[m]
            if not prepare(y[prepared], y_orders, prepared, there):
                return -prepared - 1
        search(here, there)
        for i in range(x.shape[1]):
            distances[m, here.order[i]] = here.distances[i]
            indices[m, here.order[i]] = there.order[here.nearest[i]]
    return 0


@compiled
def _matrix_block(x, y, value, sides, start, stop, first, last):
    """Rows first:last, columns start:stop: the trees of those y are built once, each x's once."""
    here = new_cloud(x.shape[1])
    none = np.empty((0, 0), np.int32)
    tile = [new_cloud(y.shape[1]) for _ in range(start, stop)]
    for column in range(start, stop):
        if not prepare(y[column], none, column, tile[column - start]):
            return -column - 1
    for row in range(first, last):
        if not prepare(x[row], none, row, here):
            return row + 1
        for column in range(start, stop):
            there = tile[column - start]
            value[row, column] = 0
            if sides[0]:
                search(here, there)
                value[row, column] += mean_distance(here)
            if sides[1]:
                search(there, here)
                value[row, column] += mean_distance(there)
    return 0


@compiled
def _order_block(x, orders, start, stop):
    here = new_cloud(x.shape[1])
    none = np.empty((0, 0), np.int32)
    for m in range(start, stop):
        if not prepare(x[m], none, m, here):
            return m + 1
        orders[m] = here.order
    return 0


# ---- what chamfer.py calls ---------------------------------------------------------------------

_NO_ORDER = np.empty((0, 0), np.int32)


def pairs(x, y, rows, x_orders, y_orders, *, two_sided, gradients, num_threads):
    """Value [M] float32 and gradients [M, N, 3] and [M, N2, 3] (empty unless asked for) of pairs (x[m], y[rows[m]])."""
    value = np.empty(len(x), np.float64)
    gradient_x = np.empty(x.shape if gradients[0] else (0, 0, 3), np.float32)
    gradient_y = np.empty((len(x), *y.shape[1:]) if gradients[1] else (0, 0, 3), np.float32)
    sequence = np.argsort(rows, kind="stable")  # pairs that share a y follow each other, and it is cut once

    def block(start, stop):
        some = sequence[start:stop]
        return _pairs_block(some, x, y, rows, x_orders, y_orders, two_sided, value, gradient_x, gradient_y)

    _in_blocks(block, len(x), num_threads)
    return value.astype(np.float32), gradient_x, gradient_y


def mirror_pairs(x, x_orders, *, gradient, num_threads):
    """Chamfer [M] of each cloud with its mirror image in x = 0, and its gradient [M, N, 3]."""
    value = np.empty(len(x), np.float64)
    to_x = np.empty(x.shape if gradient else (0, 0, 3), np.float32)
    _in_blocks(partial(_mirror_block, x, x_orders, value, to_x), len(x), num_threads)
    return value.astype(np.float32), to_x


def neighbours(x, y, rows, *, num_threads):
    """Squared distance [M, N] float32 and index [M, N] int64 of the nearest point of y[rows[m]]."""
    distances, indices = np.empty(x.shape[:2], np.float32), np.empty(x.shape[:2], np.int64)
    sequence = np.argsort(rows, kind="stable")

    def block(start, stop):
        return _neighbours_block(sequence[start:stop], x, y, rows, _NO_ORDER, _NO_ORDER, distances, indices)

    _in_blocks(block, len(x), num_threads)
    return distances, indices


def matrix(x, y, *, num_threads, sides=(True, True), names=("x", "y")):
    """Chamfer [A, B] float32 of each cloud of x with each of y; `names` are theirs in messages.

    `sides`: whether the half that looks from x to y counts, and the one from y to x.
    """
    if len(x) < len(y):  # rows are what threads share
        return matrix(y, x, num_threads=num_threads, sides=sides[::-1], names=names[::-1]).T.copy()
    value = np.empty((len(x), len(y)), np.float64)
    for start in range(0, len(y), MATRIX_TILE):
        stop = min(start + MATRIX_TILE, len(y))
        _in_blocks(partial(_matrix_block, x, y, value, sides, start, stop), len(x), num_threads, names)
    return value.astype(np.float32)


def spatial_order(x, *, num_threads):
    """The kd order [M, N] int32 of each cloud."""
    orders = np.empty(x.shape[:2], np.int32)
    _in_blocks(partial(_order_block, x, orders), len(x), num_threads)
    return orders


def _in_blocks(block, count, num_threads, names=("x", "y")):
    code = run_blocks(block, count, num_threads)
    if code:
        raise InputError(
            f"chamfer: cloud {abs(code) - 1} of {names[code < 0]} has a coordinate that is NaN, infinite or beyond "
            "1e18; finite points are allowed, so look where they come from"
        )
