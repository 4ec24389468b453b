"""A cloud cut into leaves of 16 points in kd order, with their bounding boxes: both queries and tree."""

from typing import NamedTuple

import numpy as np
from numba import int32, intp, uint32, uint64

from jr_dist.geometry.simd import LANES, compiled

#: beyond this a squared distance would overflow float32
LARGEST_COORDINATE = np.float32(1e18)
#: the box of a leaf that isn't there: farther than any real one
ABSENT = np.float32(1e19)
#: points looked at to find the longest axis of a cell; only speed depends on it
AXIS_SAMPLES = 16

_LOW = np.uint64(0xFFFFFFFF)
_INFINITY = np.float32(np.inf)


@compiled
def num_slots(num_points):
    """Points rounded up to whole leaves."""
    return (num_points + LANES - 1) // LANES * LANES


@compiled
def num_boxes(num_points):
    """Leaves rounded up to whole vectors of boxes."""
    return num_slots(num_slots(num_points) // LANES)


@compiled
def load_cloud(points, rows):
    """[N, 3] -> [3, N] coordinates; False where one is NaN, infinite or too large to square."""
    good = True
    for i in range(points.shape[0]):
        for axis in range(3):
            value = points[i, axis]
            good &= abs(value) <= LARGEST_COORDINATE
            rows[axis, i] = value
    return good


@compiled
def arrange(rows, order, tree):
    """Fill the slots of `tree` [3, slots] in the given order; the last leaf repeats its last point."""
    num_points = rows.shape[1]
    for axis in range(3):
        source, target = rows[axis], tree[axis]
        for i in range(num_points):
            target[i] = source[order[i]]
        for i in range(num_points, tree.shape[1]):
            target[i] = target[num_points - 1]


@compiled
def bound(tree, boxes):
    """boxes [6, num_boxes]: the lowest and the highest corner of each leaf."""
    leaves = tree.shape[1] // LANES
    for axis in range(3):
        for leaf in range(leaves):
            low = high = tree[axis, leaf * LANES]
            for i in range(leaf * LANES + 1, (leaf + 1) * LANES):
                value = tree[axis, i]
                low = value if value < low else low
                high = value if value > high else high
            boxes[axis, leaf] = low
            boxes[3 + axis, leaf] = high
        boxes[axis, leaves:] = ABSENT
        boxes[3 + axis, leaves:] = ABSENT


@compiled
def sort_spatially(rows, keys, order):
    """kd order: cells are halved at the median of their longest axis, on a multiple of 16, down to 16 points.

    A key holds a coordinate (as an integer that sorts like it) above the point's number, so that selecting moves one
    word, no two keys are equal and nothing, not even NaN, can keep the selection from ending.
    """
    num_points = rows.shape[1]
    for i in range(num_points):
        keys[i] = i
    cells = np.empty((64, 2), np.int64)
    cells[0, 0], cells[0, 1] = 0, num_points
    depth = 1
    while depth > 0:
        depth -= 1
        start, stop = cells[depth, 0], cells[depth, 1]
        if stop - start <= LANES:
            continue
        _key_by(rows[_longest_axis(rows, keys, start, stop)], keys, start, stop)
        half = start + ((stop - start + LANES - 1) // LANES + 1) // 2 * LANES
        _select(keys, start, stop, half)
        cells[depth, 0], cells[depth, 1] = start, half
        cells[depth + 1, 0], cells[depth + 1, 1] = half, stop
        depth += 2
    for i in range(num_points):
        order[i] = int32(keys[i] & _LOW)


@compiled
def _longest_axis(rows, keys, start, stop):
    x_low = y_low = z_low = _INFINITY
    x_high = y_high = z_high = -_INFINITY
    for i in range(start, stop, max(1, (stop - start) // AXIS_SAMPLES)):
        point = intp(keys[i] & _LOW)
        x, y, z = rows[0, point], rows[1, point], rows[2, point]
        x_low, x_high = min(x_low, x), max(x_high, x)
        y_low, y_high = min(y_low, y), max(y_high, y)
        z_low, z_high = min(z_low, z), max(z_high, z)
    x, y, z = x_high - x_low, y_high - y_low, z_high - z_low
    if x >= y and x >= z:
        return 0
    return 1 if y >= z else 2


@compiled
def _key_by(row, keys, start, stop):
    pattern = row.view(np.uint32)
    for i in range(start, stop):
        point = keys[i] & _LOW
        word = pattern[intp(point)]
        # negative floats sort backwards by their bits: flip all of those, and the sign of the others
        word ^= uint32(-int32(word >> uint32(31))) | uint32(0x80000000)
        keys[i] = uint64(word) << uint64(32) | point


@compiled
def _select(keys, start, stop, k):
    """Reorder keys[start:stop] so that none before position k is larger than any from k on."""
    while stop - start > 2:
        pivot = _pivot(keys, start, stop)
        edge = start
        for i in range(start, stop):  # without a branch: a mispredicted one costs more than the swap
            key = keys[i]
            keys[i] = keys[edge]
            keys[edge] = key
            edge += intp(key < pivot)
        # a median of three different keys is not the least of them, so either side is shorter than the whole
        if edge == k:
            return
        if edge > k:
            stop = edge
        else:
            start = edge
    if stop - start == 2 and keys[start] > keys[start + 1]:
        keys[start], keys[start + 1] = keys[start + 1], keys[start]


@compiled
def _pivot(keys, start, stop):
    size = stop - start
    if size <= 48:
        return _median(keys[start], keys[start + size // 2], keys[stop - 1])
    step = size // 9
    return _median(
        _median(keys[start], keys[start + step], keys[start + 2 * step]),
        _median(keys[start + 3 * step], keys[start + 4 * step], keys[start + 5 * step]),
        _median(keys[start + 6 * step], keys[start + 7 * step], keys[start + 8 * step]),
    )


@compiled
def _median(a, b, c):
    low, high = (a, b) if a < b else (b, a)
    upper = high if high < c else c
    return upper if upper > low else low


class Cloud(NamedTuple):
    """One cloud in kd order, and room for what is found about it; slot i holds point order[i]."""

    rows: np.ndarray  #: [3, N] float32, the points as they came
    keys: np.ndarray  #: [N] uint64, room to sort
    order: np.ndarray  #: [N] int32
    tree: np.ndarray  #: [3, slots] float32
    boxes: np.ndarray  #: [6, num_boxes] float32
    distances: np.ndarray  #: [slots] float32, squared, to the nearest slot of the other cloud
    nearest: np.ndarray  #: [slots] int32, that slot
    gradient: np.ndarray  #: [3, slots] float32


@compiled
def new_cloud(num_points):
    """Room for one cloud after another of this size."""
    slots = num_slots(num_points)
    return Cloud(
        np.empty((3, num_points), np.float32),
        np.empty(num_points, np.uint64),
        np.empty(num_points, np.int32),
        np.empty((3, slots), np.float32),
        np.empty((6, num_boxes(num_points)), np.float32),
        np.empty(slots, np.float32),
        np.empty(slots, np.int32),
        np.empty((3, slots), np.float32),
    )


@compiled
def prepare(points, orders, row, cloud):
    """Cut a cloud into leaves; orders[row] is its kd order, where `orders` has rows. False: not finite."""
    if not load_cloud(points, cloud.rows):
        return False
    if len(orders) > 0:
        cloud.order[:] = orders[row]
    else:
        sort_spatially(cloud.rows, cloud.keys, cloud.order)
    arrange(cloud.rows, cloud.order, cloud.tree)
    bound(cloud.tree, cloud.boxes)
    return True


@compiled
def mirrored(cloud, image):
    """The mirror image in x = 0, in the same order: nothing to sort."""
    image.tree[:] = cloud.tree
    image.boxes[:] = cloud.boxes
    for i in range(cloud.tree.shape[1]):
        image.tree[0, i] = -cloud.tree[0, i]
    for leaf in range(cloud.tree.shape[1] // LANES):
        image.boxes[0, leaf] = -cloud.boxes[3, leaf]
        image.boxes[3, leaf] = -cloud.boxes[0, leaf]
