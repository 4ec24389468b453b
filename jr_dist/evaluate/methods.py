"""The rows of the paper's tables: their names, what a trained run must offer, and what one method scored a target.

A method is a ranking of the sources and a fit of every pair; each row of a table is read off those two (metrics.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jr_dist.evaluate import metrics

BOX = "Box"  # nearest undeformed chamfer, then the whole model scaled axis by axis to the target's box
R = "R"  # nearest undeformed chamfer, not deformed
R_DF = "R+DF"  # nearest undeformed chamfer, then the deformation trained on uniform pairs
DF = "DF"  # that deformation under oracle retrieval
UNIFORM = "Uniform Sampling"
OURS = "Ours"
PAPERS_LETTER = "Ours (paper's letter)"  # Eq. 2 by L1, as printed

TOP_1, RERANKED, ORACLE = "top-1", "reranked", "oracle"
BEST_OF = (1, 2, 5, 10)
RERANKED_OF = 10
CURVE_LENGTH = 100

#: Methods by the table they stand in, in the order of the paper; tables show what is missing as well.
TOP_1_METHODS = (BOX, R, R_DF, UNIFORM, OURS)
ORACLE_METHODS = (DF, UNIFORM, OURS)
ORDER = (BOX, R, R_DF, DF, UNIFORM, f"{UNIFORM} (paper's letter)", PAPERS_LETTER, OURS)


class TrainedModelLike(Protocol):
    """What evaluation asks of a trained run (train/trained.py)."""

    @property
    def config(self) -> Any:
        """The run's settings (config.py)."""
        ...

    @property
    def method(self) -> str:
        """As `train.method` names it."""
        ...

    @property
    def dataset_hash(self) -> str:
        """The dataset that it was trained on."""
        ...

    @property
    def source_ids(self) -> Sequence[str]:
        """The sources it retrieves from, in the order of its rows."""
        ...

    def retrieval_distances(self, points: Tensor) -> Tensor:
        """Squared d_R of targets (T, N, 3) to every source: (T, S), ascending is better."""
        ...

    def deform(self, points: Tensor, rows: Tensor, store: Any) -> tuple[Tensor, Tensor]:
        """(centre, half_extent), both (T, K, P, 3), of the sources `rows` (T, K) fitted to targets (T, N, 3)."""
        ...


@dataclass(frozen=True)
class Measured:
    """What one method with one seed scored on each of the T targets of a table; NaN (or '') where it has no answer.

    Chamfer distances unscaled: squared, mean over points, both directions added.
    """

    method: str
    seed: int | None  # None: nothing was trained
    fits: Mapping[str, np.ndarray]  # retrieval ("top-1", "best-of-5", "oracle", ...) -> [T] chamfer
    retrieved: np.ndarray | None = None  # [T] str, id of the source retrieved first
    best: np.ndarray | None = None  # [T] str, id of the source that fits best
    rank: np.ndarray | None = None  # [T] place of that source in the ranking, from 1
    least: np.ndarray | None = None  # [T] its chamfer
    curve: np.ndarray | None = None  # [T, k] chamfer of the best of the first 1, 2, ... k retrieved
    gap: np.ndarray | None = None  # [T] widest joint gap over all sources deformed to the target
    at_floor: np.ndarray | None = None  # [T] mean share of half-extents at the least scale allowed


def row_name(method: str, loss: str) -> str:
    """The name in the tables of a run's `train.method` and `retrieval.loss`."""
    name = {"ours": OURS, "uniform": UNIFORM, "df": DF}[method]
    return f"{name} (paper's letter)" if loss == "l1" and method != "df" else name


def place(method: str) -> tuple[int, str]:
    """Sorts methods as the paper's tables do."""
    return (ORDER.index(method) if method in ORDER else len(ORDER), method)


def best_of_name(k: int) -> str:
    """The `retrieval` of a row that keeps the best of the first k."""
    return f"best-of-{k}"


def measure_ranked(
    method: str, seed: int | None, source_ids: Sequence[str], distances: np.ndarray, fit: np.ndarray, *, oracle: bool
) -> Measured:
    """A method that ranks the sources by `distances` (T, S) and deforms them with chamfer `fit` (T, S).

    `reranked` orders the first 10 by their observed fit. The full cloud being observed, that is the best of 10 by
    construction; the two part ways only where less is observed than is measured. `oracle`: give the oracle's row too.
    """
    ids = np.asarray(source_ids, dtype=str)
    order = metrics.retrieval_order(distances)
    curve = metrics.best_of(fit, order)
    num_sources = curve.shape[1]
    fits = {TOP_1: curve[:, 0]}
    fits |= {best_of_name(k): curve[:, k - 1] for k in BEST_OF if k <= num_sources}
    fits[RERANKED] = curve[:, min(RERANKED_OF, num_sources) - 1]
    if oracle:
        fits[ORACLE] = curve[:, -1]
    return Measured(
        method,
        seed,
        fits,
        retrieved=ids[order[:, 0]],
        best=ids[fit.argmin(axis=1)],
        rank=metrics.oracle_rank(fit, order).astype(float),
        least=curve[:, -1],
        curve=curve[:, :CURVE_LENGTH],
    )


