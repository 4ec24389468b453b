"""Pictures to test photographs with: renders of the chairs and tables of `fit_cases`, on backgrounds."""

from __future__ import annotations

import numpy as np
from fit_cases import MESHES
from scipy import ndimage

from jr_dist.data.part_mesh import PartMesh, concatenated
from jr_dist.data.ray_casting import Camera
from jr_dist.data.render import render_mesh
from jr_dist.data.surface import surface_of
from jr_dist.geometry.frames import apply_transform, canonical_transform, invert_transform


def canonical(mesh: PartMesh) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in the canonical frame, and faces."""
    vertices, faces, _ = concatenated(mesh)
    return apply_transform(invert_transform(canonical_transform(vertices)), vertices), faces


def render(name: str, camera: Camera, size: int = 256) -> np.ndarray:
    """A shape of `MESHES` in its own colours, RGBA."""
    vertices, faces = canonical(MESHES[name])
    colours = np.rint(255 * surface_of(MESHES[name]).own.colours).astype(np.uint8)
    return render_mesh(vertices, faces, colours, camera=camera, size=size, samples=2).colour


def put_on(rgba: np.ndarray, background: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """`rgba` on a background (H, W, 3), opaque."""
    alpha = rgba[..., 3:] / 255.0
    rgb = rgba[..., :3] * alpha + np.asarray(background, float) * (1 - alpha)
    return np.dstack([np.rint(rgb).astype(np.uint8), np.full(rgba.shape[:2], 255, np.uint8)])


def backgrounds(size: int, alpha: np.ndarray) -> dict[str, np.ndarray]:
    """(size, size, 3) float each; the shadow belongs to an object of that alpha."""
    at = np.linspace(-1, 1, size)
    x, y = at[None, :, None], at[:, None, None]
    white = np.full((size, size, 3), 250.0)
    rows = np.flatnonzero(alpha.any(axis=1))
    foot = np.where(np.arange(size)[:, None] > rows[-1] - size // 12, alpha > 0, False).astype(float)
    shade = ndimage.gaussian_filter(ndimage.shift(foot, (4, 8)), size / 40)
    return {
        "white": white,
        "blue": np.broadcast_to([120.0, 150.0, 200.0], white.shape),
        "gradient": 200 + 40 * y * np.array([1.0, 0.6, 0.2]) + 0 * x,
        "vignette": white * (1 - 0.3 * (x**2 + y**2)),
        "shadow": white * (1 - 0.5 * shade[..., None]),
        "noise": np.clip(white - 20 + np.random.default_rng(0).normal(0, 4, white.shape), 0, 255),
    }


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two alphas."""
    a, b = found >= 128, true >= 128
    return float((a & b).sum() / (a | b).sum())
