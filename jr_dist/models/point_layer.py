"""A layer that the points of all clouds share, with what the batch norm behind it needs to know, a tile at a time.

Batch norm over R points normalises products W x by their mean W E[x] and variances w_d' Cov[x] w_d, so it can be folded
into the weights before the layer runs: what is left is x -> relu(A x + b). That a mean and a covariance of the outputs
come with them is what the next layer's fold needs. Tiles of points stay in the cache, so that each layer reads and
writes the memory once in each direction, where product, norm and ReLU one after the other do four times.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: points a tile on the CPU: 256 kB of 128 float32
TILE = 512
#: on a GPU, which likes large products; sums over tiles are in the wider type there as well
DEVICE_TILE = 1 << 16


class Moments(NamedTuple):
    """Of R points, over all of them."""

    mean: Float64[Tensor, " C"]
    covariance: Float64[Tensor, "C C"]


class Fold(NamedTuple):
    """norm(W x) = scale * (W x) + shift."""

    scale: Float[Tensor, " D"]
    shift: Float[Tensor, " D"]


def moments(points: Float[Tensor, "R C"]) -> Moments:
    """Mean and covariance (divided by R), differentiable."""
    wide = points.double()
    origin = wide[:TILE].mean(0).detach()
    away = wide - origin
    return _from_sums(origin, away.sum(0), away.t() @ away, len(points))


def fold(weight: Float[Tensor, "D C"], norm: nn.BatchNorm1d, inputs: Moments | None, num_points: int) -> Fold:
    """A batch norm behind the products of `weight` with points of such moments; None are those it remembers.

    As the norm itself in training, it lets its running statistics follow.
    """
    wide = weight.double()
    if inputs is None:
        assert norm.running_mean is not None and norm.running_var is not None
        mean, variance = norm.running_mean.double(), norm.running_var.double()
    else:
        # rounding may leave less than nothing of a channel that hardly varies
        mean, variance = wide @ inputs.mean, ((wide @ inputs.covariance) * wide).sum(1).clamp_min(0)
        _follow(norm, mean.detach(), variance.detach() * (num_points / max(num_points - 1, 1)))
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return Fold(scale.to(weight.dtype), (norm.bias - scale * mean).to(weight.dtype))


def _follow(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), norm.momentum)
    norm.num_batches_tracked.add_(1)


def point_layer(
    points: Float[Tensor, "R C"], weight: Float[Tensor, "D C"], shift: Float[Tensor, " D"], *, of_outputs: bool
) -> tuple[Float[Tensor, "R D"], Moments | None]:
    """relu(points @ weight.T + shift), and the moments of that `of_outputs`; differentiable once.

    Products are made in the type of `points`; moments and the gradient of `weight` add up in a wider one.
    """
    outputs, origin, total, gram = _PointLayer.apply(points, weight, shift, of_outputs)
    return outputs, _from_sums(origin, total, gram, len(points)) if of_outputs else None


def _from_sums(origin: Tensor, total: Tensor, gram: Tensor, count: int) -> Moments:
    """From sums of x - origin and of its products: near the mean, so that what is subtracted here is small."""
    away = total / count
    return Moments(origin + away, gram / count - torch.outer(away, away))


class _PointLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points, weight, shift, of_outputs):
        kind, width = points.dtype, len(weight)
        across, start = weight.to(kind).t().contiguous(), shift.to(kind)
        outputs = points.new_empty(len(points), width)
        total = torch.zeros(width, dtype=torch.float64, device=points.device)
        gram = torch.zeros(width, width, dtype=torch.float64, device=points.device)
        origin = weight.new_zeros(width)
        for tile in _tiles(points):
            out = torch.addmm(start, points[tile], across, out=outputs[tile]).clamp_min_(0)
            if of_outputs:
                if tile.start == 0:
                    origin = out[:TILE].to(weight.dtype).mean(0)
                away = out - origin
                total += away.sum(0)
                gram += away.t() @ away
        ctx.save_for_backward(points, weight, outputs, origin)
        ctx.of_outputs = of_outputs
        ctx.mark_non_differentiable(origin)
        return outputs, origin, total, gram

    @staticmethod
    @once_differentiable
    def backward(ctx, to_outputs, _, to_total, to_gram):
        points, weight, outputs, origin = ctx.saved_tensors
        kind = points.dtype
        from_total, from_gram, origin = to_total.to(kind), (to_gram + to_gram.t()).to(kind), origin.to(kind)
        down = weight.to(kind)
        to_points = torch.empty_like(points) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight)
        to_shift = to_weight.new_zeros(len(weight))
        for tile in _tiles(points):
            out, pull = outputs[tile], to_outputs[tile]
            if ctx.of_outputs:
                pull = (pull + from_total).addmm_(out - origin, from_gram)
            pull = torch.ops.aten.threshold_backward(pull, out, 0)
            to_weight += pull.t() @ points[tile]
            to_shift += pull.sum(0, dtype=weight.dtype)
            if to_points is not None:
                torch.mm(pull, down, out=to_points[tile])
        return to_points, to_weight, to_shift, None


def _tiles(points: Tensor) -> list[slice]:
    size = TILE if points.device.type == "cpu" else DEVICE_TILE
    return [slice(first, first + size) for first in range(0, len(points), size)]
