"""A cloud cut into leaves of 16 points in kd order, with their bounding boxes: both queries and tree."""

from typing import NamedTuple

import numpy as np
from numba import int32

from jr_dist.geometry.gather_lanes import gather, load_integers, multiply_add_integers
from jr_dist.geometry.kd_order import sort_spatially
from jr_dist.geometry.simd import LANES, compiled, splat, store

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "f6a0c99256e4e697"

#: beyond this a squared distance would overflow float32
LARGEST_COORDINATE = np.float32(1e18)
#: the box of a leaf that isn't there: farther than any real one
ABSENT = np.float32(1e19)


@compiled
def num_slots(num_points):
    """Points rounded up to whole leaves."""
    return (num_points + LANES - 1) // LANES * LANES


@compiled
def num_boxes(num_points):
    """Leaves rounded up to whole vectors of boxes."""
    return num_slots(num_slots(num_points) // LANES)


@compiled
def finite(coordinates):
    """False where one is NaN, infinite or too large to square."""
    good = True
    for i in range(len(coordinates)):
        good &= abs(coordinates[i]) <= LARGEST_COORDINATE
    return good


@compiled
def arrange(coordinates, places, tree):
    """Fill the slots of `tree` [3, slots] with the points at `places` of coordinates [3 N], point after point."""
    three = splat(int32(3))
    for i in range(0, len(places), LANES):
        points = load_integers(places, i)
        for axis in range(3):
            index = multiply_add_integers(points, three, splat(int32(axis)))
            store(tree[axis], i, gather(coordinates, index))


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


class Cloud(NamedTuple):
    """One cloud in kd order, and room for what is found about it; slot i holds point order[i]."""

    room: np.ndarray  #: [3 (slots + 32)] int32, to sort in
    places: np.ndarray  #: [slots] int32, the point in each slot; those of the last leaf repeat its last point
    order: np.ndarray  #: [N] int32, the first N of `places`
    tree: np.ndarray  #: [3, slots] float32
    boxes: np.ndarray  #: [6, num_boxes] float32
    distances: np.ndarray  #: [slots] float32, squared, to the nearest slot of the other cloud
    nearest: np.ndarray  #: [slots] int32, that slot
    gradient: np.ndarray  #: [3, slots] float32
    pull: np.ndarray  #: [3, slots] float32, room for what `nearest` adds to gradients


@compiled
def new_cloud(num_points):
    """Room for one cloud after another of this size."""
    slots = num_slots(num_points)
    places = np.empty(slots, np.int32)
    return Cloud(
        np.empty(3 * (slots + 2 * LANES), np.int32),
        places,
        places[:num_points],
        np.empty((3, slots), np.float32),
        np.empty((6, num_boxes(num_points)), np.float32),
        np.empty(slots, np.float32),
        np.empty(slots, np.int32),
        np.empty((3, slots), np.float32),
        np.empty((3, slots), np.float32),
    )


@compiled
def prepare(points, orders, row, cloud):
    """Cut a cloud into leaves; orders[row] is its kd order, where `orders` has rows. False: not finite."""
    coordinates = points.reshape(-1)
    if not finite(coordinates):
        return False
    if len(orders) > 0:
        cloud.order[:] = orders[row]
    else:
        sort_spatially(coordinates, cloud.places, cloud.room)
    cloud.places[len(points) :] = cloud.order[len(points) - 1]
    arrange(coordinates, cloud.places, cloud.tree)
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
