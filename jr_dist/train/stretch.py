"""Stretched versions of a training target: more shapes to learn from, where a few hundred are at hand.

Version 0 is the target itself. In the others each axis is stretched by a factor of its own; furniture stays furniture,
symmetric in x = 0 and upright. What fits best changes with it, so each version has labels of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: an axis is stretched by exp(u), u uniform within this either way: by 0.78 to 1.28
LARGEST_STRETCH = 0.25


def stretch_factors(rows: Sequence[int] | np.ndarray, num_versions: int) -> Tensor:
    """[B, V, 3] float32 for the targets `rows` [B]: functions of the target's row and the version alone."""
    factors = np.ones((len(rows), num_versions, 3), np.float32)
    for i, row in enumerate(rows):
        raw = np.random.PCG64(np.random.SeedSequence([int(row), 4])).random_raw(3 * (num_versions - 1))
        uniform = (raw >> np.uint64(11)) * 2.0**-53
        factors[i, 1:] = np.exp((2 * uniform - 1) * LARGEST_STRETCH).reshape(-1, 3)
    return torch.from_numpy(factors)


def stretched(points: Tensor, factors: Tensor) -> Tensor:
    """Clouds [B, N, 3], each centred on its box of half-diagonal 1, in V versions: [B, V, N, 3], as centred and large.

    Points may be few of a shape's: their box is a little smaller than its own, and only its proportions are used.
    """
    half = points.abs().amax(dim=1)[:, None]  # [B, 1, 3]
    scale = factors * (half.norm(dim=-1, keepdim=True) / (factors * half).norm(dim=-1, keepdim=True))
    # Where nothing is stretched the bits stay as they are.
    scale = torch.where((factors == 1).all(dim=-1, keepdim=True), torch.ones_like(scale), scale)
    return points[:, None] * scale[:, :, None]
