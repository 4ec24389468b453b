"""The losses of deformed sources: points moved with their parts (boxes.py), chamfer to the target and to the mirror.

On the CPU these are the three functions one after the other, with points sorted once for both losses. On a GPU points
are moved where the search for neighbours reads them, and the gradient goes from neighbours to the six numbers of a part
at once.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import Backend, chamfer, choose_backend, rows_of, spatial_order, triton_kernels
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.symmetry import symmetry_loss


class DeformedLosses(NamedTuple):
    """Of M pairs of a source and a target; squared units."""

    points: Float[Tensor, "M N 3"]  #: where deforming has put the source's points; no gradient
    fitting: Float[Tensor, " M"]  #: L_fit: their chamfer to the target
    symmetry: Float[Tensor, " M"] | None  #: their chamfer to their mirror image, where it is asked for


def deformed_losses(
    geometry: PartGeometry,
    centre: Float[Tensor, "M P 3"],
    half_extent: Float[Tensor, "M P 3"],
    targets: Float[Tensor, "B N2 3"],
    target_index: Int64[Tensor, " M"],
    *,
    origin: Float[Tensor, "M 3"] | None = None,
    backend: Backend = "auto",
) -> DeformedLosses:
    """L_fit of M sources with new boxes to targets[target_index[m]], and with an `origin` their symmetry loss.

    The mirror plane of pair m is x = origin[m, 0]. Differentiable once in `centre` and `half_extent` alone. Backends
    and errors are those of `jr_dist.geometry.chamfer.chamfer`.
    """
    backend = choose_backend(backend, geometry.points, centre, half_extent, targets)
    if backend == "triton":
        shift, growth = centre - geometry.centre, half_extent - geometry.half_extent
        rows = rows_of(geometry.points, targets, target_index)
        wanted = torch.is_grad_enabled() and (shift.requires_grad or growth.requires_grad)
        sources = (geometry.points, geometry.canonical, geometry.part_index)
        return DeformedLosses(*_Losses.apply(*sources, shift, growth, targets, rows, origin, wanted))
    points = deform(geometry, centre, half_extent)
    # moving a shape leaves neighbours neighbours: both losses search in one order
    order = spatial_order(points) if backend == "numba" and origin is not None else None
    fitting = chamfer(points, targets, y_index=target_index, x_order=order, backend=backend)
    symmetry = None if origin is None else symmetry_loss(points - origin[:, None], order=order, backend=backend)
    return DeformedLosses(points.detach(), fitting, symmetry)


class _Losses(torch.autograd.Function):
    """Keeps the gradient of each pair: going backward only scales it."""

    @staticmethod
    def forward(ctx, points, canonical, part_index, shift, growth, targets, rows, origin, wanted):
        kernels = triton_kernels()
        parts = kernels.Parts(points, canonical, part_index, shift, growth)
        moved, fitting, of_fitting = kernels.deformed_pairs(parts, targets, rows, gradient=wanted)
        symmetry = of_symmetry = None
        if origin is not None:
            symmetry, of_symmetry = kernels.deformed_mirror(moved - origin[:, None], parts, gradient=wanted)
        ctx.save_for_backward(of_fitting, of_symmetry)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(moved)
        return moved, fitting, symmetry

    @staticmethod
    @once_differentiable
    def backward(ctx, _, *scales):
        scaled = [sums * scale[:, None, None] for sums, scale in zip(ctx.saved_tensors, scales) if scale is not None]
        to_shift, to_growth = sum(scaled[1:], scaled[0]).split(3, dim=2)
        return None, None, None, to_shift, to_growth, None, None, None, None
