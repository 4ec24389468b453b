"""The largest product of each row of a matrix with the points of a cloud: linear layer and maximum in one.

A layer as wide as a PointNet's last one would leave 4 kB a point, hundreds of MB a step, of which the maximum keeps one
number a cloud and channel. On the CPU products are made a tile at a time, which stays in the cache. Going backward,
only the points that attained a maximum have a gradient.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from jr_dist.geometry.blocks import run_blocks
from jr_dist.geometry.largest_product_kernels import pull_points, pull_weight, raise_to

#: points a tile: 1 MB of products for 1024 channels
TILE = 256
#: products at once where they are not tiled, 512 MB of float32
MAX_PRODUCTS = 1 << 27


def largest_product(points: Float[Tensor, "M N C"], weight: Float[Tensor, "D C"]) -> Float[Tensor, "M D"]:
    """max_n <points[m, n], weight[d]>; NaN where a product is. The gradient goes to the first point that attains it.

    Differentiable once. Products are made in the type of `points`, the answer and gradients are of the weight's, and
    kept in that of each.
    """
    return _LargestProduct.apply(points, weight)


class _LargestProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points, weight):
        largest, index = (_tiled if points.device.type == "cpu" else _in_chunks)(points, weight)
        ctx.save_for_backward(points, weight, index)
        return largest

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        points, weight, index = ctx.saved_tensors
        kind, points = points.dtype, points.to(weight.dtype)
        if points.device.type == "cpu":
            to_points, to_weight = torch.zeros_like(points), torch.zeros_like(weight)
            pull, found, rows, ours = (x.contiguous().numpy() for x in (gradient, points, index, weight))
            threads = torch.get_num_threads()
            run_blocks(partial(pull_points, pull, rows, ours, to_points.numpy()), len(points), threads)
            run_blocks(partial(pull_weight, pull, rows, found, to_weight.numpy()), len(weight), threads)
            return to_points.to(kind), to_weight
        num_clouds, num_points, width = points.shape
        rows = (index + num_points * torch.arange(num_clouds, device=index.device)[:, None]).flatten()
        flat, scale = points.reshape(-1, width), gradient.reshape(-1, 1)
        # `index_put_` adds in a fixed order on a GPU as well.
        pulls = scale * weight.repeat(num_clouds, 1)
        to_points = torch.zeros_like(flat).index_put_((rows,), pulls, accumulate=True).view_as(points)
        return to_points.to(kind), (scale * flat[rows]).view(num_clouds, -1, width).sum(0)


def _tiled(points: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    across = weight.to(points.dtype).t().contiguous()
    largest = weight.new_full((len(points), len(weight)), -torch.inf)
    index = torch.zeros(largest.shape, dtype=torch.int64)
    products = points.new_empty(min(TILE, points.shape[1]), len(weight))
    for cloud, best, where in zip(points, largest.numpy(), index.numpy(), strict=True):
        for first in range(0, len(cloud), TILE):
            tile = cloud[first : first + TILE]
            found = torch.mm(tile, across, out=products[: len(tile)]).to(weight.dtype)
            raise_to(found.numpy(), first, best, where)
    return largest, index


def _in_chunks(points: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    chunk = max(1, MAX_PRODUCTS // (points.shape[1] * len(weight)))
    across = weight.to(points.dtype).t()
    found = [(some @ across).max(dim=1) for some in points.split(chunk)]
    return torch.cat([each.values for each in found]).to(weight.dtype), torch.cat([each.indices for each in found])
