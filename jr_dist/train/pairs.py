"""The pairs of a source and a target that a step looks at, and what the networks say of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jr_dist.bank.client import Codes
from jr_dist.data.transfer import to_device
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.deformed import DeformedLosses, deformed_losses
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import part_parameters
from jr_dist.models.retrieval import retrieval_weight, squared_distance
from jr_dist.train.embedding import embed_together
from jr_dist.train.state import TrainState


@dataclass(frozen=True)
class Pairs:
    """The M = B K pairs of a step: which of the U unique sources and which of the B targets each joins."""

    rows: np.ndarray  # [U] int64, unique sources
    source_index: Tensor  # [M] int64, into rows
    target_index: Tensor  # [M] int64
    shape: tuple[int, int]  # (B, K)


@dataclass(frozen=True)
class Predicted:
    """The parts of M pairs as the deformation module places them."""

    sources: PartGeometry  # of M pairs
    centre: Tensor  # [M, P, 3]
    half_extent: Tensor  # [M, P, 3]

    def points(self) -> Tensor:
        """D_s(t) of every pair: [M, N, 3]."""
        return deform(self.sources, self.centre, self.half_extent)

    def losses(self, points: Tensor, target_index: Tensor, *, origin: Tensor | None) -> DeformedLosses:
        """L_fit to the targets' points [B, N, 3] and, with the origins [M, 3] of the mirror planes, symmetry: [M]."""
        return deformed_losses(self.sources, self.centre, self.half_extent, points, target_index, origin=origin)


def pair_up(candidate_rows: np.ndarray, device: torch.device) -> Pairs:
    """Flatten [B, K] candidates into pairs over unique sources, target after target."""
    rows, inverse = np.unique(candidate_rows, return_inverse=True)
    num_targets, k = candidate_rows.shape
    return Pairs(
        rows=rows,
        source_index=to_device(torch.from_numpy(inverse.reshape(-1)), device),
        target_index=torch.arange(num_targets, device=device).repeat_interleave(k),
        shape=(num_targets, k),
    )


def source_geometry(state: TrainState, rows: np.ndarray) -> PartGeometry:
    """The sources `rows` with `data.num_points` points each."""
    if state.kept_geometry is not None:
        return state.kept_geometry.geometry(rows)
    return state.store.geometry(rows, num_points=state.config.data.num_points)


def predict(state: TrainState, codes: Codes, geometry: PartGeometry, shown: Tensor, pairs: Pairs) -> Predicted:
    """The deformation module's parameters of every pair (section 2.2)."""
    config, networks = state.config, state.networks
    target_code = networks.deformation_encoder(shown)
    delta = networks.deformation(
        codes.global_code, codes.padded_part_code(), target_code, pairs.source_index, pairs.target_index
    )
    sources = geometry.take(pairs.source_index)
    centre, half_extent = part_parameters(
        sources, delta, alpha=config.model.alpha, connectivity=config.model.connectivity
    )
    return Predicted(sources, centre, half_extent)


def deform_pairs(
    state: TrainState, codes: Codes, geometry: PartGeometry, shown: Tensor, points: Tensor, pairs: Pairs
) -> Tensor:
    """D_s(t) of every pair, [M, N, 3], by what the encoders see of the target."""
    return predict(state, codes, geometry, shown, pairs).points()


def undeformed_pairs(
    state: TrainState, codes: Codes, geometry: PartGeometry, shown: Tensor, points: Tensor, pairs: Pairs
) -> Tensor:
    """The source of every pair as it is, [M, N, 3]: what a method without deformation has to offer."""
    return geometry.points[pairs.source_index]


def pair_distances(state: TrainState, codes: Codes, geometry: PartGeometry, shown: Tensor, pairs: Pairs) -> Tensor:
    """d_R^2 of every pair with gradients: [B, K]. phi of the candidates is computed afresh (`embed_together`)."""
    num_points = state.config.data.encoder_points
    target, source = embed_together(state, codes, shown, lambda: geometry.points[:, :num_points])
    weight = retrieval_weight(codes.retrieval_weight)[pairs.source_index]
    return squared_distance(target[pairs.target_index], source[pairs.source_index], weight).view(pairs.shape)
