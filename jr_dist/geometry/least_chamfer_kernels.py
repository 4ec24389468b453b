"""The k sources nearest to a target after deformation: a source is given up once it can't be among them.

First come bounds: from the target's points to the boxes of the source's parts, then from the source's points to the
target by a field made once a target (distance_field.py). Sources that these don't rule out are compared exactly, packet
by packet in both directions, each packet's distances in the place of its bound; packets follow each other across the
whole shape, so that a sum over some of them tells early. What is left is added up in the order that `chamfer` uses.
"""

import numpy as np
from numba import float32

from jr_dist.geometry.distance_field import lay_out, lower_bounds, new_field
from jr_dist.geometry.gather_lanes import gather, load_integers
from jr_dist.geometry.leaves import LARGEST_COORDINATE, bound, new_cloud, prepare
from jr_dist.geometry.nearest import gap, mean_distance, search_packets, squared_length
from jr_dist.geometry.simd import (
    LANES,
    bits,
    compiled,
    less,
    load,
    maximum,
    minimum,
    multiply,
    multiply_add,
    splat,
    store,
    subtract,
)

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "1207076daca7f410"

#: packets of exact comparison, and of bounds, between two looks at the sum
_STRIDE, _BOUND_STRIDE = 4, 16
#: sums of float64 in another order, and bounds against distances as float32 computes them, differ by less of themselves
_SUM_SLACK, _BOX_SLACK = 1e-9, np.float32(1e-5)
#: what is counted a target: sources given up by the boxes of their parts, by the field, after some exact distances;
#: points (of sources and of the target) whose nearest neighbour was searched for
BY_BOXES, BY_FIELD, BY_SUM, SEARCHED = range(4)
NUM_COUNTS = 4
_FARTHEST = np.float32(3e38)
_TOO_LARGE = np.nextafter(LARGEST_COORDINATE, np.float32(np.inf))
_ZERO, _ONE = np.float32(0), np.float32(1)
_NOT_FINITE, _GIVEN_UP = -1.0, -2.0


@compiled
def least_block(targets, sources, centre, half, visits, rows, sequences, best, best_rows, work, start, stop):
    """The targets start:stop. Returns 0, or t + 1 where target t is not finite, or -s - 1 for a deformed source s.

    Args: targets [T, N2, 3]; sources: SourceArrays; centre, half [T, S, P, 3] after deformation; visits [T, V] sources
    in the order of their turn, negative where there is none; rows [S] their names; sequences: the order of packets, of
    sources and of the target; best [T, k] float32 and best_rows [T, k] int64, ascending, which are kept up; work
    [T, NUM_COUNTS] int64, added to.
    """
    num_points = sources.num_points
    target, moved = new_cloud(targets.shape[1]), new_cloud(num_points)
    field = new_field()
    lower = np.empty(len(sequences[0])), np.empty(len(sequences[1]))
    boxes = np.empty((6, centre.shape[2]), np.float32)
    none = np.empty((0, 0), np.int32)
    for t in range(start, stop):
        if not prepare(targets[t], none, t, target):
            return t + 1
        lay_out(target, field)
        for s in visits[t]:
            if s < 0:
                continue
            limit = best[t, -1]
            here = centre[t, s], half[t, s]
            value = _by_boxes(sources, s, here, target, boxes, lower[1], sequences[1], limit)
            if value < 0:
                work[t, BY_BOXES] += 1
                continue
            value = _by_field(sources, s, here, moved, field, lower[0], value, sequences[0], limit)
            if value == _NOT_FINITE:
                return -s - 1
            if value < 0:
                work[t, BY_FIELD] += 1
                continue
            value = _exactly(moved, target, lower, value, sequences, limit, work[t])
            if value < 0:
                work[t, BY_SUM] += 1
                continue
            _insert(best[t], best_rows[t], float32(value), rows[s])
    return 0


@compiled
def _beyond(chamfer, limit):
    """Whether a chamfer of at least this much is above the limit once it is rounded to float32."""
    return float32(chamfer * (1 - _SUM_SLACK)) > limit


# ---- bounds ------------------------------------------------------------------------------------


@compiled
def _by_boxes(sources, s, deformed, target, boxes, lower, sequence, limit):
    """The bound of the half that looks from the target to the source, `lower` of each packet, or `_GIVEN_UP`."""
    count = _part_boxes(sources, s, deformed, boxes)
    num_points = len(target.order)
    room = np.empty(LANES, np.float32)
    total = 0.0
    for number in range(len(sequence)):
        packet = sequence[number]
        first = packet * LANES
        x, y, z = load(target.tree[0], first), load(target.tree[1], first), load(target.tree[2], first)
        least = splat(_FARTHEST)
        for part in range(count):
            squared = squared_length(
                gap(x, x, splat(boxes[0, part]), splat(boxes[3, part])),
                gap(y, y, splat(boxes[1, part]), splat(boxes[4, part])),
                gap(z, z, splat(boxes[2, part]), splat(boxes[5, part])),
            )
            least = minimum(least, squared)
        store(room, 0, multiply(least, splat(_ONE - _BOX_SLACK)))
        lower[packet] = _sum(room, 0, min(LANES, num_points - first))
        total += lower[packet]
        if number % _BOUND_STRIDE == 0 and _beyond(total / num_points, limit):
            return _GIVEN_UP
    return _GIVEN_UP if _beyond(total / num_points, limit) else total / num_points


