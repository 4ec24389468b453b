"""What training is judged by: chamfer after retrieval and deformation on the validation split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jr_dist.geometry.chamfer import chamfer
from jr_dist.train.candidates import embed, refresh_embeddings
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.pairs import pair_up, source_geometry
from jr_dist.train.state import TrainState

CHUNK = 64


@dataclass(frozen=True)
class Validation:
    """Top-1 on the validation split."""

    chamfer: float  # mean over all targets, unscaled
    distinct: int  # different sources retrieved
    num_targets: int


@torch.no_grad()
def validate(state: TrainState, points: Tensor, nearest_undeformed: np.ndarray | None) -> Validation:
    """Retrieve the nearest source in d_R for each target [T, N, 3], fit it as the method does, and measure.

    A method without retrieval (DF) is given `nearest_undeformed` [T], the source nearest before deformation, as R+DF
    will use it. All ranks call it together; each measures its share of the targets, and all return the same.
    """
    if nearest_undeformed is None:
        refresh_embeddings(state)
    state.networks.eval()
    values, rows = np.zeros(len(points)), np.zeros(len(points), np.int64)
    for first in range(state.group.rank * CHUNK, len(points), state.group.world_size * CHUNK):
        own = slice(first, first + CHUNK)
        targets = points[own].to(state.device)
        encoder_points = targets[:, : state.config.data.encoder_points]
        if nearest_undeformed is None:
            rows[own] = state.bank.nearest(embed(state, encoder_points))
        else:
            rows[own] = nearest_undeformed[own]
        pairs = pair_up(rows[own, None], state.device)
        codes = state.bank.pull(pairs.rows, state.device)
        geometry = source_geometry(state, pairs.rows)
        fitted = METHODS[state.config.train.method].fitted(state, codes, geometry, encoder_points, pairs)
        values[own] = chamfer(fitted, targets).double().cpu().numpy()
    state.networks.train()
    # Each rank left the others' targets at zero.
    values, rows = (np.sum(shares, axis=0) for shares in zip(*state.group.gather([values, rows]), strict=True))
    return Validation(float(values.mean()), len(np.unique(rows)), len(points))
