"""Solids that furniture is made of: closed triangle meshes as plain arrays, wound outwards.

Nearly everything is a loft: rings of K points joined in order and closed by two caps. All lengths are metres in the
frame of the furniture (x right, y up, z front, floor at y = 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

ROUND_SIDES = 20  # of a thick round section; thin rods get fewer
ROD_SIDES = 10


class Solid(NamedTuple):
    """A closed surface: vertices [V, 3] float64 in metres, faces [F, 3] int64, normals outwards."""

    vertices: np.ndarray
    faces: np.ndarray


@lru_cache(maxsize=256)
def _loft_faces(num_rings: int, num_sides: int) -> np.ndarray:
    ring, side = np.meshgrid(np.arange(num_rings - 1), np.arange(num_sides), indexing="ij")
    a = (ring * num_sides + side).ravel()
    b = (ring * num_sides + (side + 1) % num_sides).ravel()
    c, d = a + num_sides, b + num_sides
    fan = np.arange(1, num_sides - 1)
    first = np.stack([np.zeros_like(fan), fan, fan + 1], 1)
    last = np.stack([np.zeros_like(fan), fan + 1, fan], 1) + (num_rings - 1) * num_sides
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1), first, last])


def loft(rings: np.ndarray) -> Solid:
    """Join rings [R, K, 3] (each convex, all wound the same way) into a closed solid with flat caps."""
    rings = np.asarray(rings, float)
    return outwards(Solid(rings.reshape(-1, 3), _loft_faces(*rings.shape[:2])))


def outwards(solid: Solid) -> Solid:
    """The solid with its faces turned so that the enclosed volume is positive."""
    corners = solid.vertices[solid.faces] - solid.vertices.mean(axis=0)
    volume = np.einsum("ni,ni->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    return solid if volume >= 0 else Solid(solid.vertices, solid.faces[:, ::-1])


def merged(*solids: Solid) -> Solid:
    """Several solids as one, without joining them; a single one as it is."""
    if len(solids) == 1:
        return solids[0]
    offsets = np.cumsum([0] + [len(s.vertices) for s in solids])
    faces = np.concatenate([s.faces + o for s, o in zip(solids, offsets[:-1], strict=True)])
    return Solid(np.concatenate([s.vertices for s in solids]), faces)


def mirrored(solid: Solid) -> Solid:
    """The mirror image in x = 0."""
    return Solid(solid.vertices * (-1.0, 1.0, 1.0), solid.faces[:, ::-1])


def moved(solid: Solid, offset: ArrayLike) -> Solid:
    """Translated by `offset` (3,)."""
    return Solid(solid.vertices + np.asarray(offset, float), solid.faces)


def turned_about_y(solid: Solid, angle: float) -> Solid:
    """Rotated about the y axis by `angle` radians (z towards x)."""
    c, s = math.cos(angle), math.sin(angle)
    rotation = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return Solid(solid.vertices @ rotation.T, solid.faces)


def box(low: ArrayLike, high: ArrayLike, segments: int = 1) -> Solid:
    """An axis-aligned box; `segments` cuts along x, so that it can be bent afterwards."""
    (x0, y0, z0), (x1, y1, z1) = np.asarray(low, float), np.asarray(high, float)
    rings = np.empty((segments + 1, 4, 3))
    rings[:, :, 0] = np.linspace(x0, x1, segments + 1)[:, None]
    rings[:, :, 1:] = np.array([[y0, z0], [y1, z0], [y1, z1], [y0, z1]])
    return loft(rings)


def block(centre: ArrayLike, size: ArrayLike, segments: int = 1) -> Solid:
    """An axis-aligned box by centre and full size."""
    centre, half = np.asarray(centre, float), np.asarray(size, float) / 2
    return box(centre - half, centre + half, segments)


def _frame(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors across a direction; x and z where it is upright."""
    helper = np.array([0.0, 0.0, 1.0]) if abs(direction[2]) < 0.9 * np.linalg.norm(direction) else np.array([1.0, 0, 0])
    first = np.cross(direction, helper)
    first = -first / np.linalg.norm(first) if abs(direction[2]) >= 0.9 else first / np.linalg.norm(first)
    second = np.cross(first, direction)
    return first, second / np.linalg.norm(second)


