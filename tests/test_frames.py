"""Frames: canonical and back, and which way is up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.errors import InputError
from jr_dist.geometry.frames import (
    apply_transform,
    canonical_transform,
    invert_transform,
    up_axis_rotation,
)

UP = {
    "x": [1, 0, 0],
    "y": [0, 1, 0],
    "z": [0, 0, 1],
    "-x": [-1, 0, 0],
    "-y": [0, -1, 0],
    "-z": [0, 0, -1],
}


@given(st.integers(0, 2**31), st.floats(1e-3, 1e4))
@settings(max_examples=50, deadline=None)
def test_the_canonical_box_is_centred_and_has_half_diagonal_one(seed, size):
    rng = np.random.default_rng(seed)
    points = size * (rng.normal(size=(50, 3)) * rng.uniform(0.1, 3, 3) + rng.normal(size=3))
    transform = canonical_transform(points)
    canonical = apply_transform(invert_transform(transform), points)
    low, high = canonical.min(axis=0), canonical.max(axis=0)
    np.testing.assert_allclose(low + high, 0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(high - low) / 2, 1, atol=1e-9)
    np.testing.assert_allclose(apply_transform(transform, canonical), points, atol=1e-9 * size)
    assert transform.dtype == np.float64
    # No turn, and one scale for all axes.
    np.testing.assert_array_equal(transform[:3, :3], transform[0, 0] * np.eye(3))


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.ones((4, 3)), np.array([[0, 0, np.inf], [1, 1, 1]])])
def test_points_without_an_extent_are_refused(points):
    with pytest.raises(InputError):
        canonical_transform(points)


def test_an_affine_inverse_undoes_the_transform():
    rng = np.random.default_rng(0)
    transform = np.eye(4)
    transform[:3] = rng.normal(size=(3, 4))
    np.testing.assert_allclose(invert_transform(transform) @ transform, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(invert_transform(transform)[3], [0, 0, 0, 1])


@pytest.mark.parametrize("up", UP)
def test_up_goes_up_by_a_proper_rotation(up):
    rotation = up_axis_rotation(up)
    np.testing.assert_array_equal(rotation @ UP[up], [0, 1, 0])
    np.testing.assert_array_equal(rotation @ rotation.T, np.eye(3))
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_a_file_with_z_up_faces_minus_y():
    rotation = up_axis_rotation("z")
    np.testing.assert_array_equal(rotation @ [0, -1, 0], [0, 0, 1])
    np.testing.assert_array_equal(rotation @ [1, 0, 0], [1, 0, 0])


def test_an_unknown_axis_is_refused_with_what_is_allowed():
    with pytest.raises(InputError, match=r"'w'; allowed are y, z, x, -y, -z, -x"):
        up_axis_rotation("w")
