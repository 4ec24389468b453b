"""The viewpoint of a known picture is found again, and where several are possible it is said."""

from __future__ import annotations

import numpy as np
import pytest
from fit_cases import MESHES
from photo_cases import canonical, render

from jr_dist.data.ray_casting import Camera
from jr_dist.errors import InputError
from jr_dist.serve.viewpoint import APART, find_viewpoint


def turn(a: float, b: float) -> float:
    return abs((a - b + 180) % 360 - 180)


@pytest.mark.parametrize("name", ["chair-low", "chair-high"])
@pytest.mark.parametrize(
    "camera", [Camera(35, 20, 3.2, 40), Camera(-50, 8, 6.5, 20), Camera(140, 30, 2.8, 46)], ids=lambda c: f"{c.azimuth}"
)
def test_a_known_camera_is_found(name: str, camera: Camera) -> None:
    found = find_viewpoint(*canonical(MESHES[name]), render(name, camera)[..., 3])
    assert turn(found.best.camera.azimuth, camera.azimuth) < 2.5
    assert abs(found.best.camera.elevation - camera.elevation) < 2.5
    assert found.best.iou > 0.88  # thin legs are a pixel or two wide
    assert turn(found.best.camera.azimuth, found.runner_up.camera.azimuth) >= APART
    assert found.runner_up.iou <= found.best.iou


def test_place_and_size_in_the_picture_make_no_difference() -> None:
    alpha = render("chair-low", Camera(35, 20, 3.2, 40))[..., 3]
    first, second = (
        find_viewpoint(*canonical(MESHES["chair-low"]), picture)
        for picture in (alpha, np.pad(alpha, ((300, 10), (0, 200))))
    )
    assert first == second


def test_a_shape_a_tenth_off_is_still_found() -> None:
    vertices, faces = canonical(MESHES["chair-low"])
    camera = Camera(-40, 18, 3.5, 36)
    found = find_viewpoint(vertices * [1.1, 0.92, 1.0], faces, render("chair-low", camera)[..., 3])
    assert turn(found.best.camera.azimuth, camera.azimuth) < 12


def test_a_symmetric_object_has_two_viewpoints_and_the_front_one_is_given() -> None:
    camera = Camera(150, 20, 3.5, 36)
    found = find_viewpoint(*canonical(MESHES["table-a"]), render("table-a", camera)[..., 3])
    assert found.ambiguous
    assert turn(found.best.camera.azimuth, -30) < 4 and turn(found.runner_up.camera.azimuth, 150) < 4


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(InputError, match="the mask is empty"):
        find_viewpoint(*canonical(MESHES["table-a"]), np.zeros((32, 32), np.uint8))
