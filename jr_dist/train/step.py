"""One joint training step, in the order of section 2.1 of the paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from jr_dist.bank.client import Codes
from jr_dist.models.retrieval import effective_number, soft_retrieval
from jr_dist.train.draw import Draw
from jr_dist.train.losses import (
    deformation_loss,
    embedding_loss,
    fit_probability_entropy,
    fit_probability_learned,
    fit_probability_spread,
    matched_sigma,
    spread_of_fit,
)
from jr_dist.train.methods.plan import StepPlan
from jr_dist.train.pairs import Pairs, Predicted, pair_distances, pair_up, predict, source_geometry
from jr_dist.train.state import TrainState
from jr_dist.train.update import check_finite, move

if TYPE_CHECKING:  # the stream imports Ray; the step does not need it
    from jr_dist.data.streams import TargetBatch

#: what a step logs, by name
Logged = dict[str, Tensor | float]
#: (state, codes, d_R^2 [B, K], L_fit [B, K] without gradient, pairs) -> the loss, mean over the B targets
RetrievalLoss = Callable[[TrainState, Codes, Tensor, Tensor, Pairs], tuple[Tensor, Logged]]
#: (state, the network's parameters, targets' points [B, N, 3], pairs, weights [B, K] of squares) -> a loss, likewise
Supervision = Callable[[TrainState, Predicted, Tensor, Pairs, Tensor], tuple[Tensor, Logged]]


def discrepancy(
    state: TrainState, codes: Codes, squared: Tensor, fitting: Tensor, pairs: Pairs
) -> tuple[Tensor, Logged]:
    """Eq. 2: how far P_R over the K candidates is from p_fit."""
    settings = state.config.retrieval
    fit_probability = probability_of_fit(state, codes, fitting, pairs)
    loss = embedding_loss(soft_retrieval(squared, settings.sigma0), fit_probability, loss=settings.loss)
    return loss, {"effective_fit": effective_number(fit_probability.detach()).mean()}


def joint_step(
    state: TrainState,
    batch: TargetBatch,
    plan: StepPlan,
    rate: float,
    draw: Draw,
    *,
    retrieval_loss: RetrievalLoss = discrepancy,
    supervision: Supervision | None = None,
) -> dict[str, Any]:
    """Deform the candidates drawn, and move both modules by Eqs. 2 and 4; returns what is worth logging.

    The rate is the learning rate of this step, for dense weights and codes alike. A method may have another loss in the
    place of Eq. 2, and a supervision of the deformation module beside Eq. 4. Raises `FloatingPointError` where a loss
    is not finite, before anything has moved. On a GPU the host waits once, for all that it reads of the step (`move`);
    a supervision may wait as well (Ours with IDO does, for the fits).
    """
    config = state.config
    batch = batch.on(state.device)
    points, shown, origin = batch.points, batch.shown, batch.origin
    # Targets seen in part come in frames of their own: losses count in the unit of the whole, and the mirror plane of a
    # target is where the whole has it.
    unit = batch.scale[:, None] ** 2

    candidates = draw.candidates()
    pairs = pair_up(candidates.rows, state.device)
    codes = draw.codes(state.bank, state.device)
    geometry = source_geometry(state, pairs.rows)

    # Eq. 2 sends no gradient into the deformation module, so a step of retrieval alone needs none there.
    with nullcontext() if plan.deformation else torch.no_grad():
        predicted = predict(state, codes, geometry, shown, pairs)
        boxes = predicted.centre + predicted.half_extent
        if state.device.type == "cpu":  # the search refuses what is not finite; on a GPU `move` looks, with all else
            check_finite(state.step, "deformed boxes", bool(np.isfinite(boxes.detach().numpy()).all()))
        plane = origin[pairs.target_index] if plan.deformation else None
        losses = predicted.losses(points, pairs.target_index, origin=plane)
        fitting = losses.fitting.view(pairs.shape) * unit

    loss, fit_scale_start = fitting.new_zeros(()), state.fit_scale_start
    logged: Logged = {"fit": fitting.detach().mean(), "effective_candidates": float(candidates.effective.mean())}
    if candidates.embedding_version >= 0:
        logged["embedding_age"] = float(state.step - candidates.embedding_version)
    if plan.retrieval or plan.weighted:
        with nullcontext() if plan.retrieval else torch.no_grad():
            squared = pair_distances(state, codes, geometry, shown, pairs)
        probability = soft_retrieval(squared.detach(), config.retrieval.sigma0)
        logged["effective_of_k"] = effective_number(probability).mean()
    if plan.deformation:
        weights = probability if plan.weighted else torch.full_like(fitting, 1.0 / fitting.shape[1])
        assert losses.symmetry is not None
        symmetry = (losses.symmetry.view(pairs.shape) * unit).mean()
        loss_deformation = deformation_loss(fitting, weights)
        loss = loss + loss_deformation + config.model.symmetry_weight * symmetry
        logged |= {"loss_deformation": loss_deformation.detach(), "symmetry": symmetry.detach()}
        if supervision is not None:
            loss_supervision, more = supervision(state, predicted, points, pairs, weights * unit)
            loss = loss + loss_supervision
            logged |= more | {"loss_supervision": loss_supervision.detach()}
    if plan.retrieval:
        loss_embedding, more = retrieval_loss(state, codes, squared, fitting.detach(), pairs)
        loss = loss + loss_embedding
        logged |= more | {"loss_embedding": loss_embedding.detach()}
    first = state.fit_scale_start if fit_scale_start is None else None
    finite = {} if state.device.type == "cpu" else {"deformed boxes": boxes}
    read = move(state, codes, loss, rate, num_targets=len(points), logged=logged, finite=finite, fit_scale=first)
    return read | {"nearest": candidates.nearest}


def probability_of_fit(state: TrainState, codes: Codes, fitting: Tensor, pairs: Pairs) -> Tensor:
    """p_fit over the K candidates (Eq. 2), on the scale that `retrieval.fit_scale` names."""
    settings = state.config.retrieval
    if settings.fit_scale == "spread":
        spread = spread_of_fit(fitting)
        state.group.average([spread])  # one c for all targets of the step, whichever worker has them
        return fit_probability_spread(fitting, settings.spread_factor, spread)
    if settings.fit_scale == "entropy":
        return fit_probability_entropy(fitting, settings.effective_candidates)
    if state.fit_scale_start is None:
        _start_fit_scale(state, codes, fitting)
    sigma = codes.fit_scale[pairs.source_index, 0].exp().view(pairs.shape)
    return fit_probability_learned(fitting, sigma)


def _start_fit_scale(state: TrainState, codes: Codes, fitting: Tensor) -> None:
    start = torch.tensor(math.log(matched_sigma(fitting, state.config.retrieval.effective_candidates)))
    state.group.average([start])  # one start for all sources, whichever worker saw which
    state.fit_scale_start = float(start)
    with torch.no_grad():
        codes.fit_scale.fill_(state.fit_scale_start)
