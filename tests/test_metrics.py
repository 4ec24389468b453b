"""Metrics against cases small enough to do by hand, and what must hold for any table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_cases import measure_ranked
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jr_dist.evaluate import methods, metrics
from jr_dist.geometry.chamfer import chamfer

# Two targets, three sources. Target 0 retrieves 2, 0, 1 and fits best with 1; target 1 retrieves 0, 1, 2, best is 0.
DISTANCES = np.array([[0.5, 0.9, 0.1], [0.1, 0.1, 0.2]])
FIT = np.array([[0.3, 0.2, 0.4], [0.5, 0.7, 0.6]])


def test_order_puts_the_lower_row_first_among_equals():
    assert metrics.retrieval_order(DISTANCES).tolist() == [[2, 0, 1], [0, 1, 2]]


def test_best_of_k_by_hand():
    best = metrics.best_of(FIT, metrics.retrieval_order(DISTANCES))
    assert best.tolist() == [[0.4, 0.3, 0.2], [0.5, 0.5, 0.5]]


def test_oracle_rank_and_recall_by_hand():
    ranks = metrics.oracle_rank(FIT, metrics.retrieval_order(DISTANCES))
    assert ranks.tolist() == [3, 1]
    assert [metrics.recall_at(ranks, k) for k in (1, 2, 3)] == [0.5, 0.5, 1.0]


def test_of_sources_that_fit_equally_well_the_first_retrieved_counts():
    fit = np.array([[0.1, 0.1, 0.5]])
    assert metrics.oracle_rank(fit, np.array([[1, 2, 0]])).tolist() == [1]


def test_distinct_sources():
    assert metrics.num_distinct(np.array(["a", "b", "a"])) == 2


matrices = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(0, 10))


@given(matrices, st.randoms(use_true_random=False))
def test_best_of_k_falls_from_top_1_to_the_oracle(fit, random):
    distances = np.array([[random.random() for _ in row] for row in fit])
    order = metrics.retrieval_order(distances)
    best = metrics.best_of(fit, order)
    assert (np.diff(best, axis=1) <= 0).all()
    assert (best[:, -1] == fit.min(axis=1)).all()
    assert (best[:, 0] == fit[np.arange(len(fit)), distances.argmin(axis=1)]).all()
    rank = metrics.oracle_rank(fit, order)
    # The oracle is reached at its rank, and not one earlier.
    assert (best[np.arange(len(fit)), rank - 1] == fit.min(axis=1)).all()
    earlier = rank > 1
    assert (best[earlier, rank[earlier] - 2] > fit[earlier].min(axis=1)).all()


def test_joint_gap_by_hand():
    # Two parts that meet at x = 1: part 0 = [0, 1], part 1 = [1, 3]; the joint is q = 1 in part 0, q = -1 in part 1.
    parts = torch.tensor([[[0, 1], [-1, -1]]])
    coordinates = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    coordinates[0, 0, 0, 0], coordinates[0, 0, 1, 0] = 1.0, -1.0
    coordinates[0, 1] = 7.0  # padding: must not count
    centre = torch.tensor([[[0.5, 0, 0], [2.0, 0, 0]]])
    half = torch.tensor([[[0.5, 1, 1], [1.0, 1, 1]]])
    assert metrics.joint_gap(centre, half, parts, coordinates).tolist() == [0.0]
    moved = centre + torch.tensor([[[0, 0, 0], [0.25, 0, 0]]])
    assert metrics.joint_gap(moved, half, parts, coordinates).tolist() == [0.25]
    both = torch.stack([moved, centre])  # in front of the sources there may be targets
    assert metrics.joint_gap(both, half.expand(2, -1, -1, -1), parts, coordinates).tolist() == [[0.25], [0.0]]
    assert metrics.joint_gap(centre, half, parts[:, :0], coordinates[:, :0]).tolist() == [0.0]


def test_share_at_floor_counts_real_parts_alone():
    undeformed = torch.full((1, 3, 3), 2.0)
    half = torch.tensor([[[0.1, 1, 1], [2, 2, 0.1], [0.1, 0.1, 0.1]]])
    mask = torch.tensor([[True, True, False]])
    assert metrics.share_at_floor(half, undeformed, mask, 0.05).tolist() == [2 / 6]


def test_box_recovers_a_source_that_was_scaled():
    rng = np.random.default_rng(0)
    source = torch.from_numpy(rng.normal(size=(1, 300, 3)).astype(np.float32))
    target = source * torch.tensor([0.5, 1.7, 0.9]) + torch.tensor([0.1, -0.4, 0.2])
    assert chamfer(source, target).item() > 0.01
    assert chamfer(methods.scale_to_box(source, target), target).item() < 1e-10


def test_box_only_moves_along_an_axis_without_extent():
    flat = torch.tensor([[[0.0, 0.0, 0.5], [1.0, 1.0, 0.5]]])
    target = torch.tensor([[[0.0, 0.0, -1.0], [2.0, 4.0, 1.0]]])
    assert methods.scale_to_box(flat, target).tolist() == [[[0.0, 0.0, 0.0], [2.0, 4.0, 0.0]]]


def test_a_ranked_method_by_hand():
    measured = measure_ranked("Ours", 3, ["a", "b", "c"], DISTANCES, FIT, oracle=True)
    assert {name: values.tolist() for name, values in measured.fits.items()} == {
        "top-1": [0.4, 0.5],
        "best-of-1": [0.4, 0.5],
        "best-of-2": [0.3, 0.5],
        "reranked": [0.2, 0.5],
        "oracle": [0.2, 0.5],
    }
    assert measured.retrieved is not None and measured.retrieved.tolist() == ["c", "a"]
    assert measured.best is not None and measured.best.tolist() == ["b", "a"]
    assert measured.rank is not None and measured.rank.tolist() == [3, 1]


def test_results_on_parts_of_the_targets_join_to_the_whole():
    whole = measure_ranked("Ours", 0, ["a", "b", "c"], DISTANCES, FIT, oracle=True)
    halves = [
        methods.spread(measure_ranked("Ours", 0, ["a", "b", "c"], DISTANCES[t], FIT[t], oracle=True), t, 2)
        for t in (np.array([1]), np.array([0]))
    ]
    assert np.isnan(halves[0].fits["top-1"][0])
    joined = methods.joined(*halves)
    for name, values in whole.fits.items():
        np.testing.assert_array_equal(joined.fits[name], values)
    for name in ("retrieved", "best", "rank", "least", "ordered"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


@pytest.mark.parametrize(
    ("method", "loss", "name"),
    [
        ("ours", "cross_entropy", "Ours"),
        ("ours", "l1", "Ours (paper's letter)"),
        ("uniform", "cross_entropy", "Uniform Sampling"),
        ("df", "l1", "DF"),
    ],
)
def test_row_names(method, loss, name):
    assert methods.row_name(method, loss) == name
