"""IDO as evaluation, labels and `fit` use it: from several starts, and for what is seen in part with a prior.

What is seen in part is looked at from the observation alone (a source point without an observed one near it may be
hidden), and the parts that nothing is seen of are held by the prior. Furniture is symmetric, so the mirror image of the
observation shows some of what is hidden.
"""

from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jr_dist.errors import InputError
from jr_dist.geometry.chamfer import nearest_neighbours
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import MINIMUM_SCALE
from jr_dist.models.ido import InnerFit, Parameters, optimise_inner

# Boxes of an undeformed source that are each other's mirror image in x = 0 differ by less (canonical units): their
# points are samples.
_SAME_BOX = 0.05
# What a flat cloud counts as along the axis that it has no extent on.
_LEAST_SPREAD = 0.01
# Half-extents below this many distances between neighbouring samples are thin: the nearest neighbour of a sample is
# then as likely on the other face, and a chamfer is least where both faces lie on each other.
_THIN = 2.0


@dataclass(frozen=True)
class Refinement:
    """How a fit is refined. Raises `InputError` for what would collapse a source: see `one_sided`."""

    iterations: int = 12  #: exact solves from each start
    one_sided: bool = False  #: a part of the shape is observed; `prior_weight` has to be above 0 then
    prior_weight: float = 0.0  #: pull towards the network's parameters, or the undeformed source's
    mirror: bool = False  #: add the observation's mirror image; with `one_sided` alone
    #: least s / s0 of half-extents too thin for the samples to tell; a chamfer alone makes them as thin as it may
    thin_scale: float = MINIMUM_SCALE

    def __post_init__(self) -> None:
        if self.one_sided and not self.prior_weight > 0:
            raise InputError(
                f"setting ido.prior_weight is {self.prior_weight:g}; above 0 is allowed for what is seen in part, "
                "where nothing else holds hidden parts; raise it, 0.01 serves well"
            )
        if self.mirror and not self.one_sided:
            raise InputError("mirror is for what is seen in part; allowed is with one_sided; leave it out")


def refine(
    geometry: PartGeometry,
    observed: Float[Tensor, "B N2 3"],
    target_index: Int[Tensor, " M"],
    network: Parameters | None,
    how: Refinement,
    *,
    connectivity: bool = True,
) -> InnerFit:
    """Fit M sources to what is observed of their targets, in the observed frame; see `models.ido` for the rest.

    Starts are the undeformed source, where the whole shape is seen the source `spread_alike`, and where given the
    `network`'s parameters ([M, P, 3] each, joints closed); of each pair the end with the lower objective is kept. Loss
    and objective refer to the observation as it was fitted: with its mirror image where `how` says so.
    """
    undeformed = geometry.centre, geometry.half_extent
    starts = [undeformed]
    if not how.one_sided:
        starts.append(spread_alike(geometry, observed[target_index]))
    if network is not None:
        starts.append(network)
    expected = undeformed if network is None else network
    if how.mirror:
        observed = with_mirror_image(observed[target_index], mirror_plane(geometry, expected[0]))
        target_index = torch.arange(len(observed), device=observed.device)
    least: float | Tensor = MINIMUM_SCALE
    if how.thin_scale != MINIMUM_SCALE:
        least = _least_scales(geometry, observed, target_index, how.thin_scale)
        starts = [_towards_undeformed(geometry, start, least) for start in starts]
    fits = [
        optimise_inner(
            geometry,
            observed,
            target_index,
            start=start,
            iterations=how.iterations,
            one_sided=how.one_sided,
            prior=expected if how.prior_weight > 0 else None,
            prior_weight=how.prior_weight,
            minimum_scale=least,
            connectivity=connectivity,
        )
        for start in starts
    ]
    return reduce(_better, fits)


def spacing(points: Float[Tensor, "B N 3"]) -> Float[Tensor, " B"]:
    """The median distance from a point to the nearest other of its cloud, which has two points or more.

    Of one half of the points to the other half, which lies the square root of two farther apart on a surface.
    """
    squared = nearest_neighbours(points[:, ::2].contiguous(), points[:, 1::2].contiguous())[0]
    return (squared.median(dim=1).values / 2).sqrt()


