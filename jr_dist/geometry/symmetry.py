"""The symmetry loss: how far a shape is from its mirror image in the plane x = 0 (paper, section 3)."""

import torch
from jaxtyping import Float
from torch import Tensor

from jr_dist.geometry.chamfer import Backend, one_sided


def mirror(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The mirror image in x = 0."""
    return points * torch.tensor([-1.0, 1.0, 1.0], dtype=points.dtype, device=points.device)


def symmetry_loss(points: Float[Tensor, "M N 3"], *, backend: Backend = "auto") -> Float[Tensor, " M"]:
    """chamfer(X, mirror X). Mirroring swaps the two directions, so they are equal: one is computed and doubled."""
    return 2 * one_sided(points, mirror(points), backend=backend)
