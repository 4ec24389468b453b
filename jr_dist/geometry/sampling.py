"""Points on surfaces, uniform by area."""

import numpy as np
from jaxtyping import Float, Int

from jr_dist.errors import InputError


def triangle_areas(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, " F"]:
    """Area of each triangle, in squared units of the vertices."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def sample_triangles(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    num_points: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, " N"]]:
    """`num_points` points uniform on the surface, in random order, and the face of each.

    Uniform on each triangle by the square root of a random number (Osada et al. 2002, section 3.1): three
    normalised uniform weights would crowd the centroid. Raises `InputError` for a surface without area.
    """
    areas = triangle_areas(vertices, faces)
    total = areas.sum()
    if not (np.isfinite(total) and total > 0):
        raise InputError(f"the area of {len(faces)} triangles is {total}; allowed is above 0; drop the degenerate part")
    ends = np.cumsum(areas)
    face = np.searchsorted(ends, rng.random(num_points) * ends[-1], side="right")
    root, v = np.sqrt(rng.random((num_points, 1))), rng.random((num_points, 1))
    a, b, c = (vertices[faces[face, i]] for i in range(3))
    return (1 - root) * a + root * (1 - v) * b + root * v * c, face


def allocate_points(areas: Float[np.ndarray, " P"], num_points: int, *, minimum: int = 8) -> Int[np.ndarray, " P"]:
    """How many of `num_points` each part gets: by area (largest remainder), `minimum` or more with area.

    The minimum shrinks to num_points // parts where points are few. The counts sum to `num_points`. Raises
    `InputError` where there is no area, and where there are fewer points than parts.
    """
    present = areas > 0
    num_present = int(present.sum())
    if num_present == 0 or not np.isfinite(areas).all():
        raise InputError(f"part areas are {areas.tolist()}; allowed are finite areas, one above 0; check the mesh")
    if num_points < num_present:
        raise InputError(
            f"num_points is {num_points}; allowed is {num_present} (one a part) or more; ask for more points"
        )
    share = areas / areas.sum() * num_points
    counts = np.where(present, min(minimum, num_points // num_present), 0)
    # Parts below the minimum are given it; the others share the rest by area until nobody falls below.
    small = present & (share < counts)
    while True:
        rest = num_points - counts[small].sum()
        large = present & ~small
        share = np.where(large, areas / areas[large].sum() * rest, counts)
        below = large & (share < counts)
        if not below.any():
            break
        small |= below
    result = np.floor(share).astype(np.int64)
    order = np.argsort(-(share - result), kind="stable")
    result[order[: num_points - result.sum()]] += 1
    return result
