"""From where a model was photographed: the camera whose silhouette of it agrees best with the mask.

Silhouettes are compared as `framed` crops, so that where the object lies in the picture and how large it is there makes
no difference; left are azimuth, elevation and how near the camera stood. A grid of cameras is tried, then the best few,
well apart, are improved step by step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from jr_dist.data.framing import FILL, OPAQUE, framed
from jr_dist.data.ray_casting import Camera, RayScene

AZIMUTHS = np.arange(-180.0, 180.0, 15.0)
ELEVATIONS = np.arange(0.0, 61.0, 12.0)
DISTANCE = 3.8  # canonical units: of a lens that is neither wide nor long
NEAREST, FARTHEST = 2.6, 8.0  # what cameras are trained with, and where perspective hardly changes any more
APART = 40.0  # degrees of azimuth between viewpoints that are told apart
AS_GOOD = 0.03  # what a silhouette's overlap may fall short and still be as good an answer

_COARSE, _FINE = 40, 80  # pixels of a silhouette's frame
_NUM_STARTS = 4
_COARSE_BLUR = 5
_STEPS = ((6.0, 9), (3.0, 5), (1.5, 3), (0.75, 1))  # degrees, and pixels of blur
_STRETCH = 0.03  # of the distance, a degree of step


@dataclass(frozen=True)
class View:
    """A camera and how well the model's silhouette from it agrees with the mask."""

    camera: Camera
    iou: float  # intersection over union of the framed silhouettes


@dataclass(frozen=True)
class Viewpoint:
    """Where the camera stood, and the next best place where it may have stood."""

    best: View
    runner_up: View  # its azimuth is at least `APART` away

    @property
    def ambiguous(self) -> bool:
        """Whether the runner-up is as good: the silhouette of a symmetric object looks the same from several sides."""
        return self.best.iou - self.runner_up.iou < AS_GOOD


def find_viewpoint(vertices: np.ndarray, faces: np.ndarray, alpha: np.ndarray) -> Viewpoint:
    """The viewpoint of a mesh, vertices (V, 3) in the canonical frame, faces (F, 3), in a mask (H, W) uint8.

    Raises `InputError` where the mask is empty.
    """
    model = _Model(RayScene(vertices, faces), np.asarray(vertices)[np.unique(faces)])
    coarse, fine = (_coverage(alpha, size) for size in (_COARSE, _FINE))
    grid = [
        _seen(model, coarse, Camera(float(azimuth), float(elevation), DISTANCE), _COARSE_BLUR)
        for azimuth in AZIMUTHS
        for elevation in ELEVATIONS
    ]
    starts = [view.camera for view in _well_apart(grid, _NUM_STARTS, APART / 2)]
    # The starts as well: several may have run to one place.
    cameras = [*(_improved(model, fine, camera) for camera in starts), *starts]
    best, runner_up = _well_apart([_seen(model, fine, camera) for camera in cameras], 2, APART)
    found = Viewpoint(best, runner_up)
    # Of two that are as good the one from the front: that is where people stand.
    if found.ambiguous and abs(runner_up.camera.azimuth) < abs(best.camera.azimuth):
        return Viewpoint(runner_up, best)
    return found


@dataclass(frozen=True)
class _Model:
    scene: RayScene
    corners: np.ndarray  # [V, 3], the vertices of its faces


def _silhouette(model: _Model, camera: Camera, size: int) -> np.ndarray:
    """What the model covers of a frame (size, size), framed as `framed` does: 0 or 1, float32."""
    right, up, backward = camera.axes()
    depth = camera.distance - model.corners @ backward
    x, y = model.corners @ right / depth, -(model.corners @ up) / depth
    half = max(np.ptp(x), np.ptp(y)) / 2 / FILL
    steps = ((np.arange(size) + 0.5) * 2 / size - 1) * half
    across, down = steps + (x.min() + x.max()) / 2, steps + (y.min() + y.max()) / 2
    rays = across[None, :, None] * right - down[:, None, None] * up - backward
    return (model.scene.first_hits(camera.position(), rays)[0] >= 0).astype(np.float32)


def _coverage(alpha: np.ndarray, size: int) -> np.ndarray:
    """The mask framed (size, size): shares of the pixels, float32."""
    rgba = np.zeros((*alpha.shape, 4), np.uint8)
    rgba[..., 3] = np.where(alpha >= OPAQUE, 255, 0)
    return framed(rgba, size)[..., 3] / np.float32(255)


def _seen(model: _Model, coverage: np.ndarray, camera: Camera, blur: int = 1) -> View:
    """The overlap of silhouettes blurred over `blur` pixels: thin legs meet only where the camera is almost right."""
    found = _silhouette(model, camera, len(coverage))
    if blur > 1:
        found, coverage = (ndimage.uniform_filter(picture, blur, mode="constant") for picture in (found, coverage))
    return View(camera, float(np.minimum(found, coverage).sum() / np.maximum(found, coverage).sum()))


def _improved(model: _Model, coverage: np.ndarray, camera: Camera) -> Camera:
    """The best of the neighbours, again and again, with smaller and smaller steps and less and less blur."""
    for step, blur in _STEPS:
        best = _seen(model, coverage, camera, blur)
        while True:
            around = [_seen(model, coverage, near, blur) for near in _neighbours(best.camera, step)]
            better = max(around, key=lambda view: view.iou)
            if better.iou <= best.iou:
                break
            best = better
        camera = best.camera
    return camera


def _neighbours(camera: Camera, step: float) -> list[Camera]:
    stretch = 1 + _STRETCH * step
    distances = (camera.distance / stretch, camera.distance * stretch)
    return [
        *(replace(camera, azimuth=(camera.azimuth + turn + 180) % 360 - 180) for turn in (-step, step)),
        *(replace(camera, elevation=float(np.clip(camera.elevation + turn, -20, 85))) for turn in (-step, step)),
        *(replace(camera, distance=float(np.clip(distance, NEAREST, FARTHEST))) for distance in distances),
    ]


def _well_apart(views: list[View], count: int, apart: float) -> list[View]:
    """The best `count` views whose azimuths are at least `apart` degrees from one another."""
    chosen: list[View] = []
    for view in sorted(views, key=lambda view: -view.iou):
        turns = (view.camera.azimuth - other.camera.azimuth for other in chosen)
        if len(chosen) < count and all(abs((turn + 180) % 360 - 180) >= apart for turn in turns):
            chosen.append(view)
    return chosen
