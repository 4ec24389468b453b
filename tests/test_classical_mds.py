"""Classical MDS, and landmark MDS for what comes later."""

import numpy as np
import pytest

from jr_dist.train.classical_mds import classical_mds


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x[:, None] - y) ** 2).sum(-1)


@pytest.mark.parametrize("num_dimensions", [5, 12, 40])
def test_distances_of_points_are_had_again_exactly(num_dimensions):
    points = np.random.default_rng(0).normal(size=(20, 5)) * [3, 2, 1, 0.5, 0.1]
    space = classical_mds(squared_distances(points, points), num_dimensions)
    assert space.coordinates.shape == (20, num_dimensions)
    assert not space.coordinates[:, 5:].any()
    np.testing.assert_allclose(
        squared_distances(space.coordinates, space.coordinates), squared_distances(points, points), atol=1e-10
    )


def test_fewer_dimensions_keep_those_of_largest_variance():
    points = np.random.default_rng(1).normal(size=(50, 3)) * [3, 2, 0.1]
    both, three = (classical_mds(squared_distances(points, points), k).coordinates for k in (2, 3))
    np.testing.assert_array_equal(both, three[:, :2])
    assert (np.diff((three**2).sum(0)) < 0).all()
    np.testing.assert_allclose(three.mean(0), 0, atol=1e-12)


def test_landmarks_are_placed_onto_themselves_and_others_at_their_distances():
    random = np.random.default_rng(2)
    points, others = random.normal(size=(15, 4)), random.normal(size=(30, 4)) * 2
    space = classical_mds(squared_distances(points, points), 6)
    np.testing.assert_allclose(space.place(squared_distances(points, points)), space.coordinates, atol=1e-10)
    placed = space.place(squared_distances(others, points))
    np.testing.assert_allclose(
        squared_distances(placed, space.coordinates), squared_distances(others, points), atol=1e-9
    )
    np.testing.assert_allclose(squared_distances(placed, placed), squared_distances(others, others), atol=1e-9)


def test_dissimilarities_of_no_points_are_placed_by_their_positive_eigenvalues():
    squared = np.random.default_rng(3).uniform(1, 2, size=(10, 10))
    squared = (squared + squared.T) / 2
    np.fill_diagonal(squared, 0)
    squared[0, 1] = squared[1, 0] = 9.0  # against the triangle inequality
    centring = np.eye(10) - 0.1
    values = np.linalg.eigvalsh(-0.5 * centring @ squared @ centring)[::-1]
    space = classical_mds(squared, 16)
    positive = values[values > 1e-9]
    assert len(positive) < 9
    np.testing.assert_allclose((space.coordinates**2).sum(0), np.pad(positive, (0, 16 - len(positive))), atol=1e-12)
    np.testing.assert_allclose(space.place(squared), space.coordinates, atol=1e-10)


def test_the_answer_does_not_depend_on_the_signs_of_a_solver(monkeypatch):
    points = np.random.default_rng(4).normal(size=(8, 3))
    squared = squared_distances(points, points)
    expected, solve = classical_mds(squared, 3).coordinates, np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (solve(matrix)[0], -solve(matrix)[1]))
    np.testing.assert_array_equal(classical_mds(squared, 3).coordinates, expected)


def test_sources_that_are_all_alike_lie_at_one_place():
    space = classical_mds(np.zeros((4, 4)), 3)
    assert not space.coordinates.any()
    assert not space.place(np.full((2, 4), 0.3)).any()