def spread_alike(geometry: PartGeometry, targets: Float[Tensor, "M N2 3"]) -> Parameters:
    """The parameters of the sources moved and scaled as a whole, axis by axis, to their targets' mean and spread.

    That keeps joints closed: a joint's row is homogeneous, and the same shift moves both of its sides. (The box instead
    of the spread is the worse start by a little, and strays of a scan stretch it.)
    """
    mean, wanted = geometry.points.mean(dim=1, keepdim=True), targets.mean(dim=1, keepdim=True)
    spread = (geometry.points - mean).square().mean(dim=1, keepdim=True).sqrt()
    wanted_spread = (targets - wanted).square().mean(dim=1, keepdim=True).sqrt()
    scale = wanted_spread.clamp_min(_LEAST_SPREAD) / spread.clamp_min(_LEAST_SPREAD)
    real = geometry.part_mask.unsqueeze(-1)
    centre = torch.where(real, wanted + (geometry.centre - mean) * scale, geometry.centre)
    return centre, torch.where(real, geometry.half_extent * scale, geometry.half_extent)


def _least_scales(
    geometry: PartGeometry, observed: Tensor, target_index: Tensor, thin_scale: float
) -> Float[Tensor, "M P 3"]:
    """Of each half-extent the least s / s0."""
    thin = geometry.half_extent < _THIN * spacing(observed)[target_index, None, None]
    return torch.where(thin, thin_scale, MINIMUM_SCALE)


def _towards_undeformed(geometry: PartGeometry, start: Parameters, least: Float[Tensor, "M P 3"]) -> Parameters:
    """The start itself where half-extents are allowed; else so far on the way to the source that they are.

    Every point on the way satisfies the joints, as both of its ends do.
    """
    centre, half_extent = start
    undeformed = geometry.half_extent
    lacking = (least * undeformed - half_extent).clamp_min(0) / (undeformed - half_extent).abs().clamp_min(1e-12)
    share = torch.where(geometry.part_mask[..., None], lacking, 0).clamp_max(1).amax(dim=(1, 2))[:, None, None]
    return torch.lerp(centre, geometry.centre, share), torch.lerp(half_extent, undeformed, share)


def mirror_plane(geometry: PartGeometry, centre: Float[Tensor, "M P 3"]) -> Float[Tensor, " M"]:
    """x_m of the plane x = x_m in which the sources, their parts moved to `centre`, are their own mirror image.

    Undeformed it is x = 0. A part and its mirror image there, another part or itself, have the plane between them
    wherever they went; the mean of these counts parts by their points. A source without such parts: its points' mean.
    """
    partner, matched = _partners(geometry)
    counts = torch.zeros_like(geometry.centre[..., 0])
    counts.scatter_add_(1, geometry.part_index, torch.ones_like(geometry.points[..., 0]))
    weight = torch.where(matched.any(dim=1, keepdim=True), counts * matched, counts)
    partner = torch.where(matched, partner, torch.arange(partner.shape[1], device=partner.device))
    between = (centre[..., 0] + centre[..., 0].gather(1, partner)) / 2
    return (weight * between).sum(dim=1) / weight.sum(dim=1)


def with_mirror_image(points: Float[Tensor, "M N 3"], plane: Float[Tensor, " M"]) -> Float[Tensor, "M 2*N 3"]:
    """The points, then their mirror images in x = plane."""
    image = torch.cat([2 * plane[:, None, None] - points[..., :1], points[..., 1:]], dim=-1)
    return torch.cat([points, image], dim=1)


def _partners(geometry: PartGeometry) -> tuple[Int[Tensor, "M P"], Tensor]:
    """The part that is each part's mirror image in x = 0 of the undeformed source, and whether there is one."""
    boxes = torch.cat([geometry.centre, geometry.half_extent], dim=-1)
    flip = torch.tensor([-1.0, 1, 1, 1, 1, 1], dtype=boxes.dtype, device=boxes.device)
    apart = (boxes[:, :, None] * flip - boxes[:, None]).abs().amax(dim=-1)
    apart = apart.masked_fill(~geometry.part_mask[:, None], torch.inf)
    distance, partner = apart.min(dim=-1)
    return partner, (distance < _SAME_BOX) & geometry.part_mask


def _better(fit: InnerFit, other: InnerFit) -> InnerFit:
    """Pair by pair the one with the lower objective."""
    chosen = fit.objective < other.objective
    parts = chosen[:, None, None]
    return InnerFit(
        torch.where(parts, fit.centre, other.centre),
        torch.where(parts, fit.half_extent, other.half_extent),
        torch.where(chosen, fit.loss, other.loss),
        torch.where(chosen, fit.objective, other.objective),
    )
