"""What one contender scores on some targets under one protocol: every row that it fills, from one ranking.

A contender ranks the sources by what it sees of a target; the first of them are deformed and measured to the whole
target. Where the pose is unknown each hypothesis is tried, and the one whose first source fits best what is seen is
kept: nothing is chosen by what is hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jr_dist.evaluate import metrics
from jr_dist.evaluate.methods import (
    BOX,
    CHECKED,
    COARSE_IDO,
    CURVE_LENGTH,
    DF,
    NEAREST,
    NEAREST_DF,
    ORACLE,
    RERANKED,
    RERANKED_OF,
    TOP_1,
    Measured,
    TrainedModelLike,
    chosen_fits,
    scale_to_box,
    with_df,
    with_ido,
)
from jr_dist.evaluate.oracle import Cases, Oracle, blocks, errors, fits_of, oracle, padded_joints, undeformed_chamfer
from jr_dist.evaluate.views import is_picture
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.models.ido import Parameters
from jr_dist.models.refine import Refinement, refine

#: coarse IDO: so few points and solves a source that all sources can be tried (recipe: 256 points, 3 solves)
COARSE_POINTS, COARSE_ITERATIONS = 256, 3
MAX_PAIRS = 512
#: the share of itself that a half-extent stops at in IDO
IDO_FLOOR = 0.05


@dataclass(frozen=True)
class Rules:
    """How a table is measured, beside the protocol."""

    num_points: int
    ido: bool  # rows with IDO at test time
    iterations: int
    prior_weight: float
    mirror: bool
    device: str = "cpu"


@dataclass(frozen=True)
class Contender:
    """A trained run with the deformation that its rows use, or (`name` None) what needs no training."""

    name: str | None  # as it stands in the tables
    seed: int | None
    model: TrainedModelLike | None = None
    deformer: TrainedModelLike | None = None  # itself, or the DF run beside a retrieval without deformation
    fills_oracle: bool = False  # its deformation is its own: it has a row in the oracle's table


@dataclass(frozen=True)
class _Fits:
    """K sources fitted to each of B targets: chamfer to the whole, and the error that is seen; [B, K] each."""

    chamfer: np.ndarray
    observed: np.ndarray


@dataclass(frozen=True)
class _Refined:
    """B K pairs after IDO; `objective` [B, K] is what it minimised."""

    geometry: PartGeometry
    index: Tensor  # [B K] int64, the target of each pair
    centre: Tensor  # [B K, P, 3]
    half_extent: Tensor
    objective: np.ndarray


@torch.no_grad()
def measure(store: Any, contender: Contender, views: Sequence[Cases], protocol: str, rules: Rules) -> list[Measured]:
    """The rows of one contender on B targets, seen in each of the poses `views`; ids of sources are theirs in `store`.

    Raises FloatingPointError where a run's distances or parameters are not finite.
    """
    views = [_on(rules.device, cases) for cases in views]
    connectivity = contender.model is None or contender.model.config.model.connectivity
    measurer = _Measurer(store, protocol, rules, connectivity)
    if contender.name is None:
        found = [] if is_picture(protocol) else measurer.baselines(views)
    elif contender.name == DF:
        assert contender.model is not None
        found = measurer.of_df(contender, contender.model, views)
    else:
        assert contender.model is not None
        found = measurer.of_run(contender, contender.model, views)
    return [replace(result, protocol=protocol) for result in found]


def seen_in_part(protocol: str) -> bool:
    """Whether some of the target is hidden: errors and IDO then look from the observation to the source alone."""
    return protocol.startswith(("partial", "view"))


@dataclass(frozen=True)
class _Measurer:
    store: Any
    protocol: str
    rules: Rules
    connectivity: bool  # whether IDO keeps joints closed: as the run does, and where there is none

    @property
    def _partial(self) -> bool:
        return seen_in_part(self.protocol)

    @property
    def _pictured(self) -> bool:
        """Whether no point is seen: nothing can be fitted, nor chosen by its fit."""
        return is_picture(self.protocol)

    # ---- contenders -----------------------------------------------------------------------------------------------

    def baselines(self, views: Sequence[Cases]) -> list[Measured]:
        """`Box`, the nearest as it stands, and IDO without any network."""
        cases, order = self._best_pose(views, self._nearest, self._undeformed)
        nearest = self._undeformed(cases, order[:, :CURVE_LENGTH])
        found = [
            Measured(BOX, None, {TOP_1: self._boxed(cases, order[:, 0])}, retrieved=self._ids(order[:, 0])),
            self._ranked(NEAREST, None, order, nearest),
        ]
        if self.rules.ido:
            found.append(self._with_ido(NEAREST, None, cases, order))
            cases, order = self._best_pose(views, self._coarse, self._coarsely)
            found.append(replace(self._with_ido(NEAREST, None, cases, order), method=COARSE_IDO))
        return found

    def of_df(self, contender: Contender, model: TrainedModelLike, views: Sequence[Cases]) -> list[Measured]:
        """DF under oracle retrieval, and behind the nearest undeformed chamfer."""
        cases, order = self._best_pose(views, self._nearest, lambda *pairs: self._deformed(model, *pairs))
        first = order[:, :CURVE_LENGTH]
        fits = self._deformed(model, cases, first)
        best = self._oracle(model, cases, order, known=(first, fits.chamfer))
        sound = {"gap": best.gap, "at_floor": best.at_floor}
        least = Measured(
            DF, contender.seed, {ORACLE: best.chamfer[:, 0]}, best=self._ids(best.rows[:, 0]), least=best.chamfer[:, 0]
        )
        if self._pictured:  # the ranking is by points that a picture does not have
            return [replace(least, **sound)]
        found = self._ranked(NEAREST_DF, contender.seed, order, fits)
        return [replace(least, **sound), self._against_oracle(found, order, best)]

    def of_run(self, contender: Contender, model: TrainedModelLike, views: Sequence[Cases]) -> list[Measured]:
        """A run that ranks: as it deforms itself, or undeformed and with the deformation beside it."""
        name, deformer = contender.name, contender.deformer
        assert name is not None

        def rank(cases: Cases) -> np.ndarray:
            return self._learned(model, cases)

        def fit(cases: Cases, rows: np.ndarray) -> _Fits:
            return self._undeformed(cases, rows) if deformer is None else self._deformed(deformer, cases, rows)

        cases, order = self._best_pose(views, rank, fit)
        first = order[:, :CURVE_LENGTH]
        found = []
        deforms_itself = deformer is model
        if not deforms_itself or model.method == "dar":
            found.append(self._ranked(name, contender.seed, order, self._undeformed(cases, first)))
        if deformer is not None:
            title = name if deforms_itself and model.method != "dar" else with_df(name)
            fits = self._deformed(deformer, cases, first)
            ranked = self._ranked(title, contender.seed, order, fits)
            best = self._oracle(deformer, cases, order, known=(first, fits.chamfer))
            ranked = self._against_oracle(ranked, order, best)
            if contender.fills_oracle:
                ranked = replace(ranked, fits={**ranked.fits, ORACLE: best.chamfer[:, 0]})
                ranked = replace(ranked, gap=best.gap, at_floor=best.at_floor)
            found.append(ranked)
        if self.rules.ido and not self._pictured:
            # Where all is seen IDO needs no network, and all rankings are given the same starts. Where only a part is,
            # the run's own deformation is what holds the rest.
            prior = model if self._partial and deforms_itself else None
            found.append(self._with_ido(name, contender.seed, cases, order, prior))
            if model.method == "fit_aware" and not self._partial:  # labels are fits to the whole
                checked = self._checked(model, cases, order)
                found.append(self._with_ido(CHECKED, contender.seed, cases, checked))
        return found

    # ---- rankings: (B, S) int64, best first -----------------------------------------------------------------------

    def _nearest(self, cases: Cases) -> np.ndarray:
        distances = undeformed_chamfer(
            self.store,
            cases.observed,
            num_points=self.rules.num_points,
            one_sided=self._partial,
            device=self.rules.device,
        )
        return metrics.retrieval_order(distances)

    def _learned(self, model: TrainedModelLike, cases: Cases) -> np.ndarray:
        distances = model.retrieval_distances(cases.shown).cpu().numpy()
        if not np.isfinite(distances).all():
            raise FloatingPointError("its retrieval distances are not finite")
        return metrics.retrieval_order(distances)

    def _checked(self, model: TrainedModelLike, cases: Cases, order: np.ndarray) -> np.ndarray:
        """The first of `order` as their labels order them, computed as for training."""
        labels, first = model.config.labels, order[:, :RERANKED_OF]
        num_points = min(labels.num_points, self.rules.num_points)
        few = replace(cases, observed=cases.observed[:, :num_points])
        label = self._refine(few, first, None, iterations=labels.iterations, num_points=num_points).objective
        return np.take_along_axis(first, label.argsort(axis=1, kind="stable"), axis=1)

    def _coarse(self, cases: Cases) -> np.ndarray:
        """By the objective of coarse IDO on every source."""
        every = np.tile(np.arange(len(self.store.ids)), (len(cases.observed), 1))
        return metrics.retrieval_order(self._coarsely(cases, every).observed)

    def _coarsely(self, cases: Cases, rows: np.ndarray) -> _Fits:
        """The objective of coarse IDO; nothing is measured to the whole."""
        few = replace(cases, observed=cases.observed[:, :COARSE_POINTS])
        num_points, found = min(COARSE_POINTS, self.rules.num_points), []
        for columns in blocks(rows.shape[1], max(1, MAX_PAIRS // len(rows))):
            fit = self._refine(few, rows[:, columns], None, iterations=COARSE_ITERATIONS, num_points=num_points)
            found.append(fit.objective)
        return _Fits(np.full(rows.shape, np.nan), np.concatenate(found, axis=1))

    def _best_pose(
        self,
        views: Sequence[Cases],
        rank: Callable[[Cases], np.ndarray],
        fit: Callable[[Cases, np.ndarray], _Fits],
    ) -> tuple[Cases, np.ndarray]:
        """Each target in the pose whose first source fits best what is seen, and the ranking in that pose."""
        orders = [rank(cases) for cases in views]
        if len(views) == 1:
            return views[0], orders[0]
        # Each pose has a box, and so a unit, of its own: errors are compared in that of the whole's frame.
        seen = np.stack(
            [fit(v, order[:, :1]).observed[:, 0] * v.scale**2 for v, order in zip(views, orders, strict=True)]
        )
        best, each = seen.argmin(axis=0), np.arange(seen.shape[1])
        chosen = torch.from_numpy(best), torch.from_numpy(each)
        observed, truth = (torch.stack([getattr(v, name) for v in views])[chosen] for name in ("observed", "truth"))
        scale = np.stack([v.scale for v in views])[best, each]
        return Cases(observed, truth, scale), np.stack(orders)[best, each]

    # ---- fits of the sources `rows` (B, K) ------------------------------------------------------------------------

    def _undeformed(self, cases: Cases, rows: np.ndarray) -> _Fits:
        geometry, index = self._pairs(cases, rows, self.rules.num_points)
        return self._measured(cases, rows, geometry.points, index)

    def _deformed(self, model: TrainedModelLike, cases: Cases, rows: np.ndarray) -> _Fits:
        found = fits_of(
            model,
            self.store,
            cases,
            rows,
            one_sided=self._partial,
            device=self.rules.device,
        )
        return _Fits(found.chamfer, found.observed)

    def _boxed(self, cases: Cases, nearest: np.ndarray) -> np.ndarray:
        sources = self.store.clouds(nearest, self.rules.num_points).to(self.rules.device)
        boxed = scale_to_box(sources, cases.observed)
        return chamfer(boxed, cases.truth).double().cpu().numpy() * cases.scale**2

    def _with_ido(
        self,
        name: str,
        seed: int | None,
        cases: Cases,
        order: np.ndarray,
        deformer: TrainedModelLike | None = None,
    ) -> Measured:
        """IDO on each of the first few retrieved; `reranked` chooses by what it minimised."""
        rows = order[:, :RERANKED_OF]
        network = None
        if deformer is not None:
            centre, half = deformer.deform(cases.observed, torch.from_numpy(rows.copy()), self.store)
            network = centre.flatten(0, 1), half.flatten(0, 1)
        fit = self._refine(cases, rows, network, iterations=self.rules.iterations, num_points=self.rules.num_points)
        found = self._measured(cases, rows, deform(fit.geometry, fit.centre, fit.half_extent), fit.index)
        gap, at_floor = _soundness(self.store, fit, rows)
        ranked = self._ranked(with_ido(name), seed, order, replace(found, observed=fit.objective))
        return replace(ranked, gap=gap.max(axis=1), at_floor=at_floor.mean(axis=1))

    def _refine(
        self, cases: Cases, rows: np.ndarray, network: Parameters | None, *, iterations: int, num_points: int
    ) -> _Refined:
        geometry, index = self._pairs(cases, rows, num_points)
        how = Refinement(
            iterations=iterations,
            one_sided=self._partial,
            prior_weight=self.rules.prior_weight if self._partial else 0.0,
            mirror=self.rules.mirror and self._partial,
        )
        fit = refine(geometry, cases.observed, index, network, how, connectivity=self.connectivity)
        objective = fit.objective.double().view(rows.shape).cpu().numpy()
        return _Refined(geometry, index, fit.centre, fit.half_extent, objective)

    def _pairs(self, cases: Cases, rows: np.ndarray, num_points: int) -> tuple[PartGeometry, Tensor]:
        geometry = self.store.geometry(rows.reshape(-1), device=self.rules.device, num_points=num_points)
        return geometry, torch.arange(len(rows), device=cases.observed.device).repeat_interleave(rows.shape[1])

    def _measured(self, cases: Cases, rows: np.ndarray, points: Tensor, index: Tensor) -> _Fits:
        return _Fits(*(values.reshape(rows.shape) for values in errors(points, index, cases, self._partial)))

    # ---- results --------------------------------------------------------------------------------------------------

    def _ranked(self, name: str, seed: int | None, order: np.ndarray, found: _Fits) -> Measured:
        fits = chosen_fits(found.chamfer, found.observed)
        if self._pictured:
            del fits[RERANKED]
        return Measured(name, seed, fits, retrieved=self._ids(order[:, 0]), ordered=found.chamfer)

    def _oracle(
        self, model: TrainedModelLike, cases: Cases, order: np.ndarray, known: tuple[np.ndarray, np.ndarray]
    ) -> Oracle:
        return oracle(model, self.store, cases, order, k=1, known=known, device=self.rules.device)

    def _against_oracle(self, ranked: Measured, order: np.ndarray, best: Oracle) -> Measured:
        """With the place of the source that fits best; of sources that fit equally well the first retrieved counts."""
        rank = (order == best.rows[:, :1]).argmax(axis=1) + 1.0
        return replace(ranked, rank=rank, best=self._ids(best.rows[:, 0]), least=best.chamfer[:, 0])

    def _ids(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.store.ids, dtype=str)[rows]


def _on(device: str, cases: Cases) -> Cases:
    """The same targets on a device; what is both seen and true stays one tensor."""
    truth, pictures = cases.truth.to(device), None if cases.pictures is None else cases.pictures.to(device)
    return Cases(truth if cases.observed is cases.truth else cases.observed.to(device), truth, cases.scale, pictures)


def _soundness(store: Any, fit: _Refined, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Widest joint gap and share of half-extents at their floor, [B, K] each."""
    joints = padded_joints([store.joints(int(row)) for row in rows.reshape(-1)])
    gap = metrics.joint_gap(fit.centre, fit.half_extent, *(values.to(fit.centre.device) for values in joints))
    undeformed, mask = fit.geometry.half_extent, fit.geometry.part_mask
    at_floor = metrics.share_at_floor(fit.half_extent, undeformed, mask, IDO_FLOOR)
    return gap.cpu().numpy().reshape(rows.shape), at_floor.cpu().numpy().reshape(rows.shape)
