"""Bootstrap intervals over targets: how far a mean, or a difference of means, could move with other targets."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

MAX_DRAWS = 4_000_000  # resampled values held at once


@dataclass(frozen=True)
class Interval:
    """A mean over n targets and its interval; `low` and `high` are None where n < 2, for one target says nothing."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval lies wholly on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def bootstrap_means(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """(resamples,) float64 means of `values` (n,) drawn again with replacement, in bounded memory."""
    n = len(values)
    rows = max(1, MAX_DRAWS // n)
    blocks = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([values[rng.integers(0, n, (block, n))].mean(axis=1) for block in blocks])


def mean_interval(
    values: np.ndarray, rng: np.random.Generator, *, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of `values` (n,) with its BCa bootstrap interval (Efron 1987, eqs. 2.3 and 6.6).

    BCa and not the plain percentiles, since chamfer distances are skewed to the right: percentiles would sit too low.
    """
    values = np.asarray(values, np.float64)
    assert values.ndim == 1 and len(values) > 0 and np.isfinite(values).all(), "finite values, one a target"
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, None, None, len(values))
    deviations = values - mean
    if not deviations.any():
        return Interval(mean, mean, mean, len(values))
    means = bootstrap_means(values, rng, resamples)
    normal = NormalDist()
    # Half of the ties, so that a symmetric discrete distribution has no bias.
    below = ((means < mean).sum() + 0.5 * (means == mean).sum()) / resamples
    bias = normal.inv_cdf(float(np.clip(below, 1 / (2 * resamples), 1 - 1 / (2 * resamples))))
    # The jackknife's acceleration of a mean in closed form.
    acceleration = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))
    low, high = (
        float(np.quantile(means, _adjusted(normal, share, bias, acceleration)))
        for share in ((1 - level) / 2, (1 + level) / 2)
    )
    return Interval(mean, low, high, len(values))


def paired_interval(
    ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator, *, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of `ours` - `theirs`, both (n,) over the same targets in the same order, with its interval.

    Paired: a target drawn again brings both its values, so what the targets have in common cancels.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, "the same targets on both sides"
    return mean_interval(ours - theirs, rng, resamples=resamples, level=level)


def _adjusted(normal: NormalDist, share: float, bias: float, acceleration: float) -> float:
    shifted = bias + normal.inv_cdf(share)
    return normal.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-3))
