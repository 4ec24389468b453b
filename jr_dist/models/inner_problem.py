"""What IDO solves while neighbours are fixed: a quadratic in the part parameters, split by axis, with bounds.

Unknowns p of a pair and axis are [c_1..c_P, s_1..s_P] (`projection.by_axis`), in float64.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jr_dist.geometry.chamfer import Backend
from jr_dist.geometry.matched_sums import matched_sums
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import by_part

#: Curvature given to every unknown (a part's own is some .01 to 1): what few points hold does not fly off in one step.
#: On real furniture it costs nothing.
RIDGE = 3e-4
# What tied half-extents are told apart by, and what counts as no violation (canonical units).
TIED, SLACK = 1e-6, 1e-9
# Rounds of the search for the bounds that bind (three or four are usual; the step back mends what is left), and
# rounds without progress before it goes one bound at a time.
MAX_ROUNDS, TRIES = 60, 3


@dataclass(frozen=True)
class InnerProblem:
    """The objective at p, and the quadratic that touches it there: objective - 2 pull.d + d.H d for a step d."""

    loss: Tensor  #: [M] float64, the fitting loss: chamfer, or its target-to-source half
    objective: Tensor  #: [M] float64, the loss and the penalty of the prior
    pull: Tensor  #: [M, 3, 2P], minus half the gradient
    weight: Tensor  #: [M, 3, P], H of (c_i, c_i)
    weight_q: Tensor  #: [M, 3, P], H of (c_i, s_i)
    weight_qq: Tensor  #: [M, 3, P], H of (s_i, s_i)


@dataclass(frozen=True)
class Prior:
    """Parameters to stay near: `weight` times the squared distance to them, summed over parts, is added to the loss."""

    parameters: Tensor  #: [M, 3, 2P]
    weight: float


def inner_problem(
    geometry: PartGeometry,
    targets: Float[Tensor, "B N2 3"],
    target_index: Int[Tensor, " M"],
    parameters: Float[Tensor, "M 3 R"],
    *,
    one_sided: bool,
    prior: Prior | None,
    orders: tuple[Tensor, Tensor] | None = None,
    backend: Backend = "auto",
) -> InnerProblem:
    """Look up the neighbours of the sources deformed by `parameters`, and state the quadratic they define."""
    loss, sums = matched_sums(
        geometry,
        *by_part(parameters.to(geometry.points.dtype)),
        targets,
        target_index,
        two_sided=not one_sided,
        orders=orders,
        backend=backend,
    )
    weight, weight_q, weight_qq, pull_c, pull_s = sums.permute(3, 0, 2, 1)
    pull, objective = torch.cat([pull_c, pull_s], dim=-1), loss
    if prior is not None:
        mask = geometry.part_mask.repeat(1, 2).unsqueeze(1)
        away = (prior.parameters - parameters) * mask
        objective = loss + prior.weight * away.square().sum(dim=(1, 2))
        pull, weight, weight_qq = pull + prior.weight * away, weight + prior.weight, weight_qq + prior.weight
    return InnerProblem(loss, objective, pull, weight, weight_q, weight_qq)


def null_space_basis(projection: Float[Tensor, "M 3 R R"]) -> Float[Tensor, "M 3 R D"]:
    """Columns that span range(projection), by pivoted Cholesky decomposition; columns of zeros where D is too many.

    What is left of a projection after k columns has a diagonal entry of (rank - k) / R or more, so the rank
    can't be mistaken. (eigh gives orthonormal columns, which nothing here needs, at 20 times the cost.)
    """
    rest = projection.diagonal(dim1=-2, dim2=-1).clone()
    ranks = rest.sum(dim=-1).round()
    width = int(ranks.amax()) if len(ranks) else 0
    basis = torch.zeros(*projection.shape[:-1], width, dtype=projection.dtype, device=projection.device)
    for k in range(basis.shape[-1]):
        pivot = rest.argmax(dim=-1)[..., None, None]
        found = (k < ranks).unsqueeze(-1)
        row = basis.gather(-2, pivot.expand(*pivot.shape[:-1], basis.shape[-1]))
        column = projection.gather(-1, pivot.expand(*projection.shape[:-1], 1)) - basis @ row.transpose(-1, -2)
        length = rest.gather(-1, pivot.squeeze(-1)).clamp(min=1e-6).sqrt()
        basis[..., k] = torch.where(found, column.squeeze(-1) / length, 0.0)
        rest = rest - basis[..., k].square()
    return basis


def bounded_step(
    problem: InnerProblem,
    basis: Float[Tensor, "M 3 R D"],
    half_extent: Float[Tensor, "M 3 P"],
    bound: Float[Tensor, "M 3 P"],
    *,
    relaxation: float = 1.0,
) -> Float[Tensor, "M 3 R"]:
    """The step within the span of `basis` that minimises the quadratic subject to half_extent + step >= bound.

    G = U (U'HU)^-1 U' is the inverse of H within the null space of the joints; bounds that bind add G times their
    multipliers. With a `relaxation` w the pull counts w times: the step goes
    w times as far where no bound binds, and for 0 < w < 2 still lowers the quadratic.
    """
    num_parts = half_extent.shape[-1]
    of_centre, of_extent = basis[..., :num_parts, :], basis[..., num_parts:, :]
    w, wq, wqq = (part.unsqueeze(-1) for part in (problem.weight, problem.weight_q, problem.weight_qq))
    upper, lower = (w + RIDGE) * of_centre + wq * of_extent, wq * of_centre + (wqq + RIDGE) * of_extent
    curvature = basis.transpose(-1, -2) @ torch.cat([upper, lower], dim=-2)
    unused = (basis == 0).all(dim=-2).to(basis.dtype)
    factor = torch.linalg.cholesky_ex(curvature + torch.diag_embed(unused)).L
    step = _within(basis, factor, relaxation * problem.pull.unsqueeze(-1)).squeeze(-1)
    room = half_extent + step[..., num_parts:] - bound
    blocked = (room < 0).any(dim=-1)
    if blocked.any():
        inverse = _within(basis[blocked], factor[blocked], of_extent[blocked], projected=True)
        multipliers = _multipliers(inverse[:, num_parts:], room[blocked])
        step[blocked] += (inverse @ multipliers.unsqueeze(-1)).squeeze(-1)
    return step


def _within(basis, factor, right, *, projected=False):
    """G applied to `right`; or, with `projected`, to the unit vectors whose rows of the basis are `right`."""
    right = right.transpose(-1, -2) if projected else basis.transpose(-1, -2) @ right
    return basis @ torch.cholesky_solve(right, factor)


def _multipliers(inverse: Float[Tensor, "L P P"], room: Float[Tensor, "L P"]) -> Float[Tensor, "L P"]:
    """l >= 0 with room + inverse l >= 0, and l zero where that is slack.

    Block principal pivoting (Portugal, Judice and Vicente 1994): all signs that are wrong change at once while
    that makes fewer of them, else the last one alone, which can't go round in circles.
    """
    result = torch.zeros_like(room)
    rows, active = torch.arange(len(room), device=room.device), room < 0
    fewest = torch.full_like(rows, room.shape[1] + 1)
    tries = torch.full_like(rows, TRIES)
    for _ in range(MAX_ROUNDS):
        multipliers, slack = _solve_active(inverse, room, active)
        result[rows] = multipliers.clamp(min=0.0)
        wrong = torch.where(active, multipliers < 0, slack < -SLACK)
        count = wrong.sum(dim=-1)
        fewer = count < fewest
        tries = torch.where(fewer, TRIES, tries - 1)
        fewest = torch.minimum(count, fewest)
        last = wrong & (wrong.flip(-1).cumsum(dim=-1).flip(-1) == 1)
        active = active ^ torch.where((tries >= 0).unsqueeze(-1), wrong, last)
        left = (count > 0).nonzero().squeeze(-1)
        if len(left) == 0:
            break
        rows, active, room, inverse = rows[left], active[left], room[left], inverse[left]
        fewest, tries = fewest[left], tries[left]
    return result


def _solve_active(inverse, room, active):
    """Multipliers that bring the room of the active bounds to 0, and the room that all bounds have then."""
    both = active.unsqueeze(-1) & active.unsqueeze(-2)
    # Half-extents tied to each other by joints may bind together: a little of the diagonal keeps that solvable.
    diagonal = torch.where(active, TIED * inverse.diagonal(dim1=-2, dim2=-1), 1.0)
    factor = torch.linalg.lu_factor(torch.where(both, inverse, 0.0) + torch.diag_embed(diagonal))
    multipliers, slack = torch.zeros_like(room), room
    for _ in range(2):  # the second takes back what the added diagonal falsified
        correction = torch.linalg.lu_solve(*factor, torch.where(active, -slack, 0.0).unsqueeze(-1))
        multipliers = multipliers + correction.squeeze(-1)
        slack = room + (inverse @ multipliers.unsqueeze(-1)).squeeze(-1)
    return multipliers, slack
