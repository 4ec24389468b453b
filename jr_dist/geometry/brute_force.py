"""Nearest neighbours by comparing everything with everything, in plain torch: any device, any float type.

The difference form, as in nearest.py: |x|^2 - 2xy + |y|^2 cancels, flips neighbours in float32 and spoils the gradient.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

#: distances held at a time: what stays in a CPU's cache, and what keeps a GPU busy (256 MiB a buffer in float32)
CPU_DISTANCES = 2**18
GPU_DISTANCES = 2**26


def nearest_by_comparison(
    x: Float[Tensor, "M N 3"], y: Float[Tensor, "B N2 3"], rows: Int64[Tensor, " M"]
) -> tuple[Float[Tensor, "M N"], Int64[Tensor, "M N"]]:
    """Squared distance and index of the point of y[rows[m]] nearest to each of x[m], the first of equals."""
    distances = x.new_empty(x.shape[:2])
    indices = torch.empty(x.shape[:2], dtype=torch.int64, device=x.device)
    budget = CPU_DISTANCES if x.device.type == "cpu" else GPU_DISTANCES
    queries = max(1, min(x.shape[1], budget // y.shape[1]))
    pairs = max(1, budget // (queries * y.shape[1]))
    for m in range(0, len(x), pairs):
        here = slice(m, m + pairs)
        tree = y[rows[here]]
        for i in range(0, x.shape[1], queries):
            some = slice(i, i + queries)
            squared = _squared_distances(x[here, some], tree)
            distances[here, some], indices[here, some] = squared.min(2)
    return distances, indices


def _squared_distances(x: Float[Tensor, "M n 3"], y: Float[Tensor, "M N2 3"]) -> Float[Tensor, "M n N2"]:
    squared = (x[:, :, None, 0] - y[:, None, :, 0]).square_()
    for axis in (1, 2):  # an axis at a time: a third of the memory of the broadcast difference
        squared += (x[:, :, None, axis] - y[:, None, :, axis]).square_()
    return squared


def pairs_by_comparison(
    x: Float[Tensor, "M N 3"],
    y: Float[Tensor, "B N2 3"],
    rows: Int64[Tensor, " M"],
    *,
    two_sided: bool,
    gradient: bool,
) -> tuple[Float[Tensor, " M"], Float[Tensor, "M N 3"] | None, Float[Tensor, "M N2 3"] | None]:
    """Chamfer of pairs (x[m], y[rows[m]]), one direction unless two-sided, and its gradient to each if asked for."""
    paired = y[rows]
    distances, indices = nearest_by_comparison(x, y, rows)
    value = distances.mean(1)
    gradient_x, gradient_y = (torch.zeros_like(x), torch.zeros_like(paired)) if gradient else (None, None)
    if gradient:
        _add_gradient(x, paired, indices, gradient_x, gradient_y)
    if two_sided:
        distances, indices = nearest_by_comparison(paired, x, torch.arange(len(x), device=x.device))
        value = value + distances.mean(1)
        if gradient:
            _add_gradient(paired, x, indices, gradient_y, gradient_x)
    return value, gradient_x, gradient_y


def _add_gradient(queries, cloud, indices, to_queries, to_cloud):
    """Of mean |q - nearest|^2: each query is drawn to its nearest point, and that point to it."""
    pairs = torch.arange(len(queries), device=queries.device)[:, None]
    pull = (queries - cloud[pairs, indices]) * (2 / queries.shape[1])
    to_queries += pull
    add_at(to_cloud.flatten(0, 1), (pairs * cloud.shape[1] + indices).flatten(), -pull.flatten(0, 1))


def add_at(table: Float[Tensor, "R ..."], rows: Int64[Tensor, " r"], values: Float[Tensor, "r ..."]) -> None:
    """table[rows] += values, counting repeated rows, with the same bits every time."""
    if table.is_cuda:  # sorts first; index_add_ adds in any order there
        table.index_put_((rows,), values, accumulate=True)
    else:  # one after another; index_put_ adds in any order here
        table.index_add_(0, rows, values)
