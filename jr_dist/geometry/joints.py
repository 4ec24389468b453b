"""Joints: where the parts of a source touch (paper section 3.2, connectivity)."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int
from numba import njit

#: The 26 key-points of a box in canonical coordinates: 6 face centres, 12 edge midpoints, 8 corners.
KEY_POINTS = np.array([k for k in product((-1.0, 0.0, 1.0), repeat=3) if any(k)])

# Two snapped pairs count as equally near within this (squared canonical units); their midpoints are averaged,
# so that the answer does not depend on the order of parts and key-points.
_TIE = 1e-12


@dataclass(frozen=True)
class Joints:
    """J pairs of touching parts and the point each pair shares."""

    parts: np.ndarray  #: [J, 2] int64, i < j, sorted
    coordinates: (
        np.ndarray
    )  #: [J, 2, 3] float64, the joint in the canonical coordinates of box i and of box j

    def __len__(self) -> int:
        return len(self.parts)


def find_joints(
    points: Float[np.ndarray, "N 3"],
    part_index: Int[np.ndarray, " N"],
    centre: Float[np.ndarray, "P 3"],
    half_extent: Float[np.ndarray, "P 3"],
    *,
    tolerance: float = 0.05,
) -> Joints:
    """Joints of the parts whose dense surface samples come nearer than `tolerance` (canonical units).

    The 26 key-points of each box are snapped to the part's own nearest sample; the joint is the midpoint of
    the closest snapped pair. Samples should be dense against the tolerance; a part without samples has no
    joint.
    """
    num_parts = len(centre)
    assert part_index.size == 0 or (part_index.min() >= 0 and part_index.max() < num_parts), (
        "part index out of range"
    )
    order = np.argsort(part_index, kind="stable")
    samples = np.ascontiguousarray(points[order], dtype=np.float64)
    starts = np.searchsorted(part_index[order], np.arange(num_parts + 1))
    centre, half_extent = centre.astype(np.float64), half_extent.astype(np.float64)
    parts = _touching_parts(samples, starts, float(tolerance))
    snapped = _snap(samples, starts, centre[:, None] + half_extent[:, None] * KEY_POINTS)
    positions = np.array([_closest_midpoint(snapped[i], snapped[j]) for i, j in parts]).reshape(-1, 1, 3)
    return Joints(parts, (positions - centre[parts]) / half_extent[parts])


def joint_gaps(
    joints: Joints, centre: Float[np.ndarray, "P 3"], half_extent: Float[np.ndarray, "P 3"]
) -> Float[np.ndarray, " J"]:
    """How far each joint stands open: largest coordinate difference of its two images, canonical units."""
    images = (
        centre.astype(np.float64)[joints.parts]
        + half_extent.astype(np.float64)[joints.parts] * joints.coordinates
    )
    return np.abs(images[:, 0] - images[:, 1]).max(axis=1)


def num_connected_components(joints: Joints, num_parts: int) -> int:
    """Number of groups of parts that hang together by joints; 1 is a fully connected model."""
    label = np.arange(num_parts)
    for i, j in joints.parts:
        label[label == label[j]] = label[i]
    return len(np.unique(label))


def _closest_midpoint(a: Float[np.ndarray, "K 3"], b: Float[np.ndarray, "K 3"]) -> Float[np.ndarray, " 3"]:
    squared = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
    i, j = np.nonzero(squared <= squared.min() + _TIE)
    return (a[i] + b[j]).mean(axis=0) / 2


@njit(cache=True)
def _touching_parts(points, starts, tolerance):
    """Pairs i < j with samples nearer than `tolerance`; only those near the other's box are compared."""
    num_parts = len(starts) - 1
    low = np.full((num_parts, 3), np.inf)
    high = np.full((num_parts, 3), -np.inf)
    for part in range(num_parts):
        for n in range(starts[part], starts[part + 1]):
            for axis in range(3):
                low[part, axis] = min(low[part, axis], points[n, axis])
                high[part, axis] = max(high[part, axis], points[n, axis])
    pairs = np.empty((num_parts * (num_parts - 1) // 2, 2), dtype=np.int64)
    count = 0
    for i in range(num_parts):
        for j in range(i + 1, num_parts):
            if _any_near(
                points, starts[i], starts[i + 1], starts[j], starts[j + 1], low, high, i, j, tolerance
            ):
                pairs[count, 0], pairs[count, 1] = i, j
                count += 1
    return pairs[:count]


@njit(cache=True)
def _any_near(points, i_start, i_end, j_start, j_end, low, high, i, j, tolerance):
    limit = tolerance * tolerance
    for axis in range(3):
        if max(low[i, axis], low[j, axis]) - min(high[i, axis], high[j, axis]) >= tolerance:
            return False
    near_j = np.empty((j_end - j_start, 3))
    num_near = 0
    for n in range(j_start, j_end):
        if _box_distance(points[n], low[i], high[i]) < limit:
            near_j[num_near] = points[n]
            num_near += 1
    for n in range(i_start, i_end):
        if _box_distance(points[n], low[j], high[j]) < limit:
            x, y, z = points[n, 0], points[n, 1], points[n, 2]
            for k in range(num_near):
                dx, dy, dz = near_j[k, 0] - x, near_j[k, 1] - y, near_j[k, 2] - z
                if dx * dx + dy * dy + dz * dz < limit:
                    return True
    return False


@njit(cache=True)
def _box_distance(point, low, high):
    squared = 0.0
    for axis in range(3):
        gap = max(low[axis] - point[axis], point[axis] - high[axis], 0.0)
        squared += gap * gap
    return squared


@njit(cache=True)
def _snap(points, starts, key_points):
    """Nearest sample of the same part for each key-point [P, 26, 3]; infinity where it has no samples."""
    snapped = np.full(key_points.shape, np.inf)
    for part in range(key_points.shape[0]):
        for k in range(key_points.shape[1]):
            best = np.inf
            for n in range(starts[part], starts[part + 1]):
                squared = 0.0
                for axis in range(3):
                    squared += (points[n, axis] - key_points[part, k, axis]) ** 2
                if squared < best:
                    best = squared
                    snapped[part, k] = points[n]
    return snapped
