"""What is read off two tables: the distance of every source to every target, and the chamfer of every deformed pair.

Shapes: T targets, S sources. `fit` [T, S] is the chamfer after deformation (squared, mean over points, both directions
added); `order` [T, S] lists the sources of a target from the best ranked to the worst.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def retrieval_order(distances: np.ndarray) -> np.ndarray:
    """(T, S) int64 sources by ascending distance (T, S); among equals the lower row comes first."""
    return np.argsort(distances, axis=1, kind="stable")


def best_of(fit: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(T, S): entry k - 1 is the least chamfer among the first k of `order`. The last is the oracle's."""
    return np.minimum.accumulate(np.take_along_axis(fit, order, axis=1), axis=1)


def oracle_rank(fit: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(T,) int64, the place (from 1) in `order` of the source that fits best; of equals, the first."""
    return np.take_along_axis(fit, order, axis=1).argmin(axis=1) + 1


def recall_at(ranks: np.ndarray, k: int) -> float:
    """The share of targets whose best fitting source is among the first k; `ranks` (T,) from `oracle_rank`."""
    return float((ranks <= k).mean())


def num_distinct(retrieved: np.ndarray) -> int:
    """How many different sources were retrieved (T,): a retrieval that always returns one source has collapsed."""
    return len(np.unique(retrieved))


def joint_gap(centre: Tensor, half_extent: Tensor, joint_parts: Tensor, joint_coordinates: Tensor) -> Tensor:
    """The widest gap a joint of each deformed source shows: (..., M) float64, canonical units, 0 without joints.

    Args: centre, half_extent (..., M, P, 3); joint_parts (M, J, 2) int64, -1 where padded; joint_coordinates
    (M, J, 2, 3), the joint in the canonical coordinates of both boxes: it stays closed where
    c_i + q_i s_i = c_j + q_j s_j.
    """
    if joint_parts.shape[1] == 0:
        return centre.new_zeros(centre.shape[:-2], dtype=torch.float64)
    index = joint_parts.clamp(min=0).flatten(1).unsqueeze(-1).expand(*centre.shape[:-2], -1, 3)
    ends = centre.gather(-2, index) + joint_coordinates.double().flatten(1, 2) * half_extent.gather(-2, index)
    one, other = ends.unflatten(-2, (-1, 2)).unbind(-2)  # [..., M, J, 3] each
    return torch.where(joint_parts[..., 0] >= 0, (one - other).abs().amax(-1), 0.0).amax(-1)


def share_at_floor(half_extent: Tensor, undeformed: Tensor, part_mask: Tensor, minimum_scale: float) -> Tensor:
    """(..., M) float64, the share of a source's half-extents that reached the least scale allowed.

    Args: half_extent (..., M, P, 3); undeformed (M, P, 3); part_mask (M, P) bool; minimum_scale, the least s / s0 of a
    deformation.
    """
    at_floor = half_extent <= undeformed * (minimum_scale * (1 + 1e-3))  # float32 lands a hair above the floor
    return (at_floor & part_mask.unsqueeze(-1)).sum((-2, -1)).double() / (3 * part_mask.sum(-1))
