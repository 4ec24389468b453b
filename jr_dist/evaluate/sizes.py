"""Chamfer against the size of the database: what a smaller collection of sources would have given, without refitting.

A method ranks all S sources of a target's database. Had the database held m of them only, drawn at random, it would
have retrieved the first of its ranking that is among the m. The expected chamfer over all such subsets is a sum over
the places of the ranking, exact and without sampling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from jr_dist.evaluate.methods import ORACLE, Measured, place
from jr_dist.evaluate.rows import SCALE
from jr_dist.evaluate.tables import SizeCurve

MAX_TAIL = 1e-3  # chance that none of the places known is in the subset; the size is left out above it


def size_curves(results: Iterable[Measured], num_sources: np.ndarray) -> tuple[SizeCurve, ...]:
    """The expected top-1 chamfer of each method that ranks, over the targets it has an answer for.

    `num_sources` [T] is the size of each target's database. Where a method's whole ranking is known, its oracle's curve
    follows (`oracle_name`): the same sum over the fits in ascending order.
    """
    found = []
    for result in sorted(results, key=lambda result: (place(result.method), result.seed or 0)):
        if result.ordered is None:
            continue
        answered = ~np.isnan(result.ordered[:, 0])
        fits, sizes_of = result.ordered[answered], num_sources[answered]
        found.append(size_curve(result, fits, sizes_of))
        if ORACLE in result.fits and fits.size and fits.shape[1] == sizes_of.max():
            named = replace(result, method=oracle_name(result.method))
            found.append(size_curve(named, np.sort(fits, axis=1), sizes_of))
    return tuple(curve for curve in found if curve.sizes)


def oracle_name(method: str) -> str:
    """How the curve of a method's oracle is called."""
    return f"{method}, {ORACLE}"


def size_curve(result: Measured, fits: np.ndarray, num_sources: np.ndarray) -> SizeCurve:
    """One curve over the sizes of `sizes_up_to` that the known places decide.

    Args: fits [T, L], the chamfer of the first L sources in the order in which they would be retrieved (all of them
    where L >= S; ascending for the oracle); num_sources [T], each target's S. No target may be without an answer.
    """
    sizes = sizes_up_to(int(num_sources.min())) if len(num_sources) else ()
    expected = expected_first(fits, num_sources, sizes)
    kept = [i for i in range(len(sizes)) if not np.isnan(expected[:, i]).any()]
    means = SCALE * expected[:, kept].mean(axis=0) if kept else np.zeros(0)
    return SizeCurve(result.method, result.seed, result.protocol, tuple(sizes[i] for i in kept), tuple(means.tolist()))


def sizes_up_to(most: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, ... below `most`, and `most` itself."""
    marks = (mark * 10**power for power in range(len(str(most))) for mark in (1, 2, 5))
    return (*(size for size in marks if size < most), most)


def expected_first(fits: np.ndarray, num_sources: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """[T, M] the mean of the first entry of `fits` [T, L] that a random subset holds, for subsets of each of M sizes.

    The first L of the S = num_sources[t] entries are known. NaN where a subset misses them all with a chance above
    `MAX_TAIL`; below it, the mean is over the subsets that hold one.
    """
    expected = np.full((len(fits), len(sizes)), np.nan)
    for total in np.unique(num_sources):
        rows = num_sources == total
        known = fits[rows, : min(int(total), fits.shape[1])]
        for i, size in enumerate(sizes):
            chance = first_place_chances(int(total), size, known.shape[1])
            if 1 - chance.sum() <= MAX_TAIL:
                expected[rows, i] = known @ (chance / chance.sum())
    return expected


def first_place_chances(total: int, size: int, places: int) -> np.ndarray:
    """[places] the chance that place 0, 1, ... of a ranking of `total` is the first inside a random subset of `size`.

    Hypergeometric: C(total - 1 - j, size - 1) / C(total, size), by the ratio of neighbours, which can't overflow.
    """
    assert 1 <= size <= total and places <= total
    j = np.arange(places - 1)
    ratios = np.maximum(total - size - j, 0) / (total - 1 - j)
    return size / total * np.concatenate([[1.0], np.cumprod(ratios)])
