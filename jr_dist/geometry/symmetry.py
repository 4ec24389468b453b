"""The symmetry loss: the chamfer between a shape and its mirror image in the plane x = 0 (paper, section 3)."""

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.autograd.function import once_differentiable

from jr_dist.geometry import nearest
from jr_dist.geometry.chamfer import (
    Backend,
    as_array,
    as_order,
    choose_backend,
    one_sided,
    refuse_empty,
    refuse_not_finite,
    triton_kernels,
)


def mirror(points: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """The mirror image in x = 0."""
    return points * torch.tensor([-1.0, 1.0, 1.0], dtype=points.dtype, device=points.device)


def symmetry_loss(
    points: Float[Tensor, "M N 3"],
    *,
    order: Int32[Tensor, "M N"] | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, " M"]:
    """chamfer(X, mirror X), in squared units.

    Mirroring swaps the two directions, so they are equal: one is computed and doubled. `order`, backends and errors
    are those of `jr_dist.geometry.chamfer.chamfer`.
    """
    refuse_empty(points=points)
    backend = choose_backend(backend, points)
    if backend == "torch":
        return 2 * one_sided(points, mirror(points), backend=backend)
    return _Symmetry.apply(points, order, backend, torch.is_grad_enabled() and points.requires_grad)


class _Symmetry(torch.autograd.Function):
    """On the CPU the mirrored cloud's leaves are the cloud's own, mirrored: one sort and one search in all."""

    @staticmethod
    def forward(ctx, points, order, backend, wanted):
        if backend == "triton":
            refuse_not_finite(points=points)
            value, gradient = triton_kernels().mirror_pairs(points, gradient=wanted)
        else:
            arrays = nearest.mirror_pairs(
                as_array(points),
                as_order(order, points),
                gradient=wanted,
                num_threads=torch.get_num_threads(),
            )
            value, gradient = map(torch.from_numpy, arrays)
        ctx.save_for_backward(gradient if wanted else None)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None, None], None, None, None
