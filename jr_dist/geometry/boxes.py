"""A part is a box: where its points lie in it, and where they go when it moves and grows."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jr_dist.errors import InputError
from jr_dist.geometry.part_geometry import PartGeometry

#: Least half-extent of a box, canonical units: a flat part has no thickness to divide by.
HALF_EXTENT_FLOOR = 1e-3


def part_boxes(
    points: Float[np.ndarray, "N 3"],
    part_index: Int[np.ndarray, "N"],
    num_parts: int,
    *,
    floor: float = HALF_EXTENT_FLOOR,
) -> tuple[Float[np.ndarray, "P 3"], Float[np.ndarray, "P 3"]]:
    """Axis-aligned box (centre, half-extent) of each part; float64, in the units of `points`, half-extents >= `floor`.

    Points with a negative part index belong to no part. Raises `InputError` for a part without points and for points that
    are not finite.
    """
    if not np.isfinite(points).all():
        raise InputError(
            "points hold values that are not finite; allowed are finite coordinates; clean the mesh"
        )
    low = np.full((num_parts, 3), np.inf)
    high = np.full((num_parts, 3), -np.inf)
    owned = part_index >= 0
    np.minimum.at(low, part_index[owned], points[owned])
    np.maximum.at(high, part_index[owned], points[owned])
    empty = np.flatnonzero(low[:, 0] > high[:, 0])
    if len(empty):
        raise InputError(
            f"parts {empty.tolist()} have no points; allowed are parts of at least one point; drop the empty parts"
        )
    return (low + high) / 2, np.maximum((high - low) / 2, floor)


def canonical_coordinates(
    points: Float[np.ndarray, "N 3"],
    part_index: Int[np.ndarray, "N"],
    centre: Float[np.ndarray, "P 3"],
    half_extent: Float[np.ndarray, "P 3"],
) -> Float[np.ndarray, "N 3"]:
    """q = (x - c0) / s0 of each point in the box of its part: within [-1, 1] for points of the part (design: box model)."""
    return (points - centre[part_index]) / half_extent[part_index]


def _of_part(values: Float[Tensor, "M P 3"], part_index: Int[Tensor, "M N"]) -> Float[Tensor, "M N 3"]:
    return torch.gather(values, 1, part_index.unsqueeze(-1).expand(-1, -1, 3))


def deform(
    geometry: PartGeometry, centre: Float[Tensor, "M P 3"], half_extent: Float[Tensor, "M P 3"]
) -> Float[Tensor, "M N 3"]:
    """Points of the sources with new boxes, x' = x + (c - c0) + (s - s0) * q; the same bits for c = c0, s = s0.

    Differentiable in `centre` and `half_extent`. A gather by part stands for the dense 3N x 6P matrix of the paper's A_x.
    """
    shift = _of_part(centre - geometry.centre, geometry.part_index)
    growth = _of_part(half_extent - geometry.half_extent, geometry.part_index)
    return geometry.points + shift + growth * geometry.canonical


def deform_vertices(
    vertices: Float[np.ndarray, "V 3"],
    part: int,
    centre0: Float[np.ndarray, "P 3"],
    half_extent0: Float[np.ndarray, "P 3"],
    centre: Float[np.ndarray, "P 3"],
    half_extent: Float[np.ndarray, "P 3"],
) -> Float[np.ndarray, "V 3"]:
    """The mesh vertices of one part, canonical frame, with its box moved from (centre0, half_extent0)[part]; as `deform`."""
    canonical = (vertices - centre0[part]) / half_extent0[part]
    return vertices + (centre[part] - centre0[part]) + (half_extent[part] - half_extent0[part]) * canonical