@compiled
def _part_boxes(sources, s, deformed, boxes):
    """Boxes that hold the deformed points of each part that has some; returns how many."""
    count = 0
    for part in range(boxes.shape[1]):
        if sources.ranges[s, 0, part, 0] > sources.ranges[s, 1, part, 0]:
            continue
        for axis in range(3):
            low, high = sources.ranges[s, 0, part, axis], sources.ranges[s, 1, part, axis]
            centre, half = deformed[0][part, axis], deformed[1][part, axis]
            reach = max(abs(low), abs(high))
            size = abs(centre) + abs(half) * reach
            size += abs(sources.centre[s, part, axis]) + sources.half_extent[s, part, axis] * reach
            pad = sources.residual[s] + float32(2e-6) * size
            boxes[axis, count] = centre + min(half * low, half * high) - pad
            boxes[3 + axis, count] = centre + max(half * low, half * high) + pad
        count += 1
    return count


@compiled
def _by_field(sources, s, deformed, moved, field, lower, half, sequence, limit):
    """Deform the source; the bound of both halves, given the other one's, and `lower` of each packet."""
    num_points = sources.num_points
    shift = (deformed[0] - sources.centre[s]).reshape(-1)
    growth = (deformed[1] - sources.half_extent[s]).reshape(-1)
    points, canonical, parts, tree = sources.points[s], sources.canonical[s], sources.parts[s], moved.tree
    no_field = field.frame[3] == _ZERO
    total = 0.0
    for number in range(len(sequence)):
        packet = sequence[number]
        first = packet * LANES
        part = load_integers(parts, first)
        x = _deformed(points[0], canonical[0], first, gather(shift, part), gather(growth, part))
        y = _deformed(points[1], canonical[1], first, gather(shift[1:], part), gather(growth[1:], part))
        z = _deformed(points[2], canonical[2], first, gather(shift[2:], part), gather(growth[2:], part))
        store(tree[0], first, x)
        store(tree[1], first, y)
        store(tree[2], first, z)
        if not (_all_finite(x) and _all_finite(y) and _all_finite(z)):
            return _NOT_FINITE
        if no_field:
            lower[packet] = 0.0
            continue
        store(moved.distances, first, lower_bounds(x, y, z, field))
        lower[packet] = _sum(moved.distances, first, min(first + LANES, num_points))
        total += lower[packet]
        if number % _BOUND_STRIDE == 0 and _beyond(half + total / num_points, limit):
            return _GIVEN_UP
    total = half + total / num_points
    return _GIVEN_UP if _beyond(total, limit) else total


@compiled
def _deformed(points, canonical, first, shift, growth):
    """x + shift + growth * q, rounded as `boxes.deform` rounds."""
    one = splat(_ONE)
    return multiply_add(multiply_add(load(points, first), one, shift), one, multiply(growth, load(canonical, first)))


@compiled
def _all_finite(lanes):
    return bits(less(maximum(lanes, subtract(splat(_ZERO), lanes)), splat(_TOO_LARGE))) == 0xFFFF


@compiled
def _sum(values, start, stop):
    total = 0.0
    for i in range(start, stop):
        total += values[i]
    return total


# ---- exact distances ---------------------------------------------------------------------------


@compiled
def _exactly(moved, target, lower, bounded, sequences, limit, work):
    """The chamfer, or that it is given up; `bounded` is the bound so far."""
    bound(moved.tree, moved.boxes)
    num_source, num_target = len(moved.order), len(target.order)
    for start in range(0, max(len(sequences[0]), len(sequences[1])), _STRIDE):
        packets = sequences[1][start : start + _STRIDE]
        if len(packets) > 0:
            search_packets(target, moved, packets)
            bounded += _gain(target.distances, packets, lower[1], num_target, work) / num_target
            if _beyond(bounded, limit):
                return _GIVEN_UP
        packets = sequences[0][start : start + _STRIDE]
        if len(packets) > 0:
            search_packets(moved, target, packets)
            bounded += _gain(moved.distances, packets, lower[0], num_source, work) / num_source
            if _beyond(bounded, limit):
                return _GIVEN_UP
    return mean_distance(moved) + mean_distance(target)


@compiled
def _gain(distances, packets, lower, num_points, work):
    """What the exact distances of some packets add to their bounds."""
    total = 0.0
    for packet in packets:
        first = packet * LANES
        total += _sum(distances, first, min(first + LANES, num_points)) - lower[packet]
    work[SEARCHED] += len(packets) * LANES
    return total


@compiled
def _insert(best, best_rows, value, row):
    """Put a source into the ascending list, the lower row first among equals; what falls off its end is lost."""
    at = len(best)
    while at > 0 and (value < best[at - 1] or (value == best[at - 1] and row < best_rows[at - 1])):
        at -= 1
    for i in range(len(best) - 1, at, -1):
        best[i], best_rows[i] = best[i - 1], best_rows[i - 1]
    if at < len(best):
        best[at], best_rows[at] = value, row
