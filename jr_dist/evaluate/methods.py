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

from jr_dist.train.methods.registry import METHODS

FULL = "full"  # the protocol under which the whole target is observed

BOX = "Box"  # nearest undeformed chamfer, then the whole model scaled axis by axis to the target's box
NEAREST = "Nearest chamfer"  # nearest undeformed chamfer to what is observed, not deformed
R = "R"  # retrieved in the space of the undeformed chamfer (MDS), not deformed
AE = "AE"  # retrieved by an autoencoder, not deformed
DAR = "DAR"  # retrieved by deformation-aware retrieval, not deformed
DF = "DF"  # the deformation trained on uniform pairs, under oracle retrieval
UNIFORM = "Uniform Sampling"
OURS = "Ours"
OURS_IDO = "Ours w/ IDO"
FIT_AWARE = "Ours + fit-aware retrieval"
LETTER = " (paper's letter)"  # Eq. 2 by L1, as printed
PAPERS_LETTER = OURS + LETTER
#: its first 10, ordered by the label itself: for so few sources what retrieval predicts can be computed
CHECKED = "Ours + fit-aware retrieval, checked"
COARSE_IDO = "Coarse IDO on all sources"  # ranked by IDO with few points and iterations on each; then IDO


def with_df(name: str) -> str:
    """Retrieved as `name` says and then deformed by DF."""
    return f"{name}+DF"


def with_ido(name: str) -> str:
    """Retrieved as `name` says, and IDO at test time."""
    return f"{name} + IDO"


def has_ido(method: str) -> bool:
    """Whether a row stands for IDO at test time."""
    return method.endswith(with_ido("")) or method == COARSE_IDO


R_DF, NEAREST_DF = with_df(R), with_df(NEAREST)
TOP_1, RERANKED, ORACLE = "top-1", "reranked", "oracle"
BEST_OF = (1, 2, 5, 10)
RERANKED_OF = 10
CURVE_LENGTH = 100

#: Methods of the paper, and `Box`, by the table they stand in; tables show those that are missing as well.
TOP_1_METHODS = (BOX, R, R_DF, DAR, with_df(DAR), UNIFORM, OURS, OURS_IDO)
ORACLE_METHODS = (DF, UNIFORM, OURS, OURS_IDO)
_PLAIN = (
    *(BOX, NEAREST, NEAREST_DF, R, R_DF, AE, with_df(AE), DAR, with_df(DAR), DF),
    *(UNIFORM, UNIFORM + LETTER, PAPERS_LETTER, OURS, OURS_IDO, FIT_AWARE, CHECKED),
)
#: the order of all tables: the paper's, and IDO at test time behind it
ORDER = (*_PLAIN, with_ido(NEAREST), COARSE_IDO, *(with_ido(name) for name in _PLAIN if name != NEAREST))


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
    def has_retrieval(self) -> bool:
        """Whether it ranks the sources."""
        ...

    @property
    def has_deformation(self) -> bool:
        """Whether it deforms them."""
        ...

    @property
    def dataset_hash(self) -> str:
        """The dataset that it was trained on."""
        ...

    @property
    def identity(self) -> str:
        """A digest of its weights and codes."""
        ...

    @property
    def source_ids(self) -> Sequence[str]:
        """The sources it retrieves from, in the order of its rows."""
        ...

    def retrieval_distances(self, targets: Tensor, /) -> Tensor:
        """Squared d_R of targets, points (T, N, 3) or pictures (T, 3, S, S), to every source: (T, S), least is best."""
        ...

    def deform(self, targets: Tensor, /, rows: Tensor, store: Any) -> tuple[Tensor, Tensor]:
        """(centre, half_extent), both (T, K, P, 3), of the sources `rows` (T, K) fitted to the targets."""
        ...


