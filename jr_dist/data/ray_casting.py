"""Cameras, and the rays of their pixels cast at triangles by Embree: which face each ray meets, and where.

Embree is the field's ray caster and its wheel needs no system package.

The camera looks at the origin of the canonical frame (x right, y up, z front). Azimuth 0 stands in front of the object
(+z), positive azimuths walk towards its right (+x); angles are degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene


@dataclass(frozen=True)
class Camera:
    """A perspective camera that looks at the origin. Angles in degrees, distance in units of the scene.

    The defaults hold the whole canonical sphere (radius 1), which is any shape in the canonical frame.
    """

    azimuth: float = 35.0
    elevation: float = 20.0
    distance: float = 3.0
    field_of_view: float = 40.0

    def axes(self) -> np.ndarray:
        """(3, 3) float64, rows right, up, backward (towards the camera): an orthonormal, right-handed frame."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        right = (math.cos(a), 0.0, -math.sin(a))
        up = (-math.sin(e) * math.sin(a), math.cos(e), -math.sin(e) * math.cos(a))
        backward = (math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a))
        return np.array([right, up, backward])

    def position(self) -> np.ndarray:
        """(3,) float64."""
        return self.axes()[2] * self.distance


def camera_rays(camera: Camera, size: int, samples: int = 1) -> np.ndarray:
    """Directions (size*samples, size*samples, 3) float64 of rays through a grid of pixel centres, rows from the top.

    A direction has length 1 along the viewing axis, so the ray parameter of a hit is its depth.
    """
    steps = np.arange(size * samples)
    return pixel_rays(camera, size * samples, steps[:, None], steps[None, :])


def pixel_rays(camera: Camera, grid: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Directions (..., 3) float64 of the rays of `camera_rays` in these cells of a grid x grid picture."""
    half = math.tan(math.radians(camera.field_of_view) / 2)
    across, down = (((index + 0.5) * 2 / grid - 1) * half for index in (columns, rows))
    right, up, backward = camera.axes()
    return across[..., None] * right - down[..., None] * up - backward


class RayScene:
    """Triangles ready for any number of rays: vertices (V, 3), faces (F, 3)."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self._scene = EmbreeScene(robust=True)
        # Embree keeps the geometry by reference as long as it is asked.
        corners = np.ascontiguousarray(vertices[faces], np.float32)
        self._mesh = TriangleMesh(self._scene, corners) if len(faces) else None

    def first_hits(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First hits of rays from one origin (3,) in directions (..., 3).

        Returns face index (...) int32, -1 for a miss, and ray parameter (...) float32, inf for a miss.
        """
        shape = directions.shape[:-1]
        rays = np.ascontiguousarray(directions.reshape(-1, 3), np.float32)
        if self._mesh is None or not len(rays):
            return np.full(shape, -1, np.int32), np.full(shape, np.inf, np.float32)
        origins = np.ascontiguousarray(np.broadcast_to(np.asarray(origin, np.float32), rays.shape))
        hits = self._scene.run(origins, rays, output=True)
        face = hits["primID"].astype(np.int32).reshape(shape)
        depth = np.where(face >= 0, hits["tfar"].reshape(shape), np.float32(np.inf))
        return face, depth.astype(np.float32)


def cast_rays(vertices: np.ndarray, faces: np.ndarray, origin: np.ndarray, directions: np.ndarray):
    """`RayScene.first_hits` of triangles that are asked once."""
    return RayScene(vertices, faces).first_hits(origin, directions)
