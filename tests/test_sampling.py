"""Surface samples: uniform by area, on the surface, and shared out among parts to the last point."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.errors import InputError
from jr_dist.geometry.sampling import allocate_points, sample_triangles, triangle_areas

TRIANGLE = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
FACE = np.array([[0, 1, 2]])


def _random_mesh(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(12, 3)), rng.integers(0, 12, (20, 3)), rng


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_points_lie_on_the_faces_they_are_said_to_lie_on(seed):
    vertices, faces, rng = _random_mesh(seed)
    points, face = sample_triangles(vertices, faces, 200, rng)
    a, b, c = (vertices[faces[face, i]] for i in range(3))
    # Three sub-triangles that add up to the whole: inside, and in the plane.
    pieces = sum(np.linalg.norm(np.cross(u - points, v - points), axis=1) / 2 for u, v in ((a, b), (b, c), (c, a)))
    np.testing.assert_allclose(pieces, triangle_areas(vertices, faces)[face], rtol=1e-6, atol=1e-9)


def test_points_are_uniform_on_a_triangle():
    points, _ = sample_triangles(TRIANGLE, FACE, 40_000, np.random.default_rng(0))
    # Moments of the uniform distribution on this triangle: mean 1/3, variance 1/18, covariance -1/36.
    np.testing.assert_allclose(points[:, :2].mean(axis=0), 1 / 3, atol=0.006)
    np.testing.assert_allclose(np.cov(points[:, :2].T), np.array([[1 / 18, -1 / 36], [-1 / 36, 1 / 18]]), atol=0.0015)


def test_faces_are_drawn_by_area_and_in_random_order():
    vertices = np.concatenate([TRIANGLE, 2 * TRIANGLE + 5, np.zeros((3, 3))])
    faces = np.array([[0, 1, 2], [6, 7, 8], [3, 4, 5]])
    _, face = sample_triangles(vertices, faces, 20_000, np.random.default_rng(1))
    assert not (face == 1).any()  # no area
    for half in np.split(face, 2):
        assert abs((half == 2).mean() - 0.8) < 0.02


def test_a_seed_decides_everything():
    first, second, third = (sample_triangles(TRIANGLE, FACE, 10, np.random.default_rng(seed))[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


@pytest.mark.parametrize("faces", [np.array([[0, 0, 1]]), np.zeros((0, 3), dtype=np.int64)])
def test_a_surface_without_area_is_refused(faces):
    with pytest.raises(InputError, match="area"):
        sample_triangles(TRIANGLE, faces, 10, np.random.default_rng(0))


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e6)), min_size=1, max_size=16).filter(any),
    st.integers(16, 3000),
)
@settings(max_examples=200, deadline=None)
def test_allocation_sums_exactly_and_starves_nobody(areas, num_points):
    areas = np.array(areas)
    counts = allocate_points(areas, num_points)
    present = areas > 0
    assert counts.sum() == num_points
    assert (counts[~present] == 0).all()
    floor = min(8, num_points // present.sum())
    assert (counts[present] >= floor).all()
    # Beyond the floor, points follow area: nobody larger has fewer than somebody smaller.
    assert (np.diff(counts[np.argsort(areas, kind="stable")]) >= -1).all()


def test_allocation_is_proportional_where_nobody_is_small():
    np.testing.assert_array_equal(allocate_points(np.array([1.0, 2.0, 5.0]), 800), [100, 200, 500])
    np.testing.assert_array_equal(allocate_points(np.array([1.0, 0.0, 1.0]), 101), [51, 0, 50])


@pytest.mark.parametrize(("areas", "num_points"), [([0.0, 0.0], 10), ([1.0, np.nan], 10), ([1.0, 1.0], 1)])
def test_impossible_allocations_are_refused(areas, num_points):
    with pytest.raises(InputError):
        allocate_points(np.array(areas), num_points)
