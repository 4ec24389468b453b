"""IDO by Anderson acceleration, which `models.ido` does without: for `ido.py` to measure against."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from jr_dist.geometry.chamfer import spatial_order
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import by_axis
from jr_dist.models.ido import Watch
from jr_dist.models.inner_problem import bounded_step, inner_problem, null_space_basis

_RIDGE = 1e-8  # of the differences' own size: they become parallel near the end


@torch.no_grad()
def optimise_anderson(
    geometry: PartGeometry,
    targets: Tensor,
    target_index: Tensor,
    *,
    iterations: int,
    depth: int,
    relaxation: float,
    watch: Watch,
) -> None:
    """Anderson acceleration (type II) of p -> p + step(p), half-extents free, from the undeformed source.

    A mixture that is no better than the best so far is taken back: the plain step from there is tried, then half of it
    and so on, and the memory of that pair begins anew. (Letting losses rise by 2 to 20 % was worse.)
    """
    orders = spatial_order(geometry.points), spatial_order(targets)
    basis = null_space_basis(geometry.projection.double())
    num_parts = geometry.part_mask.shape[1]
    free = torch.full_like(basis[..., :num_parts, 0], -torch.inf)
    trial = by_axis(geometry.centre.double(), geometry.half_extent.double())
    best, best_step, lowest = trial, torch.zeros_like(trial), trial.new_full((len(trial),), torch.inf)
    share = torch.ones_like(lowest)
    history: list[tuple[Tensor, Tensor, Tensor]] = []  # (parameters, step, whether it was an improvement)
    for iteration in range(iterations + 1):
        problem = inner_problem(geometry, targets, target_index, trial, one_sided=False, prior=None, orders=orders)
        better = problem.objective < lowest
        lowest = torch.minimum(lowest, problem.objective)
        watch(lowest)
        if iteration == iterations:
            return
        step = bounded_step(problem, basis, trial[..., num_parts:], free, relaxation=relaxation)
        improved = better[:, None, None]
        best, best_step = torch.where(improved, trial, best), torch.where(improved, step, best_step)
        share = torch.where(better, 2.0, share / 2)
        history = [*history[-depth:], (trial, step, better)]
        taken_back = best + share.clamp(max=1)[:, None, None] * best_step
        trial = torch.where(improved, trial + _mixed(history), taken_back)


def _mixed(history: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The step that the last ones combine to, [M, 3, 2P]: least squares over their differences, a pair at a time."""
    step = history[-1][1]
    if len(history) == 1:
        return step
    unbroken = torch.ones_like(history[-1][2])
    moves, changes, known = [], [], []
    for (here, at_here, _), (there, at_there, improved) in reversed(list(pairwise(history))):
        unbroken = unbroken & improved
        moves.append((there - here).flatten(1))
        changes.append((at_there - at_here).flatten(1))
        known.append(unbroken.double())
    counted = torch.stack(known, dim=-1)
    move, change = (torch.stack(x, dim=-1) * counted.unsqueeze(1) for x in (moves, changes))
    normal = change.transpose(1, 2) @ change
    size = normal.diagonal(dim1=1, dim2=2).sum(dim=-1, keepdim=True)
    normal = normal + torch.diag_embed(_RIDGE * size + (1 - counted) + 1e-30)
    shares = torch.linalg.solve(normal, change.transpose(1, 2) @ step.flatten(1).unsqueeze(-1))
    return step - ((move + change) @ shares).squeeze(-1).view_as(step)