@dataclass(frozen=True)
class Measured:
    """What one method with one seed scored on each of the T targets of a table; NaN (or '') where it has no answer.

    Chamfer distances unscaled: squared, mean over points, both directions added, to the whole target.
    """

    method: str
    seed: int | None  # None: nothing was trained
    fits: Mapping[str, np.ndarray]  # retrieval ("top-1", "best-of-5", "oracle", ...) -> [T] chamfer
    protocol: str = FULL
    retrieved: np.ndarray | None = None  # [T] str, id of the source retrieved first
    best: np.ndarray | None = None  # [T] str, id of the source that fits best
    rank: np.ndarray | None = None  # [T] place of that source in the ranking, from 1
    least: np.ndarray | None = None  # [T] its chamfer
    ordered: np.ndarray | None = None  # [T, L] chamfer of the first, second, ... retrieved; L = CURVE_LENGTH at most
    gap: np.ndarray | None = None  # [T] widest joint gap over the sources deformed to the target
    at_floor: np.ndarray | None = None  # [T] mean share of their half-extents at the least scale allowed

    @property
    def key(self) -> tuple[str, int | None, str]:
        """What it is a result of."""
        return self.method, self.seed, self.protocol


def row_name(method: str, loss: str) -> str:
    """The name in the tables of a run's `train.method` and `retrieval.loss`."""
    name = METHODS[method].title
    return name + LETTER if loss == "l1" and name in (OURS, UNIFORM) else name


def needed_method(row: str) -> str:
    """The `train.method` of the run that a row of the tables lacks."""
    if row in (NEAREST_DF, R_DF, with_df(AE)):
        return "df" if row == NEAREST_DF else f"{'mds' if row == R_DF else 'ae'} (and one with df)"
    title = row.removesuffix(with_ido("")).removesuffix(with_df(""))
    return next((name for name, method in METHODS.items() if method.title == title), "ours")


def place(method: str) -> tuple[int, str]:
    """Sorts methods as the paper's tables do."""
    return (ORDER.index(method) if method in ORDER else len(ORDER), method)


def best_of_name(k: int) -> str:
    """The `retrieval` of a row that keeps the best of the first k."""
    return f"best-of-{k}"


def chosen_fits(fit: np.ndarray, observed: np.ndarray) -> dict[str, np.ndarray]:
    """The [T] chamfer of top-1, best of k and reranked, from those of the first L retrieved in order.

    Args: fit [T, L] to the whole target, which is reported; observed [T, L], the error that can be seen at test time,
    by which `reranked` chooses among the first 10. Best of k chooses by what it reports: a bound, not a method.
    """
    best = np.minimum.accumulate(fit, axis=1)
    fits = {TOP_1: fit[:, 0]} | {best_of_name(k): best[:, k - 1] for k in BEST_OF if k <= fit.shape[1]}
    seen = observed[:, :RERANKED_OF].argmin(axis=1)[:, None]
    return fits | {RERANKED: np.take_along_axis(fit, seen, axis=1)[:, 0]}


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
    arrays = {name: scatter(getattr(measured, name)) for name in ARRAYS if getattr(measured, name) is not None}
    return replace(measured, fits=fits, **arrays)


def joined(first: Measured, second: Measured) -> Measured:
    """Two results of one method and seed on different targets (`spread`) as one."""
    assert first.key == second.key
    fits = {**first.fits, **second.fits}
    for name in first.fits.keys() & second.fits.keys():
        fits[name] = _either(first.fits[name], second.fits[name])
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in ARRAYS}  # one method: both or neither
    return replace(first, fits=fits, **{name: _either(*pair) for name, pair in pairs.items() if pair[0] is not None})


def concatenated(parts: Sequence[Measured]) -> Measured:
    """Results of one method and seed on some targets and then others; copies, which keep no larger table alive."""
    first = parts[0]
    fits = {name: np.concatenate([part.fits[name] for part in parts]) for name in first.fits}
    present = [name for name in ARRAYS if getattr(first, name) is not None]
    return replace(first, fits=fits, **{name: np.concatenate([getattr(p, name) for p in parts]) for name in present})


ARRAYS = ("retrieved", "best", "rank", "least", "ordered", "gap", "at_floor")


def _either(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if first.dtype.kind == "U":
        return np.where(first == "", second, first)
    if first.ndim == 2:
        width = min(first.shape[1], second.shape[1])
        first, second = first[:, :width], second[:, :width]
    return np.where(np.isnan(first), second, first)
