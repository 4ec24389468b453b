"""Where cameras stand: named distributions, one draw a view, the whole shape always in the picture."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from jr_dist.data.ray_casting import Camera


def draw_camera(name: str, rng: np.random.Generator) -> Camera:
    """A camera of the distribution `name`, one of `CAMERAS`. Its frame holds the canonical sphere (radius 1)."""
    return CAMERAS[name](rng)


def _product(rng: np.random.Generator) -> Camera:
    """As shops photograph: mostly from the front, from a little above, with normal to long lenses."""
    front = rng.random() < 0.75
    azimuth = rng.uniform(-65.0, 65.0) if front else rng.uniform(-180.0, 180.0)
    return _held(rng, azimuth, rng.uniform(5.0, 35.0), rng.uniform(18.0, 45.0))


def _around(rng: np.random.Generator) -> Camera:
    """From all sides, from the floor's height to well above."""
    return _held(rng, rng.uniform(-180.0, 180.0), rng.uniform(0.0, 60.0), rng.uniform(18.0, 55.0))


def _held(rng: np.random.Generator, azimuth: float, elevation: float, field_of_view: float) -> Camera:
    nearest = 1 / math.sin(math.radians(field_of_view) / 2)  # where the sphere touches the frame
    # Rounded to what is stored, so that a stored camera is the one that took the picture.
    values = (azimuth, elevation, nearest * rng.uniform(1.01, 1.2), field_of_view)
    return Camera(*(float(np.float32(value)) for value in values))


CAMERAS: dict[str, Callable[[np.random.Generator], Camera]] = {"product": _product, "around": _around}