def measure_nearest(source_ids: Sequence[str], undeformed: np.ndarray) -> Measured:
    """`R`: the source that is nearest as it stands, of chamfer `undeformed` (T, S)."""
    nearest = metrics.retrieval_order(undeformed)[:, 0]
    fit = np.take_along_axis(undeformed, nearest[:, None], axis=1)[:, 0]
    return Measured(R, None, {TOP_1: fit}, retrieved=np.asarray(source_ids, dtype=str)[nearest])


def measure_box(source_ids: Sequence[str], nearest: np.ndarray, fit: np.ndarray) -> Measured:
    """`Box`: chamfer `fit` (T,) of the sources `nearest` (T,) scaled to the targets' boxes."""
    return Measured(BOX, None, {TOP_1: fit}, retrieved=np.asarray(source_ids, dtype=str)[nearest])


def measure_oracle(method: str, seed: int | None, source_ids: Sequence[str], fit: np.ndarray) -> Measured:
    """A deformation without a retrieval of its own (`DF`): the best of all sources by chamfer `fit` (T, S)."""
    best = fit.argmin(axis=1)
    return Measured(method, seed, {ORACLE: fit.min(axis=1)}, best=np.asarray(source_ids, dtype=str)[best])


def scale_to_box(points: Tensor, target: Tensor, *, least_extent: float = 1e-3) -> Tensor:
    """Clouds (M, N, 3) moved and scaled along each axis so that their boxes become those of `target` (M, N2, 3).

    An axis along which a cloud is flatter than `least_extent` (canonical units) is only moved: it has nothing to scale.
    """
    low, high = points.amin(dim=1, keepdim=True), points.amax(dim=1, keepdim=True)
    target_low, target_high = target.amin(dim=1, keepdim=True), target.amax(dim=1, keepdim=True)
    extent = high - low
    scale = torch.where(extent > least_extent, (target_high - target_low) / extent.clamp(min=least_extent), 1.0)
    return (points - (low + high) / 2) * scale + (target_low + target_high) / 2


def spread(measured: Measured, where: np.ndarray, num_targets: int) -> Measured:
    """Results on the targets `where` (int positions) as results on all `num_targets`, NaN elsewhere."""

    def scatter(values: np.ndarray) -> np.ndarray:
        blank = "" if values.dtype.kind == "U" else np.nan
        wide = np.full((num_targets, *values.shape[1:]), blank, values.dtype if blank == "" else np.float64)
        wide[where] = values
        return wide

    fits = {name: scatter(values) for name, values in measured.fits.items()}
    arrays = {name: scatter(getattr(measured, name)) for name in _ARRAYS if getattr(measured, name) is not None}
    return replace(measured, fits=fits, **arrays)


def joined(first: Measured, second: Measured) -> Measured:
    """Two results of one method and seed on different targets (`spread`) as one."""
    assert (first.method, first.seed) == (second.method, second.seed)
    fits = {**first.fits, **second.fits}
    for name in first.fits.keys() & second.fits.keys():
        fits[name] = _either(first.fits[name], second.fits[name])
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in _ARRAYS}  # one method: both or neither
    return replace(first, fits=fits, **{name: _either(*pair) for name, pair in pairs.items() if pair[0] is not None})


def concatenated(parts: Sequence[Measured]) -> Measured:
    """Results of one method and seed on some targets and then others; copies, which keep no larger table alive."""
    first = parts[0]
    fits = {name: np.concatenate([part.fits[name] for part in parts]) for name in first.fits}
    present = [name for name in _ARRAYS if getattr(first, name) is not None]
    return replace(first, fits=fits, **{name: np.concatenate([getattr(p, name) for p in parts]) for name in present})


_ARRAYS = ("retrieved", "best", "rank", "least", "curve", "gap", "at_floor")


def _either(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if first.dtype.kind == "U":
        return np.where(first == "", second, first)
    if first.ndim == 2:
        width = min(first.shape[1], second.shape[1])
        first, second = first[:, :width], second[:, :width]
    return np.where(np.isnan(first), second, first)
