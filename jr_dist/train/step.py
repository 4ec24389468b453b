"""One joint training step, in the order of section 2.1 of the paper."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from jr_dist.bank.client import Codes
from jr_dist.bank.shard import Update
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import part_parameters
from jr_dist.geometry.symmetry import symmetry_loss
from jr_dist.models.retrieval import effective_number, retrieval_weight, soft_retrieval, squared_distance
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
from jr_dist.train.state import TrainState

if TYPE_CHECKING:  # the stream imports Ray; the step does not need it
    from jr_dist.data.streams import TargetBatch

#: the learned log sigma_k may leave its matched start by this much either way: outside, p_fit is one-hot or flat
FIT_SCALE_RANGE = 2.0


@dataclass(frozen=True)
class Pairs:
    """The M = B K pairs of a step: which of the U unique sources and which of the B targets each joins."""

    rows: np.ndarray  # [U] int64, unique sources
    source_index: Tensor  # [M] int64, into rows
    target_index: Tensor  # [M] int64
    shape: tuple[int, int]  # (B, K)


def joint_step(state: TrainState, batch: TargetBatch, plan: StepPlan, rate: float, draw: Draw) -> dict[str, Any]:
    """Deform the candidates drawn, and move both modules by Eqs. 2 and 4; returns what is worth logging.

    The rate is the learning rate of this step, for dense weights and codes alike. Raises `FloatingPointError` where a
    loss is not finite, before anything has moved.
    """
    config = state.config
    waited = state.bank.waited
    points = batch.points.to(state.device)
    encoder_points = batch.encoder_points.to(state.device)

    candidates = draw.candidates()
    pairs = pair_up(candidates.rows, state.device)
    codes = draw.codes(state.bank, state.device)
    geometry = source_geometry(state, pairs.rows)

    # Eq. 2 sends no gradient into the deformation module, so a step of retrieval alone needs none there.
    with nullcontext() if plan.deformation else torch.no_grad():
        deformed = deform_pairs(state, codes, geometry, encoder_points, pairs)
        _check_finite(state.step, "deformed points", deformed)
        fitting = chamfer(deformed, points, y_index=pairs.target_index).view(pairs.shape)

    squared, fit_scale_start = None, state.fit_scale_start
    loss = fitting.new_zeros(())
    logged: dict[str, Tensor | float] = {
        "fit": fitting.detach().mean(),
        "effective_candidates": float(candidates.effective.mean()),
    }
    if candidates.embedding_version >= 0:
        logged["embedding_age"] = float(state.step - candidates.embedding_version)
    if plan.retrieval or plan.weighted:
        with nullcontext() if plan.retrieval else torch.no_grad():
            squared = pair_distances(state, codes, geometry, encoder_points, pairs)
        probability = soft_retrieval(squared, config.retrieval.sigma0)
        logged["effective_of_k"] = effective_number(probability.detach()).mean()
    if plan.deformation:
        weights = probability if plan.weighted else torch.full_like(fitting, 1.0 / fitting.shape[1])
        symmetry = symmetry_loss(deformed).mean()
        loss_deformation = deformation_loss(fitting, weights)
        loss = loss + loss_deformation + config.model.symmetry_weight * symmetry
        logged |= {"loss_deformation": loss_deformation.detach(), "symmetry": symmetry.detach()}
    if plan.retrieval:
        fit_probability = probability_of_fit(state, codes, fitting, pairs)
        loss_embedding = embedding_loss(probability, fit_probability, loss=config.retrieval.loss)
        loss = loss + loss_embedding
        logged |= {
            "loss_embedding": loss_embedding.detach(),
            "effective_fit": effective_number(fit_probability.detach()).mean(),
        }
    _move(state, codes, loss, rate, batch_size=len(points), first_scale=state.fit_scale_start != fit_scale_start)
    logged["bank_wait"] = state.bank.waited - waited
    return {name: float(value) for name, value in logged.items()} | {"nearest": candidates.nearest}


def pair_up(candidate_rows: np.ndarray, device: torch.device) -> Pairs:
    """Flatten [B, K] candidates into pairs over unique sources, target after target."""
    rows, inverse = np.unique(candidate_rows, return_inverse=True)
    num_targets, k = candidate_rows.shape
    return Pairs(
        rows=rows,
        source_index=torch.from_numpy(inverse.reshape(-1)).to(device),
        target_index=torch.arange(num_targets, device=device).repeat_interleave(k),
        shape=(num_targets, k),
    )


def source_geometry(state: TrainState, rows: np.ndarray) -> PartGeometry:
    """The sources `rows` with `data.num_points` points each."""
    if state.kept_geometry is not None:
        return state.kept_geometry.geometry(rows)
    return state.store.geometry(rows, num_points=state.config.data.num_points)


def deform_pairs(
    state: TrainState, codes: Codes, geometry: PartGeometry, encoder_points: Tensor, pairs: Pairs
) -> Tensor:
    """D_s(t) of every pair: [M, N, 3]."""
    config, networks = state.config, state.networks
    target_code = networks.deformation_encoder(encoder_points)
    delta = networks.deformation(
        codes.global_code, codes.padded_part_code(), target_code, pairs.source_index, pairs.target_index
    )
    sources = geometry.take(pairs.source_index)
    centre, half_extent = part_parameters(
        sources, delta, alpha=config.model.alpha, connectivity=config.model.connectivity
    )
    return deform(sources, centre, half_extent)


def pair_distances(
    state: TrainState, codes: Codes, geometry: PartGeometry, encoder_points: Tensor, pairs: Pairs
) -> Tensor:
    """d_R^2 of every pair with gradients: [B, K]. phi of the candidates is computed afresh, never taken from the cache.

    Sources and targets go through the encoder as one batch, so that batch norm treats both alike.
    """
    encoder = state.networks.retrieval_encoder
    num_targets = len(encoder_points)
    if codes.embedding is None:
        both = torch.cat([encoder_points, geometry.points[:, : encoder_points.shape[1]]])
        encoded = encoder(both)
        target, source = encoded[:num_targets], encoded[num_targets:]
    else:
        target, source = encoder(encoder_points), codes.embedding
    weight = retrieval_weight(codes.retrieval_weight)[pairs.source_index]
    return squared_distance(target[pairs.target_index], source[pairs.source_index], weight).view(pairs.shape)


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


def _average(state: TrainState) -> None:
    """Gradients and running statistics of batch norm become their means over the ranks, which so stay equal.

    Parameters that this step did not reach have no gradient on any rank.
    """
    gradients = [parameter.grad for parameter in state.networks.parameters() if parameter.grad is not None]
    statistics = [buffer for buffer in state.networks.buffers() if buffer.is_floating_point()]
    state.group.average([*gradients, *statistics])


def _check_finite(step: int, what: str, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise FloatingPointError(
            f"step {step}: {what} not finite, training diverged; nothing was updated; lower train.learning_rate"
        )


def _move(state: TrainState, codes: Codes, loss: Tensor, rate: float, *, batch_size: int, first_scale: bool) -> None:
    _check_finite(state.step, "loss", loss)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    start = state.fit_scale_start
    around = {} if start is None else {"fit_scale": (start - FIT_SCALE_RANGE, start + FIT_SCALE_RANGE)}
    update = Update(rate, start={"fit_scale": start} if first_scale and start is not None else {}, bounds=around)
    if state.upcoming is not None:
        state.upcoming.candidates()  # there by now; a wait behind the push would wait for the push as well
    # Codes are on their way, and those of the next step asked for, while the dense weights move.
    state.bank.push(codes, batch_size, update)
    if state.upcoming is not None:
        state.upcoming.begin_pull(state.bank, state.device)
    _average(state)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    state.optimiser.step()
