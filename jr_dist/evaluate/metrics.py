"""What is read off two tables: the distance of every source to every target, and the chamfer of every deformed pair.

Shapes: T targets, S sources. `fit` [T, S] is the chamfer after deformation (squared, mean over points, both directions
added); `order` [T, S] lists the sources of a target from the best ranked to the worst.
"""

from __future__ import annotations

import numpy as np


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


def joint_gap(
    centre: np.ndarray,
    half_extent: np.ndarray,
    joint_parts: np.ndarray,
    joint_coordinates: np.ndarray,
) -> np.ndarray:
    """The widest gap a joint of each deformed source shows: (M,), canonical units, 0 without joints.

    Args: centre, half_extent (M, P, 3); joint_parts (M, J, 2) int, -1 where padded; joint_coordinates (M, J, 2, 3), the
    joint in the canonical coordinates of both boxes: it stays closed where c_i + q_i s_i = c_j + q_j s_j.
    """
    if joint_parts.shape[1] == 0:
        return np.zeros(len(centre))
    pair = np.arange(len(centre))[:, None, None]
    parts = np.maximum(joint_parts, 0)
    ends = centre[pair, parts] + joint_coordinates * half_extent[pair, parts]  # [M, J, 2, 3]
    gaps = np.abs(ends[:, :, 0] - ends[:, :, 1]).max(axis=-1)
    return np.where(joint_parts[..., 0] >= 0, gaps, 0.0).max(axis=1)


def share_at_floor(
    half_extent: np.ndarray, undeformed: np.ndarray, part_mask: np.ndarray, minimum_scale: float
) -> np.ndarray:
    """(M,) the share of a source's half-extents that reached the least scale allowed.

    Args: half_extent, undeformed (M, P, 3); part_mask (M, P) bool; minimum_scale, the least s / s0 of a deformation.
    """
    at_floor = half_extent <= undeformed * (minimum_scale * (1 + 1e-3))  # float32 lands a hair above the floor
    return (at_floor & part_mask[..., None]).sum(axis=(1, 2)) / (3 * part_mask.sum(axis=1))