def bar(a: ArrayLike, b: ArrayLike, width: float, depth: float, *, taper: float = 1.0, level: bool = False) -> Solid:
    """A rectangular bar from a to b; at b the section is scaled by `taper`.

    `width` is measured upright in a lying bar, towards x in an upright one; `depth` across it. `level` cuts the ends
    horizontally, as feet stand on a floor: then `width` is towards x and `depth` towards z.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    first, second = (np.array([1.0, 0, 0]), np.array([0, 0, 1.0])) if level else _frame(b - a)
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    section = np.array([i * width / 2 * first + j * depth / 2 * second for i, j in corners])
    return loft(np.stack([a + section, b + section * taper]))


def rod(a: ArrayLike, b: ArrayLike, radius: float, *, taper: float = 1.0, level: bool = False, sides: int = 0) -> Solid:
    """A round bar from a to b; at b the radius is scaled by `taper`. `level` cuts the ends horizontally."""
    return lathe(a, b, [radius, radius * taper], level=level, sides=sides)


def lathe(a: ArrayLike, b: ArrayLike, radii: Sequence[float], *, level: bool = False, sides: int = 0) -> Solid:
    """A turned bar from a to b with `radii` at equal steps."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    sides = sides or (ROUND_SIDES if max(radii) > 0.03 else ROD_SIDES)
    first, second = (np.array([1.0, 0, 0]), np.array([0, 0, 1.0])) if level else _frame(b - a)
    angle = np.arange(sides) * 2 * math.pi / sides
    circle = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
    steps = np.linspace(0, 1, len(radii))[:, None, None]
    return loft(a + steps * (b - a) + np.asarray(radii)[:, None, None] * circle)


def disc(centre: ArrayLike, radius_x: float, radius_z: float, height: float, sides: int = 32) -> Solid:
    """An upright elliptic cylinder standing on `centre` (the middle of its bottom)."""
    angle = np.arange(sides) * 2 * math.pi / sides
    ring = np.stack([radius_x * np.cos(angle), np.zeros(sides), radius_z * np.sin(angle)], 1) + np.asarray(
        centre, float
    )
    return loft(np.stack([ring, ring + np.array([0, height, 0])]))


def _rounded_rectangle(half_x: float, half_z: float, radius: float, corner_steps: int) -> np.ndarray:
    """[4 (corner_steps + 1), 2] points around a rectangle with round corners."""
    radius = min(radius, half_x, half_z)
    angle = np.linspace(0, math.pi / 2, corner_steps + 1)
    arc = radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    inner = np.array([half_x - radius, half_z - radius])
    quarter = [inner + arc, (inner + arc[::-1]) * (-1, 1), -(inner + arc), (inner + arc[::-1]) * (1, -1)]
    return np.concatenate(quarter)


