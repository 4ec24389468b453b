"""Sources as the search over deformed sources reads them: in kd order, axis by axis, with what bounds their parts."""

from typing import NamedTuple

import numpy as np
from numba import float32, int32

from jr_dist.geometry.leaves import new_cloud, prepare
from jr_dist.geometry.simd import compiled

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "62ec4b86b07cb425"

_INFINITY = np.float32(np.inf)


class SourceArrays(NamedTuple):
    """S sources in kd order, their slots padded like those of a tree (leaves.py)."""

    points: np.ndarray  #: [S, 3, slots] float32
    canonical: np.ndarray  #: [S, 3, slots] float32
    parts: np.ndarray  #: [S, slots] int32, 3 times the part
    centre: np.ndarray  #: [S, P, 3] float32, undeformed
    half_extent: np.ndarray  #: [S, P, 3] float32, undeformed
    ranges: np.ndarray  #: [S, 2, P, 3] float32, least and largest canonical coordinates; infinity first for no points
    residual: np.ndarray  #: [S] float32, how far c0 + s0 q is from x at the most
    num_points: int


@compiled
def fill_block(points, canonical, part_index, arrays, start, stop):
    """The sources start:stop from points, canonical [S, N, 3] and part_index [S, N]; m + 1 where m is not finite."""
    cloud = new_cloud(points.shape[1])
    none = np.empty((0, 0), np.int32)
    for s in range(start, stop):
        if not prepare(points[s], none, s, cloud):
            return s + 1
        arrays.points[s] = cloud.tree
        arrays.ranges[s, 0] = _INFINITY
        arrays.ranges[s, 1] = -_INFINITY
        residual = float32(0)
        for slot in range(cloud.tree.shape[1]):
            point = cloud.order[min(slot, points.shape[1] - 1)]
            part = part_index[s, point]
            arrays.parts[s, slot] = int32(3 * part)
            for axis in range(3):
                q = canonical[s, point, axis]
                arrays.canonical[s, axis, slot] = q
                arrays.ranges[s, 0, part, axis] = min(arrays.ranges[s, 0, part, axis], q)
                arrays.ranges[s, 1, part, axis] = max(arrays.ranges[s, 1, part, axis], q)
                explained = arrays.centre[s, part, axis] + arrays.half_extent[s, part, axis] * q
                residual = max(residual, abs(points[s, point, axis] - explained))
        arrays.residual[s] = residual
    return 0
