"""Small sources made of boxes that touch, for the tests of geometry and of what is built on it."""

from dataclasses import dataclass

import numpy as np
import torch

from jr_dist.geometry.boxes import canonical_coordinates, part_boxes
from jr_dist.geometry.joints import Joints, find_joints
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import axis_projections


@dataclass(frozen=True)
class BoxSource:
    """A source of P boxes: dense samples, their parts, the boxes and the joints."""

    points: np.ndarray
    part_index: np.ndarray
    centre: np.ndarray
    half_extent: np.ndarray
    joints: Joints


def box_surface(centre, half_extent, num_points, rng):
    """Points uniform on the surface of a box, its eight corners first so that they span it."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
    q = rng.uniform(-1, 1, (num_points, 3))
    area = np.roll(half_extent, 1) * np.roll(half_extent, -1) + 1e-9
    q[np.arange(num_points), rng.choice(3, num_points, p=area / area.sum())] = rng.choice([-1.0, 1.0], num_points)
    q[:8] = corners[: min(8, num_points)]
    return centre + half_extent * q


def touching_boxes(num_parts, rng, *, thin=False):
    """Boxes in which each one touches an earlier one with a face; `thin` makes every third one flat."""
    centre, half_extent = np.zeros((num_parts, 3)), rng.uniform(0.08, 0.3, (num_parts, 3))
    if thin:
        half_extent[::3, rng.integers(3)] = 0.0
    for part in range(1, num_parts):
        parent, axis = rng.integers(part), rng.integers(3)
        reach = half_extent[parent] + half_extent[part]
        offset = rng.uniform(-0.7, 0.7, 3) * reach
        offset[axis] = rng.choice([-1.0, 1.0]) * reach[axis]
        centre[part] = centre[parent] + offset
    return centre, half_extent


def box_source(num_parts, rng, *, num_points=400, thin=False, tolerance=0.05, agree_within=None):
    """A `BoxSource` with `num_points` samples a part."""
    centres, extents = touching_boxes(num_parts, rng, thin=thin)
    points = np.concatenate([box_surface(c, s, num_points, rng) for c, s in zip(centres, extents)])
    part_index = np.repeat(np.arange(num_parts), num_points)
    order = rng.permutation(len(points))
    points, part_index = points[order], part_index[order]
    centre, half_extent = part_boxes(points, part_index, num_parts)
    joints = find_joints(points, part_index, centre, half_extent, tolerance=tolerance, agree_within=agree_within)
    return BoxSource(points, part_index, centre, half_extent, joints)


def part_geometry(sources, *, pad_to=None, num_points=256, dtype=torch.float32):
    """The padded tensors of several `BoxSource`s, each with its first `num_points` samples or fewer."""
    num_points = min([num_points] + [len(source.points) for source in sources])
    num_parts = pad_to or max(len(source.centre) for source in sources)
    rows = [_tensors(source, num_parts, num_points, dtype) for source in sources]
    return PartGeometry(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def _tensors(source, num_parts, num_points, dtype):
    points, part_index = source.points[:num_points], source.part_index[:num_points]
    real, padding = len(source.centre), ((0, num_parts - len(source.centre)), (0, 0))
    canonical = canonical_coordinates(points, part_index, source.centre, source.half_extent)
    projection = axis_projections(source.joints.parts, source.joints.coordinates, real, pad_to=num_parts)
    return {
        "points": torch.tensor(points, dtype=dtype),
        "canonical": torch.tensor(canonical, dtype=dtype),
        "part_index": torch.tensor(part_index),
        "centre": torch.tensor(np.pad(source.centre, padding), dtype=dtype),
        "half_extent": torch.tensor(np.pad(source.half_extent, padding, constant_values=1.0), dtype=dtype),
        "part_mask": torch.arange(num_parts) < real,
        "projection": torch.tensor(projection, dtype=dtype),
    }


def random_delta(geometry, rng, scale=1.0):
    """A random [M, P, 6] delta, non-zero in the padding too."""
    shape = (*geometry.centre.shape[:2], 6)
    return torch.tensor(rng.normal(0, scale, shape), dtype=geometry.points.dtype)
