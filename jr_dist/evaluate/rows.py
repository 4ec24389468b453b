"""From what each method scored on each target to the records of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from jr_dist.evaluate import metrics
from jr_dist.evaluate.intervals import Interval, mean_interval, paired_interval
from jr_dist.evaluate.methods import (
    BOX,
    CHECKED,
    COARSE_IDO,
    DAR,
    DF,
    FIT_AWARE,
    NEAREST,
    NEAREST_DF,
    ORACLE,
    ORACLE_METHODS,
    OURS,
    OURS_IDO,
    PAPERS_LETTER,
    R_DF,
    RERANKED,
    TOP_1,
    TOP_1_METHODS,
    UNIFORM,
    Measured,
    R,
    needed_method,
    place,
    with_df,
    with_ido,
)
from jr_dist.evaluate.tables import ALL, Absent, Comparison, Curve, Ranking, Row, Sanity, Summary

SCALE = 100.0  # the paper prints chamfer x 10^-2
_OTHERS = (UNIFORM, with_df(DAR), R_DF, NEAREST_DF, R, BOX, PAPERS_LETTER)
_IDO_OTHERS = (with_ido(OURS), with_ido(NEAREST), COARSE_IDO)
_FIT_AWARE = ((TOP_1, FIT_AWARE), (TOP_1, CHECKED), (RERANKED, FIT_AWARE))
COMPARED = (
    *((TOP_1, OURS, other) for other in _OTHERS),
    (TOP_1, OURS_IDO, OURS),
    *((retrieval, with_ido(name), other) for retrieval, name in _FIT_AWARE for other in _IDO_OTHERS),
    *((ORACLE, OURS, other) for other in (UNIFORM, DF, PAPERS_LETTER)),
    (ORACLE, OURS_IDO, OURS),
)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn. Each starts from the same seed, so that equal sets of targets are resampled alike."""

    resamples: int = 2000
    seed: int = 0
    level: float = 0.95

    def of(self, values: np.ndarray) -> Interval:
        """The mean of `values` (n,), x100."""
        return mean_interval(
            SCALE * values, np.random.default_rng(self.seed), resamples=self.resamples, level=self.level
        )

    def of_difference(self, ours: np.ndarray, theirs: np.ndarray) -> Interval:
        """The mean of `ours` - `theirs`, both (n,), x100."""
        rng = np.random.default_rng(self.seed)
        return paired_interval(SCALE * ours, SCALE * theirs, rng, resamples=self.resamples, level=self.level)


@dataclass(frozen=True)
class Targets:
    """The targets of a table: [T] ids and categories, and the categories in the order of the columns."""

    ids: np.ndarray
    categories: np.ndarray
    names: tuple[str, ...]

    def groups(self) -> list[tuple[str, np.ndarray]]:
        """(category, mask [T]) of each column, `all` last."""
        return [*((name, self.categories == name) for name in self.names), (ALL, np.ones(len(self.ids), bool))]


def result_rows(results: Sequence[Measured], targets: Targets, bootstrap: Bootstrap) -> tuple[Row, ...]:
    """One row a method, seed, retrieval and category that the method has an answer for every target of."""
    rows = []
    for result in _ordered(results):
        for retrieval, values in result.fits.items():
            for category, mask in targets.groups():
                if np.isnan(values[mask]).any():
                    continue
                found = bootstrap.of(values[mask])
                assert found.n == mask.sum(), "every target counts"
                kind = {"method": result.method, "retrieval": retrieval, "protocol": result.protocol}
                rows.append(Row(**kind, category=category, **_numbers(found), seed=result.seed))
    return tuple(rows)


