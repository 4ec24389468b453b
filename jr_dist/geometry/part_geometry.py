"""The vocabulary of deformable geometry: a padded batch of sources as tensors."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class PartGeometry:
    """What deforming M sources needs, padded to P parts; canonical frame (half-diagonal 1).

    A part is a box with centre c0 and half-extent s0; a point x of it has the canonical coordinate q = (x - c0) / s0.
    """

    points: Tensor  #: [M, N, 3] float32, surface points of the undeformed source
    canonical: Tensor  #: [M, N, 3] float32, q of each point in the box of its part
    part_index: Tensor  #: [M, N] int64, the part each point belongs to
    centre: Tensor  #: [M, P, 3] float32, c0 (padding: 0)
    half_extent: Tensor  #: [M, P, 3] float32, s0 > 0 (padding: 1)
    part_mask: Tensor  #: [M, P] bool, False where padded
    projection: Tensor  #: [M, 3, 2P, 2P] float32, one projection an axis over [c_1..c_P, s_1..s_P] (padding: 0)

    def to(self, device: torch.device | str) -> "PartGeometry":
        """The same geometry on another device."""
        return PartGeometry(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def take(self, rows: Tensor) -> "PartGeometry":
        """The sources `rows` ([M'] int64) of this batch."""
        return PartGeometry(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})
