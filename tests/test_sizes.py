"""Chamfer against the size of the database equals the mean over all subsets of that size."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from jr_dist.evaluate.methods import Measured
from jr_dist.evaluate.sizes import (
    MAX_TAIL,
    expected_first,
    first_place_chances,
    oracle_name,
    size_curves,
    sizes_up_to,
)


def brute_force(ranked: np.ndarray, size: int) -> float:
    """Mean over all subsets of the first entry of `ranked` (S,) that the subset holds."""
    firsts = [ranked[min(subset)] for subset in combinations(range(len(ranked)), size)]
    return float(np.mean(firsts))


@pytest.mark.parametrize("total", [1, 2, 7, 9])
def test_every_size_equals_all_subsets(total):
    fits = np.random.default_rng(total).random((3, total))
    sizes = range(1, total + 1)
    expected = expected_first(fits, np.full(3, total), sizes)
    by_hand = [[brute_force(row, size) for size in sizes] for row in fits]
    np.testing.assert_allclose(expected, by_hand, rtol=1e-12)
    np.testing.assert_array_equal(expected[:, -1], fits[:, 0])  # the whole database: exactly what was retrieved


@pytest.mark.parametrize("size", [1, 3, 6, 8])
def test_ascending_fits_give_the_expected_minimum(size):
    fits = np.random.default_rng(0).random((2, 8))
    least = [np.mean([row[list(subset)].min() for subset in combinations(range(8), size)]) for row in fits]
    found = expected_first(np.sort(fits, axis=1), np.full(2, 8), [size])
    np.testing.assert_allclose(found[:, 0], least, rtol=1e-12)


@pytest.mark.parametrize(("total", "size"), [(12, 5), (500, 1), (500, 137), (500, 500), (6000, 2000)])
def test_chances_are_hypergeometric(total, size):
    exact = [comb(total - 1 - j, size - 1) / comb(total, size) for j in range(min(total, 40))]
    np.testing.assert_allclose(first_place_chances(total, size, min(total, 40)), exact, rtol=1e-10)
    assert first_place_chances(total, size, total).sum() == pytest.approx(1.0)


def test_a_size_is_left_out_where_the_known_places_do_not_decide_it():
    fits = np.random.default_rng(0).random((4, 10))
    sizes = range(1, 41)
    expected = expected_first(fits, np.full(4, 40), sizes)
    tails = np.array([comb(30, size) / comb(40, size) for size in sizes])
    np.testing.assert_array_equal(np.isnan(expected), np.tile(tails > MAX_TAIL, (4, 1)))
    assert 0 < np.isnan(expected[0]).sum() < 40
    # What is kept is off by no more than the tail, whatever the places beyond hold.
    for beyond in (fits.min(), fits.max()):
        whole = expected_first(np.concatenate([fits, np.full((4, 30), beyond)], axis=1), np.full(4, 40), sizes)
        assert np.nanmax(np.abs(whole - expected)) <= MAX_TAIL * np.ptp(fits)


def test_targets_of_databases_of_different_sizes_are_averaged():
    ordered = np.full((2, 6), np.nan)
    ordered[0], ordered[1, :4] = np.arange(1.0, 7.0), [4.0, 1.0, 3.0, 2.0]
    result = Measured("Ours", 3, {}, ordered=ordered)
    (curve,) = size_curves([result], np.array([6, 4]))
    assert (curve.method, curve.seed, curve.protocol, curve.sizes) == ("Ours", 3, "full", (1, 2, 4))
    for size, value in zip(curve.sizes, curve.chamfer_x100, strict=True):
        assert value == pytest.approx(50 * (brute_force(ordered[0], size) + brute_force(ordered[1, :4], size)))


def test_a_whole_ranking_gives_the_oracle_s_curve_too():
    ordered = np.random.default_rng(0).random((5, 6))
    ordered[4] = np.nan  # a target without an answer
    measured = [
        Measured("Ours", 0, {"oracle": ordered.min(axis=1)}, ordered=ordered),
        Measured("R", None, {"top-1": ordered[:, 0]}),
    ]
    top, best = size_curves(measured, np.full(5, 6))
    assert (top.method, best.method) == ("Ours", oracle_name("Ours"))
    assert top.chamfer_x100[-1] == pytest.approx(100 * ordered[:4, 0].mean())
    assert best.chamfer_x100[-1] == pytest.approx(100 * ordered[:4].min(axis=1).mean())
    # A database of one leaves nothing to choose, and more sources never hurt the oracle.
    assert top.chamfer_x100[0] == pytest.approx(best.chamfer_x100[0])
    assert list(best.chamfer_x100) == sorted(best.chamfer_x100, reverse=True)


def test_nothing_is_said_where_nothing_is_known():
    few = Measured("Ours", 0, {}, ordered=np.ones((3, 1)))
    assert [curve.sizes for curve in size_curves([few], np.full(3, 50))] == [(50,)]  # the database itself alone
    assert size_curves([Measured("Ours", 0, {}, ordered=np.full((3, 2), np.nan))], np.full(3, 50)) == ()


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, (1,)), (5, (1, 2, 5)), (12, (1, 2, 5, 10, 12)), (100, (1, 2, 5, 10, 20, 50, 100))]
)
def test_sizes_are_round_and_end_with_the_database(most, sizes):
    assert sizes_up_to(most) == sizes