def summary_rows(results: Sequence[Measured], targets: Targets, bootstrap: Bootstrap) -> tuple[Summary, ...]:
    """One row a method, retrieval and category: the mean over its seeds for each target, then over targets."""
    rows = []
    for method, protocol in _kinds(results):
        own = [result for result in results if (result.method, result.protocol) == (method, protocol)]
        for retrieval in _retrievals(own):
            values = [result.fits[retrieval] for result in own if retrieval in result.fits]
            seeds = [result.seed for result in own if retrieval in result.fits]
            for category, mask in targets.groups():
                # Seeds that have an answer for every target of the column: others would be averaged over fewer.
                whole = [(s, v[mask]) for s, v in zip(seeds, values, strict=True) if not np.isnan(v[mask]).any()]
                if not whole:
                    continue
                found = bootstrap.of(np.mean([v for _, v in whole], axis=0))
                means = [SCALE * float(v.mean()) for _, v in whole]
                between = float(np.std(means, ddof=1)) if len(means) > 1 else None
                trained = tuple(sorted(s for s, _ in whole if s is not None))
                kind = {"method": method, "retrieval": retrieval, "protocol": protocol, "category": category}
                rows.append(Summary(**kind, **_numbers(found), seeds=trained, between_seeds=between))
    return tuple(rows)


def comparison_rows(results: Sequence[Measured], targets: Targets, bootstrap: Bootstrap) -> tuple[Comparison, ...]:
    """Methods against one another on the same targets: averaged over seeds first, then paired over targets."""
    rows = []
    protocols = dict.fromkeys(result.protocol for result in results)
    for protocol, (retrieval, method, against) in product(protocols, COMPARED):
        ours = _by_seed(results, method, retrieval, protocol)
        theirs = _by_seed(results, against, retrieval, protocol)
        for category, mask in targets.groups():
            if (row := _comparison(ours, theirs, mask, bootstrap)) is None:
                continue
            found, share_better, by_seed = row
            kind = {"method": method, "against": against, "retrieval": retrieval, "protocol": protocol}
            numbers = _numbers(found)
            rows.append(
                Comparison(
                    **kind,
                    category=category,
                    difference_x100=numbers.pop("chamfer_x100"),
                    **numbers,
                    clear=found.clear_of_zero,
                    share_better=share_better,
                    seeds=tuple(by_seed),
                    by_seed_x100=tuple(by_seed.values()),
                )
            )
    return tuple(rows)


def _comparison(
    ours: dict[int | None, np.ndarray], theirs: dict[int | None, np.ndarray], mask: np.ndarray, bootstrap: Bootstrap
) -> tuple[Interval, float, dict[int, float]] | None:
    """The pooled difference, the share of targets it is below zero on, and the difference of each seed."""
    ours = {seed: value[mask] for seed, value in ours.items() if not np.isnan(value[mask]).any()}
    theirs = {seed: value[mask] for seed, value in theirs.items() if not np.isnan(value[mask]).any()}
    if not ours or not theirs:
        return None
    if common := ours.keys() & theirs.keys():  # equal seeds on both sides, where there are any
        ours, theirs = ({s: v for s, v in side.items() if s in common} for side in (ours, theirs))
    left, right = mean_present(list(ours.values())), mean_present(list(theirs.values()))
    # Against a method without seeds (or with other ones) each of our seeds is set against their mean.
    by_seed = {
        seed: float(SCALE * (value - theirs.get(seed, right)).mean())
        for seed, value in sorted(ours.items(), key=str)
        if seed is not None
    }
    return bootstrap.of_difference(left, right), float((left < right).mean()), by_seed


def ranking_rows(
    results: Sequence[Measured], targets: Targets, num_sources: np.ndarray, bootstrap: Bootstrap
) -> tuple[Ranking, ...]:
    """How each retrieval orders the sources; `num_sources` [T] is the size of each target's database."""
    rows = []
    for result in _ordered(results):
        if result.rank is None or result.retrieved is None or result.least is None:
            continue
        regret = result.fits[TOP_1] - result.least
        for category, mask in targets.groups():
            ranks = result.rank[mask]
            if np.isnan(ranks).any():
                continue
            numbers = _numbers(bootstrap.of(regret[mask]))
            rows.append(
                Ranking(
                    method=result.method,
                    protocol=result.protocol,
                    category=category,
                    seed=result.seed,
                    num_sources=int(num_sources[mask].max()),
                    recall_at_1=metrics.recall_at(ranks, 1),
                    recall_at_5=metrics.recall_at(ranks, 5),
                    recall_at_10=metrics.recall_at(ranks, 10),
                    mean_oracle_rank=float(ranks.mean()),
                    distinct_sources=metrics.num_distinct(result.retrieved[mask]),
                    regret_x100=numbers.pop("chamfer_x100"),
                    **numbers,
                )
            )
    return tuple(rows)


