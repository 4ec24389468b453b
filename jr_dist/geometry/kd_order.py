"""The order in which a cloud is cut into leaves: cells are halved at the median of their longest axis."""

import numpy as np
from numba import int32

from jr_dist.geometry.gather_lanes import gather, load_integers, multiply_add_integers
from jr_dist.geometry.key_lanes import add_one, below, compress, count, equal, opposite, places, sortable
from jr_dist.geometry.simd import LANES, bits, compiled, largest, lowest_bit, smallest, splat, store

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "27d90a7ace9877ca"

_LAST = np.int32(0x7FFFFFFF)
_THREE = np.int32(3)
#: as many keys are ranked one against all; only speed depends on it
_RANKED = 2 * LANES


@compiled
def sort_spatially(coordinates, order, room):
    """Halve cells on a multiple of 16 points, down to 16.

    Args: coordinates [3 N], point after point; order [slots], which then holds the N points and repeats some; room
    [3 (slots + 32)] int32.

    A key holds the high bits of a coordinate, as an integer that sorts like it, above the place of its point in the
    cell: no two keys of a cell are equal, and nothing, not even NaN, can keep the selection from ending.
    """
    num_points, slots = len(coordinates) // 3, len(order)
    for i in range(slots):
        order[i] = min(i, num_points - 1)
    cells = np.empty((64, 2), np.int64)
    cells[0, 0], cells[0, 1] = 0, slots
    depth = 1
    while depth > 0:
        depth -= 1
        start, stop = cells[depth, 0], cells[depth, 1]
        if stop - start <= LANES:
            continue
        half = start + ((stop - start) // LANES + 1) // 2 * LANES
        _write_keys(coordinates, order, start, stop, room)
        limit = _at_rank(room, min(stop, num_points) - start, half - start)
        _part(order, start, half, stop, limit, room)
        cells[depth, 0], cells[depth, 1] = start, half
        cells[depth + 1, 0], cells[depth + 1, 1] = half, stop
        depth += 2


@compiled
def _along(coordinates, points, axis):
    return gather(coordinates, multiply_add_integers(points, splat(_THREE), splat(int32(axis))))


@compiled
def _longest_axis(coordinates, order, start, stop):
    """Of sixteen points of the cell; only speed depends on it."""
    points = gather(order, places(int32(start), int32((stop - start) // LANES)))
    x, y, z = _along(coordinates, points, 0), _along(coordinates, points, 1), _along(coordinates, points, 2)
    width, height, depth = largest(x) - smallest(x), largest(y) - smallest(y), largest(z) - smallest(z)
    if width >= height and width >= depth:
        return 0
    return 1 if height >= depth else 2


@compiled
def _write_keys(coordinates, order, start, stop, room):
    """The keys of the cell's slots; those that hold no point of their own come last."""
    axis = _longest_axis(coordinates, order, start, stop)
    mask = int32(1)
    while mask < stop - start - 1:
        mask = int32(2 * mask + 1)
    for i in range(0, stop - start, LANES):
        values = _along(coordinates, load_integers(order, start + i), axis)
        store(room, i, sortable(values, mask, places(int32(i), int32(1))))
    for i in range(len(coordinates) // 3 - start, stop - start):
        room[i] = _LAST


@compiled
def _at_rank(room, size, rank):
    """The key among room[:size] that `rank` others are less than."""
    source, lows, highs = 0, len(room) // 3, len(room) // 3 * 2
    while size > _RANKED:
        limit = splat(_pivot(room, source, size))
        low = high = 0
        for i in range(0, size, LANES):
            keys = load_integers(room, source + i)
            less = below(keys, limit)
            store(room, lows + low, compress(keys, less))
            store(room, highs + high, compress(keys, opposite(less)))
            low += count(less)
            high = i + LANES - low
        # a median of three different keys is not the least of them, so either side is shorter than the whole
        if rank < low:
            source, size = lows, low
        else:
            source, size, rank = highs, size - low, rank - low
            lows, highs = highs, lows
        store(room, source + size, splat(_LAST))
        store(room, source + size + LANES, splat(_LAST))
    return _ranked(room, source, rank)


@compiled
def _ranked(room, start, rank):
    """`_at_rank` of 32 keys."""
    first, second = load_integers(room, start), load_integers(room, start + LANES)
    first_ranks = second_ranks = splat(int32(0))
    for i in range(start, start + _RANKED):
        key = splat(room[i])
        first_ranks = add_one(first_ranks, below(key, first))
        second_ranks = add_one(second_ranks, below(key, second))
    wanted = splat(int32(rank))
    found = bits(equal(first_ranks, wanted)) | bits(equal(second_ranks, wanted)) << np.uint32(LANES)
    return room[start + lowest_bit(found)]


@compiled
def _part(order, start, half, stop, limit, room):
    """Those whose keys are below the limit first, [start, half), else as they were."""
    spare = len(room) // 3
    low, high = start, spare
    for i in range(0, stop - start, LANES):
        points, less = load_integers(order, start + i), below(load_integers(room, i), splat(limit))
        store(order, low, compress(points, less))
        store(room, high, compress(points, opposite(less)))
        low += count(less)
        high = spare + start + i + LANES - low
    for i in range(0, stop - half, LANES):
        store(order, half + i, load_integers(room, spare + i))


@compiled
def _pivot(room, start, size):
    step = size // 9
    return _median(
        _median(room[start], room[start + step], room[start + 2 * step]),
        _median(room[start + 3 * step], room[start + 4 * step], room[start + 5 * step]),
        _median(room[start + 6 * step], room[start + 7 * step], room[start + 8 * step]),
    )


@compiled
def _median(a, b, c):
    low, high = (a, b) if a < b else (b, a)
    upper = high if high < c else c
    return upper if upper > low else low
