"""Joints: where the parts of a source touch (paper section 3.2, connectivity)."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int

from jr_dist.geometry.joint_kernels import agreed_coordinates, snap, touching_parts

#: The 26 key-points of a box in canonical coordinates: 6 face centres, 12 edge midpoints, 8 corners.
KEY_POINTS = np.array([k for k in product((-1.0, 0.0, 1.0), repeat=3) if any(k)])

# Two snapped pairs, or two unions of joints, count as equally near within this (canonical units): neither rounding nor
# the order of parts and key-points shall decide where a symmetric contact has its joint.
_TIE = 1e-6


@dataclass(frozen=True)
class Joints:
    """J pairs of touching parts and the point each pair shares."""

    parts: np.ndarray  #: [J, 2] int64, i < j, sorted
    coordinates: np.ndarray  #: [J, 2, 3] float64, the joint in the canonical coordinates of boxes i and j

    def __len__(self) -> int:
        return len(self.parts)


def find_joints(
    points: Float[np.ndarray, "N 3"],
    part_index: Int[np.ndarray, " N"],
    centre: Float[np.ndarray, "P 3"],
    half_extent: Float[np.ndarray, "P 3"],
    *,
    tolerance: float = 0.05,
    agree_within: float | None = None,
) -> Joints:
    """Joints of the parts whose dense surface samples come nearer than `tolerance` (canonical units).

    The 26 key-points of each box are snapped to the part's own nearest sample; the joint is the midpoint of
    the closest snapped pair. Samples should be dense against the tolerance; a part without samples has no
    joint.

    On each axis, joints of neighbouring parts that lie within `agree_within` of each other (None: as
    `tolerance`) share one coordinate; 0 leaves each where it is, which is the paper's letter. Where leg, apron
    and top meet, three joints a centimetre apart say three things of six numbers that are one thing to the eye:
    as they are, they leave a third of real chairs nothing but translation and scale of the whole.
    """
    num_parts = len(centre)
    assert part_index.size == 0 or 0 <= part_index.min() <= part_index.max() < num_parts
    order = np.argsort(part_index, kind="stable")
    samples = np.ascontiguousarray(points[order], dtype=np.float64)
    starts = np.searchsorted(part_index[order], np.arange(num_parts + 1))
    centre, half_extent = centre.astype(np.float64), half_extent.astype(np.float64)
    parts = touching_parts(samples, starts, float(tolerance))
    snapped = snap(samples, starts, centre[:, None] + half_extent[:, None] * KEY_POINTS)
    positions = np.array([_closest_midpoint(snapped[i], snapped[j]) for i, j in parts]).reshape(-1, 3)
    within = float(tolerance if agree_within is None else agree_within)
    positions = np.stack(
        [agreed_coordinates(axis.copy(), parts, num_parts, within, _TIE) for axis in positions.T], axis=1
    )
    return Joints(parts, (positions[:, None] - centre[parts]) / half_extent[parts])


def joint_gaps(
    joints: Joints, centre: Float[np.ndarray, "P 3"], half_extent: Float[np.ndarray, "P 3"]
) -> Float[np.ndarray, " J"]:
    """How far each joint stands open: largest coordinate difference of its two images, canonical units."""
    images = centre.astype(np.float64)[joints.parts] + half_extent.astype(np.float64)[joints.parts] * joints.coordinates
    return np.abs(images[:, 0] - images[:, 1]).max(axis=1)


def num_connected_components(joints: Joints, num_parts: int) -> int:
    """Number of groups of parts that hang together by joints; 1 is a fully connected model."""
    label = np.arange(num_parts)
    for i, j in joints.parts:
        label[label == label[j]] = label[i]
    return len(np.unique(label))


def _closest_midpoint(a: Float[np.ndarray, "K 3"], b: Float[np.ndarray, "K 3"]) -> Float[np.ndarray, " 3"]:
    distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
    i, j = np.nonzero(distance <= distance.min() + _TIE)
    return (a[i] + b[j]).mean(axis=0) / 2
