"""Bootstrap intervals: they cover the truth as often as they say; pairing helps where targets share much."""

from __future__ import annotations

import numpy as np
import pytest

from jr_dist.evaluate import intervals
from jr_dist.evaluate.intervals import mean_interval, paired_interval


def coverage(draw, truth: float, trials: int = 400, n: int = 60) -> float:
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(trials):
        found = mean_interval(draw(rng, n), rng, resamples=500)
        assert found.low is not None and found.high is not None
        hits += found.low <= truth <= found.high
    return hits / trials


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng, n: rng.normal(3.0, 2.0, n), 3.0),
        (lambda rng, n: rng.exponential(1.5, n), 1.5),  # skewed, as chamfer distances are
        (lambda rng, n: rng.gamma(2.0, 0.5, n), 1.0),
    ],
)
def test_95_percent_intervals_cover_the_mean(draw, truth):
    # 400 trials: the standard error of a coverage of .95 is .011; BCa falls short by 1 to 2 % at n = 60.
    assert 0.91 <= coverage(draw, truth) <= 0.98


def test_an_interval_of_normal_values_is_the_textbook_one():
    values = np.random.default_rng(0).normal(size=400)
    found = mean_interval(values, np.random.default_rng(1), resamples=4000)
    error = values.std(ddof=1) / np.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    assert found.n == 400


def test_skew_moves_both_ends_of_the_interval_up():
    values = np.random.default_rng(5).exponential(size=40)
    found = mean_interval(values, np.random.default_rng(1), resamples=4000)
    means = intervals.bootstrap_means(values, np.random.default_rng(1), 4000)
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.low is not None and found.high is not None
    assert found.low > low and found.high > high


def test_paired_differences_are_tight_where_targets_share_their_difficulty():
    rng = np.random.default_rng(2)
    difficulty = rng.exponential(5.0, 80)
    ours, theirs = difficulty + rng.normal(0, 0.1, 80), difficulty + 0.2 + rng.normal(0, 0.1, 80)
    paired = paired_interval(ours, theirs, np.random.default_rng(0))
    assert paired.clear_of_zero
    assert paired.high is not None and paired.high < 0
    alone = mean_interval(ours, np.random.default_rng(0))
    assert alone.low is not None and alone.high is not None and paired.low is not None
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)


def test_no_difference_is_not_clear_of_zero():
    values = np.arange(10.0)
    same = paired_interval(values, values, np.random.default_rng(0))
    assert (same.mean, same.low, same.high, same.clear_of_zero) == (0.0, 0.0, 0.0, False)


def test_one_target_has_no_interval():
    found = mean_interval(np.array([2.5]), np.random.default_rng(0))
    assert (found.mean, found.low, found.high, found.n, found.clear_of_zero) == (2.5, None, None, 1, False)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).exponential(size=30)
    first, second = (mean_interval(values, np.random.default_rng(9)) for _ in range(2))
    assert first == second


def test_resampling_in_small_blocks_gives_as_many_means(monkeypatch):
    monkeypatch.setattr(intervals, "MAX_DRAWS", 100)
    values = np.random.default_rng(0).normal(size=30)
    means = intervals.bootstrap_means(values, np.random.default_rng(1), 1000)
    assert means.shape == (1000,)
    assert means.std() == pytest.approx(values.std() / np.sqrt(30), rel=0.1)


def test_values_that_are_not_finite_are_a_programming_error():
    with pytest.raises(AssertionError, match="finite"):
        mean_interval(np.array([1.0, np.nan]), np.random.default_rng(0))
