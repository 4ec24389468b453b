"""Classical multidimensional scaling, and the place of what comes later by its distances to landmarks.

Torgerson 1952; the out-of-sample formula is that of landmark MDS (de Silva and Tenenbaum, Sparse multidimensional
scaling using landmark points, 2004).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Eigenvalues below this share of the largest are rounding, not dimensions.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Landmarks:
    """L points whose distances are known, in D dimensions."""

    coordinates: np.ndarray  # [L, D] float64, centred; columns by falling variance, zero where there is none left
    mean_squared: np.ndarray  # [L] float64, the mean squared distance of each to all

    def place(self, squared: np.ndarray) -> np.ndarray:
        """[M, D]: the points with squared distances [M, L] to the landmarks.

        x = -1/2 X^+ (delta - delta_mean), X the coordinates of the landmarks: a landmark is placed onto itself, and
        any point whose distances can be had exactly is given them.
        """
        variance = np.square(self.coordinates).sum(axis=0)
        inverse = self.coordinates / np.where(variance > 0, variance, 1.0)
        return -0.5 * (squared - self.mean_squared) @ inverse


def classical_mds(squared: np.ndarray, num_dimensions: int) -> Landmarks:
    """The points whose squared distances are nearest to `squared` [L, L], symmetric, in `num_dimensions`.

    Eigenvalues that are not positive are dropped, and where fewer than `num_dimensions` are left, or L is smaller, the
    rest of the columns is zero. Each column's entry of largest magnitude is positive, so that the result does not
    depend on the signs that a solver chooses.
    """
    squared = np.asarray(squared, np.float64)
    mean = squared.mean(axis=0)
    gram = -0.5 * (squared - mean - mean[:, None] + mean.mean())
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:num_dimensions], vectors[:, ::-1][:, :num_dimensions]
    kept = values > _ROUNDING * max(values[0], 0.0)
    coordinates = np.zeros((len(squared), num_dimensions))
    coordinates[:, : kept.sum()] = vectors[:, kept] * np.sqrt(values[kept])
    largest = np.take_along_axis(coordinates, np.abs(coordinates).argmax(axis=0)[None], axis=0)
    return Landmarks(coordinates * np.where(largest < 0, -1.0, 1.0), mean)
