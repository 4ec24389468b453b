"""The one chamfer distance: squared, mean over points, both directions added (the paper's L_fit, unscaled)."""

from typing import Literal

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable

from jr_dist.errors import InputError

Backend = Literal["auto", "numba", "torch"]

#: the plain torch form holds at most this many distances at a time (32 MiB a buffer)
CHUNK_DISTANCES = 8 * 1024 * 1024


def chamfer(
    x: Float[Tensor, "M N 3"],
    y: Float[Tensor, "B N2 3"],
    *,
    y_index: Integer[Tensor, " M"] | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, " M"]:
    """Squared chamfer distance of M pairs of clouds: mean_x min_y |x - y|^2 + mean_y min_x |x - y|^2.

    Pair m is (x[m], y[m]), or (x[m], y[y_index[m]]) so that a target need not be repeated for its K candidates.
    """
    return _Chamfer.apply(*_checked(x, y, y_index), backend, True)


def one_sided(
    x: Float[Tensor, "M N 3"],
    y: Float[Tensor, "B N2 3"],
    *,
    y_index: Integer[Tensor, " M"] | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, " M"]:
    """The half of `chamfer` that looks from x to y: mean_x min_y |x - y|^2."""
    return _Chamfer.apply(*_checked(x, y, y_index), backend, False)


def nearest_neighbours(
    x: Float[Tensor, "M N 3"],
    y: Float[Tensor, "B N2 3"],
    *,
    y_index: Integer[Tensor, " M"] | None = None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "M N"], Integer[Tensor, "M N"]]:
    """Squared distance from each point of x to its nearest point of y, and that point's index. No gradient."""
    x, y, rows = _checked(x.detach(), y.detach(), y_index)
    return _nearest_torch(x, y, rows)


def chamfer_matrix(
    x: Float[Tensor, "A N 3"], y: Float[Tensor, "B N2 3"], *, backend: Backend = "auto"
) -> Float[Tensor, "A B"]:
    """Chamfer of every cloud of x with every cloud of y. No gradient."""
    with torch.no_grad():
        columns = torch.arange(len(y), device=x.device)
        rows = [chamfer(cloud.expand(len(y), -1, -1), y, y_index=columns, backend=backend) for cloud in x]
    return torch.stack(rows) if rows else x.new_zeros((0, len(y)))


class _Chamfer(torch.autograd.Function):
    """Value and gradient from neighbour indices alone: gather, difference, scatter."""

    @staticmethod
    def forward(ctx, x, y, rows, backend, two_sided):  # noqa: D102
        value, gradient_x, gradient_y = _chamfer_torch(x, y, rows, two_sided)
        ctx.save_for_backward(gradient_x, gradient_y, rows)
        ctx.num_y = len(y)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # noqa: D102
        gradient_x, gradient_y, rows = ctx.saved_tensors
        scale = grad[:, None, None]
        to_x = gradient_x * scale if ctx.needs_input_grad[0] else None
        to_y = None
        if ctx.needs_input_grad[1]:
            to_y = gradient_y.new_zeros((ctx.num_y, *gradient_y.shape[1:])).index_add_(
                0, rows, gradient_y * scale
            )
        return to_x, to_y, None, None, None


def _chamfer_torch(x, y, rows, two_sided):
    distance, index = _nearest_torch(x, y, rows)
    value = distance.mean(1)
    paired = y[rows]
    gather = index[..., None].expand(-1, -1, 3)
    step = (x - paired.gather(1, gather)) * (2 / x.shape[1])
    gradient_x, gradient_y = step.clone(), torch.zeros_like(paired).scatter_add_(1, gather, -step)
    if two_sided:
        distance, index = _nearest_torch(paired, x, torch.arange(len(x), device=x.device))
        value = value + distance.mean(1)
        gather = index[..., None].expand(-1, -1, 3)
        step = (paired - x.gather(1, gather)) * (2 / paired.shape[1])
        gradient_y += step
        gradient_x.scatter_add_(1, gather, -step)
    return value, gradient_x, gradient_y


def _nearest_torch(x, y, rows):
    """Brute force in the difference form (|x|^2 - 2xy + |y|^2 flips neighbours in float32), in bounded memory."""
    distance = x.new_empty(x.shape[:2])
    index = torch.empty(x.shape[:2], dtype=torch.int64, device=x.device)
    queries = max(1, min(x.shape[1], CHUNK_DISTANCES // y.shape[1]))
    for m in range(len(x)):
        tree = y[rows[m]]
        for start in range(0, x.shape[1], queries):
            part = x[m, start : start + queries]
            squared = (part[:, None, 0] - tree[None, :, 0]).square_()
            for axis in (1, 2):
                squared += (part[:, None, axis] - tree[None, :, axis]).square_()
            distance[m, start : start + queries], index[m, start : start + queries] = squared.min(1)
    return distance, index


def _checked(x, y, y_index):
    """The clouds and one row of y a pair; raises InputError for empty or non-finite clouds."""
    for name, cloud in (("x", x), ("y", y)):
        if cloud.ndim != 3 or cloud.shape[-1] != 3 or cloud.shape[1] == 0:
            raise InputError(
                f"chamfer: {name} has shape {tuple(cloud.shape)}; [clouds, points >= 1, 3] is allowed"
            )
        if not cloud.is_cuda and not torch.isfinite(cloud).all():
            raise InputError(f"chamfer: {name} holds NaN or infinite coordinates; remove those points first")
    if y_index is None:
        if len(x) != len(y):
            raise InputError(f"chamfer: {len(x)} clouds against {len(y)}; give as many, or y_index")
        y_index = torch.arange(len(x), device=x.device)
    assert y_index.shape == (len(x),), "y_index is one row of y a cloud of x"
    return x, y, y_index
