"""Neighbours looked up and turned at once into what least squares over the parts of a source needs.

A match is a point x of a part, with its canonical coordinate q, and a point y of the target, with a weight w. Each
target point matches its nearest source point, with weight 1 / N2; two-sided, each source point its nearest target
point too, with weight 1 / N. So the sum of w |y - x|^2 over matches is the chamfer distance, or its half.
"""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from jr_dist.errors import InputError
from jr_dist.geometry.blocks import run_blocks
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import Backend, choose_backend, nearest_neighbours, rows_of, triton_kernels
from jr_dist.geometry.leaves import new_cloud, prepare
from jr_dist.geometry.nearest import search
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.simd import compiled

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "b637a59c9c8b3275"


def matched_sums(
    geometry: PartGeometry,
    centre: Float[Tensor, "M P 3"],
    half_extent: Float[Tensor, "M P 3"],
    targets: Float[Tensor, "B N2 3"],
    target_index: Int[Tensor, " M"],
    *,
    two_sided: bool = True,
    orders: tuple[Int32[Tensor, "M N"], Int32[Tensor, "B N2"]] | None = None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, " M"], Float[Tensor, "M P 3 5"]]:
    """The fitting loss of sources with new boxes, and sums of w, w q, w q^2, w r, w r q over the matches of each part.

    r = y - x; float64. `orders`, from `chamfer.spatial_order` of the undeformed points and of the targets, save the CPU
    the sorting. Backends are those of `chamfer.chamfer`. On a GPU one search that moves the points as it reads them
    finds both neighbours, the sums have a fixed order, and nothing waits for the device. Raises `InputError` for
    coordinates that are not finite (not on a GPU, where they show as a loss of NaN).
    """
    backend = choose_backend(backend, geometry.points, targets)
    if backend == "triton":
        kernels = triton_kernels()
        moves = (centre - geometry.centre, half_extent - geometry.half_extent)
        parts = kernels.Parts(geometry.points, geometry.canonical, geometry.part_index, *moves)
        rows = rows_of(geometry.points, targets, target_index)
        return kernels.deformed_matches(parts, targets, rows, two_sided=two_sided)
    points = deform(geometry, centre, half_extent)
    if backend == "torch":
        return _from_neighbours(points, geometry, targets, target_index, two_sided)
    loss = np.empty(len(points))
    sums = np.zeros((*centre.shape, 5))
    tensors = (points, geometry.canonical, geometry.part_index, targets, target_index)
    inputs = [tensor.contiguous().numpy() for tensor in tensors]
    none = np.empty((0, 0), np.int32)
    kd = (none, none) if orders is None else tuple(order.contiguous().numpy() for order in orders)
    sequence = np.argsort(inputs[-1], kind="stable")  # pairs that share a target follow each other
    block = partial(_block, sequence, *inputs, *kd, two_sided, loss, sums)
    if run_blocks(block, len(points), torch.get_num_threads()):
        raise InputError("points to fit hold NaN, infinity or values beyond 1e18; finite ones are allowed; clean them")
    return torch.from_numpy(loss), torch.from_numpy(sums)


def _from_neighbours(points, geometry, targets, target_index, two_sided):
    sums = torch.zeros(*geometry.centre.shape, 5, dtype=torch.float64, device=points.device)
    others = targets[target_index]

    def add(parts, q, residual):
        terms = torch.stack([torch.ones_like(q), q, q**2, residual, residual * q], dim=-1)
        sums.scatter_add_(1, parts[..., None, None].expand_as(terms), terms / parts.shape[1])

    squared, index = nearest_neighbours(others, points, backend="torch")
    loss = squared.double().mean(dim=1)
    at = index.unsqueeze(-1).expand(-1, -1, 3)
    residual = others.double() - points.gather(1, at).double()
    add(geometry.part_index.gather(1, index), geometry.canonical.gather(1, at).double(), residual)
    if two_sided:
        squared, index = nearest_neighbours(points, targets, y_index=target_index, backend="torch")
        loss = loss + squared.double().mean(dim=1)
        near = others.gather(1, index.unsqueeze(-1).expand(-1, -1, 3))
        add(geometry.part_index, geometry.canonical.double(), near.double() - points.double())
    return loss, sums


@compiled
def _block(
    sequence, points, canonical, part_index, targets, rows, x_orders, y_orders, two_sided, loss, sums, start, stop
):
    here, there = new_cloud(points.shape[1]), new_cloud(targets.shape[1])
    prepared = -1
    for m in sequence[start:stop]:
        if not prepare(points[m], x_orders, m, here):
            return m + 1
        if rows[m] != prepared:
            prepared = rows[m]
            if not prepare(targets[prepared], y_orders, prepared, there):
                return -prepared - 1
        x, q, parts, y = points[m], canonical[m], part_index[m], targets[prepared]
        search(there, here)
        total = 0.0
        weight = 1.0 / len(y)
        for slot in range(len(y)):
            total += there.distances[slot]
            n = here.order[there.nearest[slot]]
            _add(sums[m, parts[n]], x[n], q[n], y[there.order[slot]], weight)
        loss[m] = total / len(y)
        if two_sided:
            search(here, there)
            total = 0.0
            weight = 1.0 / len(x)
            for slot in range(len(x)):
                total += here.distances[slot]
                n = here.order[slot]
                _add(sums[m, parts[n]], x[n], q[n], y[there.order[here.nearest[slot]]], weight)
            loss[m] += total / len(x)
    return 0


@compiled
def _add(sums, x, q, y, weight):
    for a in range(3):
        coordinate = np.float64(q[a])
        pull = weight * (np.float64(y[a]) - np.float64(x[a]))
        sums[a, 0] += weight
        sums[a, 1] += weight * coordinate
        sums[a, 2] += weight * coordinate * coordinate
        sums[a, 3] += pull
        sums[a, 4] += pull * coordinate
