"""Which face each pixel shows, by Embree on the processor."""

from __future__ import annotations

import math

import numpy as np

from jr_dist.data.ray_casting import Camera, pixel_rays
from jr_dist.data.surface import Surface


def faces_seen(
    surface: Surface, camera: Camera, grid: int, at: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """See `render_views.faces_seen`."""
    if at is not None:
        return surface.scene.first_hits(camera.position(), pixel_rays(camera, grid, *at))[0]
    face = np.full((grid, grid), -1, np.int32)
    rows, columns = _window(surface, camera, grid)
    rays = pixel_rays(camera, grid, rows[:, None], columns[None, :])
    face[rows[:, None], columns] = surface.scene.first_hits(camera.position(), rays)[0]
    return face


def _window(surface: Surface, camera: Camera, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the rectangle outside of which there is nothing to see; all where a vertex is behind."""
    seen = surface.vertices @ camera.axes().T
    depth = camera.distance - seen[:, 2]
    if not len(depth) or depth.min() <= 1e-3:
        return np.arange(grid), np.arange(grid)
    focal = grid / 2 / math.tan(math.radians(camera.field_of_view) / 2)
    down, across = grid / 2 - seen[:, 1] / depth * focal, grid / 2 + seen[:, 0] / depth * focal
    return _cells(down, grid), _cells(across, grid)


def _cells(places: np.ndarray, grid: int) -> np.ndarray:
    return np.arange(max(int(places.min()) - 1, 0), min(int(places.max()) + 2, grid))