def rounded_slab(low: ArrayLike, high: ArrayLike, radius: float, corner_steps: int = 4) -> Solid:
    """A box whose four upright edges are round."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    centre, half = (low + high) / 2, (high - low) / 2
    outline = _rounded_rectangle(half[0], half[2], radius, corner_steps) + centre[[0, 2]]
    rings = np.empty((2, len(outline), 3))
    rings[:, :, [0, 2]] = outline
    rings[:, :, 1] = np.array([[low[1]], [high[1]]])
    return loft(rings)


def cushion(low: ArrayLike, high: ArrayLike, radius: float, axis: int = 1) -> Solid:
    """A box with all edges rounded: upholstery. `axis` is the direction it is thin in."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    order = {0: [1, 0, 2], 1: [0, 1, 2], 2: [0, 2, 1]}[axis]
    centre, half = ((low + high) / 2)[order], ((high - low) / 2)[order]
    radius = min(radius, 0.98 * half.min())
    angle = np.linspace(0, math.pi / 2, 4)
    rise, shrink = radius * (1 - np.cos(angle)), radius * (1 - np.sin(angle))
    levels = np.concatenate([-half[1] + rise, (half[1] - rise)[::-1]])
    rings = []
    for level, less in zip(levels, np.concatenate([shrink, shrink[::-1]]), strict=True):
        corner = max(1.5 * radius - less, 0.1 * radius)
        outline = _rounded_rectangle(half[0] - less, half[2] - less, corner, 3)
        rings.append(np.stack([outline[:, 0], np.full(len(outline), level), outline[:, 1]], 1) + centre)
    return outwards(Solid(loft(np.array(rings)).vertices[:, order], _loft_faces(len(rings), rings[0].shape[0])))


def sheet(middle: np.ndarray, thickness: np.ndarray) -> Solid:
    """A curved panel: a grid of points [A, B, 3] thickened by the vectors `thickness` [A, B, 3] (or one, [3])."""
    middle = np.asarray(middle, float)
    rows, columns = middle.shape[:2]
    offset = np.broadcast_to(np.asarray(thickness, float), middle.shape) / 2
    vertices = np.concatenate([(middle + offset).reshape(-1, 3), (middle - offset).reshape(-1, 3)])
    return outwards(Solid(vertices, _sheet_faces(rows, columns)))


@lru_cache(maxsize=64)
def _sheet_faces(rows: int, columns: int) -> np.ndarray:
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, :-1].ravel(), index[1:, 1:].ravel()
    front = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    back = front[:, ::-1] + rows * columns
    rim = np.concatenate([index[0, :-1], index[:-1, -1], index[-1, :0:-1], index[:0:-1, 0]])
    after, far = np.roll(rim, -1), rim + rows * columns
    wall = np.concatenate([np.stack([rim, far, after], 1), np.stack([after, far, np.roll(far, -1)], 1)])
    return np.concatenate([front, back, wall])


def tube(path: np.ndarray, width: float, depth: float, *, round_section: bool = True) -> Solid:
    """A bent bar along a path [R, 3]; `width` is its size across the plane of the path, `depth` within it."""
    path = np.asarray(path, float)
    ahead = np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    chord = path - path[0]
    normal = np.cross(chord, ahead)
    normal = normal[np.argmax(np.linalg.norm(normal, axis=1))]  # of the plane the path lies in
    normal /= np.linalg.norm(normal)
    across = np.cross(normal, ahead)
    sides = ROD_SIDES if round_section else 4
    angle = (np.arange(sides) + 0.5) * 2 * math.pi / sides
    scale = 1.0 if round_section else math.sqrt(2)
    section = np.stack([np.cos(angle) * width / 2 * scale, np.sin(angle) * depth / 2 * scale], 1)
    return loft(path[:, None] + section[None, :, :1] * normal + section[None, :, 1:] * across[:, None])


def rounded_path(corners: ArrayLike, radius: float, steps: int = 4) -> np.ndarray:
    """[R, 3] points along straight lines through `corners` [C, 3], each inner corner replaced by a round bend."""
    corners = np.asarray(corners, float)
    path = [corners[0]]
    for before, corner, after in zip(corners[:-2], corners[1:-1], corners[2:], strict=True):
        u, v = before - corner, after - corner
        reach = min(radius, 0.45 * np.linalg.norm(u), 0.45 * np.linalg.norm(v))
        start, end = corner + u / np.linalg.norm(u) * reach, corner + v / np.linalg.norm(v) * reach
        t = np.linspace(0, 1, steps + 1)[:, None]
        path.extend((1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t**2 * end)  # a quadratic Bezier bend
    return np.array([*path, corners[-1]])