def sanity_rows(results: Sequence[Measured], targets: Targets) -> tuple[Sanity, ...]:
    """Joint gaps and scales of each trained deformation."""
    rows = []
    for result in _ordered(results):
        if result.gap is None or result.at_floor is None:
            continue
        for category, mask in targets.groups():
            if not np.isnan(result.gap[mask]).any():
                gap, floor = float(result.gap[mask].max()), float(result.at_floor[mask].mean())
                rows.append(Sanity(result.method, result.protocol, category, result.seed, gap, floor))
    return tuple(rows)


def curves(results: Sequence[Measured]) -> tuple[Curve, ...]:
    """Chamfer of the best of the first k, for each method that ranks; over the targets it has an answer for."""
    found = []
    for result in _ordered(results):
        if result.ordered is not None:
            answered = result.ordered[~np.isnan(result.ordered[:, 0])]
            best = np.minimum.accumulate(answered, axis=1).mean(axis=0)
            found.append(Curve(result.method, result.seed, result.protocol, tuple((SCALE * best).tolist())))
    return tuple(found)


def absent_rows(
    results: Sequence[Measured], targets: Targets, failed: Sequence[tuple[str, int | None, str]]
) -> tuple[Absent, ...]:
    """What the two tables lack: methods that failed (name, seed, reason), were not given, or cover fewer categories."""
    gaps = [Absent(name, retrieval, ALL, seed, reason) for name, seed, reason in failed for retrieval in _belongs(name)]
    for retrieval, expected in ((TOP_1, TOP_1_METHODS), (ORACLE, ORACLE_METHODS)):
        explained = {gap.method for gap in gaps if gap.retrieval == retrieval}
        for method in sorted({*expected, *_methods(results)}, key=place):
            own = [
                r.fits[retrieval]
                for r in results
                if (r.method, r.protocol) == (method, results[0].protocol) and retrieval in r.fits
            ]
            if own:
                gaps += _uncovered(method, retrieval, mean_present(own), targets)
            elif method in expected and method not in explained:
                reason = f"no run with train.method {needed_method(method)} was given"
                gaps.append(Absent(method, retrieval, ALL, None, reason))
    return tuple(gaps)


def _uncovered(method: str, retrieval: str, pooled: np.ndarray, targets: Targets) -> list[Absent]:
    missing = [name for name, mask in targets.groups()[:-1] if np.isnan(pooled[mask]).any()]
    gaps = [Absent(method, retrieval, name, None, f"no run of it was trained on {name}") for name in missing]
    if missing:
        gaps.append(Absent(method, retrieval, ALL, None, f"no run of it covers {', '.join(missing)}"))
    return gaps


def mean_present(values: Sequence[np.ndarray]) -> np.ndarray:
    """(T,) the mean over arrays (T,) of what is not NaN; NaN where nothing is."""
    stack = np.stack(values)
    present = ~np.isnan(stack)
    total, count = np.where(present, stack, 0.0).sum(axis=0), present.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _numbers(found: Interval) -> dict[str, Any]:
    return {"chamfer_x100": found.mean, "low": found.low, "high": found.high, "n": found.n}


def _belongs(method: str) -> list[str]:
    return [name for name, known in ((TOP_1, TOP_1_METHODS), (ORACLE, ORACLE_METHODS)) if method in known] or [TOP_1]


def _ordered(results: Iterable[Measured]) -> list[Measured]:
    return sorted(results, key=lambda result: (place(result.method), result.seed or 0))


def _methods(results: Iterable[Measured]) -> list[str]:
    return list(dict.fromkeys(result.method for result in _ordered(results)))


def _kinds(results: Iterable[Measured]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((result.method, result.protocol) for result in _ordered(results)))


def _retrievals(results: Iterable[Measured]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.fits))


def _by_seed(results: Iterable[Measured], method: str, retrieval: str, protocol: str) -> dict[int | None, np.ndarray]:
    own = [r for r in results if (r.method, r.protocol) == (method, protocol)]
    return {r.seed: r.fits[retrieval] for r in own if retrieval in r.fits}
