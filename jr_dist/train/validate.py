"""What training is judged by: chamfer after retrieval and deformation on the validation split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jr_dist.config import DataConfig
from jr_dist.data.dataset import TargetTable
from jr_dist.data.pictures import Pictures
from jr_dist.data.shown import cut_targets, whole_targets
from jr_dist.geometry.chamfer import chamfer
from jr_dist.train.embedding import embed, refresh_embeddings
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.pairs import pair_up, source_geometry
from jr_dist.train.state import TrainState

CHUNK = 64


@dataclass(frozen=True)
class ValidationTargets:
    """What validation shows of T targets and measures against, as of a `TargetBatch`."""

    points: Tensor  # [T, N, 3] float32
    shown: Tensor  # [T, E, 3] float32, or [T, 3, S, S] uint8
    scale: Tensor  # [T] float32


def validation_targets(table: TargetTable, settings: DataConfig, pictures: Pictures | None = None) -> ValidationTargets:
    """What the encoders see of each target: its first points, or of a cut that depends on its id alone, as
    `data.observed` says; with `pictures` one plain view, which depends on its id as well."""
    points = table.points[:, : settings.num_points]
    arrays = {"points": points, "shown": points[:, : settings.encoder_points], **whole_targets(len(table))}
    if settings.observed == "partial":
        keys = [("val", name) for name in table.ids]
        numbers = {"num_points": settings.num_points, "encoder_points": settings.encoder_points}
        arrays = cut_targets(table.points, keys, **numbers)
    if pictures is not None:
        arrays["shown"] = pictures.fixed(table.ids)
    own = ("C", "W", "O")  # a copy where it is a part of the table, which may be large and read-only
    kept = (torch.from_numpy(np.require(arrays[name], requirements=own)) for name in ("points", "shown", "scale"))
    return ValidationTargets(*kept)


@dataclass(frozen=True)
class Validation:
    """Top-1 on the validation split."""

    chamfer: float  # mean over all targets, unscaled
    distinct: int  # different sources retrieved
    num_targets: int


@torch.no_grad()
def validate(state: TrainState, targets: ValidationTargets, nearest_undeformed: np.ndarray | None) -> Validation:
    """Retrieve the nearest source in d_R for each of T targets, fit it as the method does, and measure.

    A method without retrieval (DF) is given `nearest_undeformed` [T], the source nearest before deformation, as R+DF
    will use it. All ranks call it together; each measures its share of the targets, and all return the same.
    """
    if nearest_undeformed is None:
        refresh_embeddings(state)
    state.networks.eval()
    num_targets, unit = len(targets.points), targets.scale.double() ** 2
    values, rows = np.zeros(num_targets), np.zeros(num_targets, np.int64)
    for first in range(state.group.rank * CHUNK, num_targets, state.group.world_size * CHUNK):
        own = slice(first, first + CHUNK)
        points, shown = (cloud[own].to(state.device) for cloud in (targets.points, targets.shown))
        if nearest_undeformed is None:
            rows[own] = state.bank.nearest(embed(state, shown))
        else:
            rows[own] = nearest_undeformed[own]
        pairs = pair_up(rows[own, None], state.device)
        codes = state.bank.pull(pairs.rows, state.device)
        geometry = source_geometry(state, pairs.rows)
        fitted = METHODS[state.config.train.method].fitted(state, codes, geometry, shown, points, pairs)
        values[own] = (chamfer(fitted, points).double().cpu() * unit[own]).numpy()
    state.networks.train()
    # Each rank left the others' targets at zero.
    values, rows = (np.sum(shares, axis=0) for shares in zip(*state.group.gather([values, rows]), strict=True))
    return Validation(float(values.mean()), len(np.unique(rows)), num_targets)
