"""IDO, inner deformation optimisation: fit a source's parts to a target directly (paper section 3.3).

With neighbours fixed, L_fit is a quadratic in the part parameters. It is solved exactly, within the joints and the
bounds of the half-extents; neighbours are looked up again, and so on. The paper's own procedure,
`optimise_inner_sgd`, is the check.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jr_dist.geometry.chamfer import Backend, choose_backend, spatial_order
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import MINIMUM_SCALE, by_axis, by_part, step_back
from jr_dist.models.captured import State, replayed
from jr_dist.models.inner_problem import InnerProblem, Prior, bounded_step, inner_problem, null_space_basis

#: of what IDO gives for the same input: goes into the names of results that are kept, and changes with them
VERSION = 2
Parameters = tuple[Tensor, Tensor]  #: (centre, half_extent), [M, P, 3] each
Watch = Callable[[Tensor], None]  #: called with the lowest objective so far, [M], of the start and after each iteration

# Solutions keep this share above the half-extent at which a step is cut short, so that one along a bound is not.
_MARGIN = 1e-3
# How far beyond the minimum of the quadratic a step goes. Neighbours follow the points, so the quadratic is steeper
# than the loss and its minimum falls short: beyond 2 the quadratic itself rises, the loss rarely does. Against 1.9, on
# some 1,300 pairs of synthetic furniture not used to choose it: 2.2 ends 0.4 % (near pairs) and 1.6 % (random ones)
# lower after 12 steps and is not behind before; 2.5 ends lower still but is behind for 6 steps, 3 ends higher on near
# pairs. Anderson acceleration takes twice the steps and more to the same loss (`benchmarks/ido.py`, `ido.anderson`).
_RELAXATION = 2.2


@dataclass(frozen=True)
class InnerFit:
    """Part parameters fitted to targets: the best iterate, never worse than the start."""

    centre: Tensor  #: [M, P, 3]
    half_extent: Tensor  #: [M, P, 3]
    loss: Tensor  #: [M], the fitting loss: chamfer, or its target-to-source half
    objective: Tensor  #: [M], what was minimised: the loss and the penalty of the prior


@torch.no_grad()
def optimise_inner(
    geometry: PartGeometry,
    targets: Float[Tensor, "B N2 3"],
    target_index: Int[Tensor, " M"],
    *,
    start: Parameters | None = None,
    iterations: int = 12,
    one_sided: bool = False,
    prior: Parameters | None = None,
    prior_weight: float = 0.0,
    minimum_scale: float | Float[Tensor, "M P 3"] = MINIMUM_SCALE,
    connectivity: bool = True,
    watch: Watch | None = None,
    backend: Backend = "auto",
) -> InnerFit:
    """Fit M sources to their targets, from `start` or the undeformed sources, in `iterations` exact solves.

    `one_sided` looks from the target to the source alone, for targets seen in part: give a `prior` then, and a
    `prior_weight` (0.01 to 0.03): that times the squared distance to the prior's parameters is added to the
    loss. `start` has to satisfy the joints: the fit stays as close to them. Half-extents stay above
    `minimum_scale` of the source's (or of the start's, where they are smaller), one share or one for each; minus
    infinity frees them. Backends are those of `chamfer.chamfer`. On a GPU float32 runs as a CUDA graph, unless somebody
    watches.
    """
    backend = choose_backend(backend, geometry.points, targets)
    problems = _problems(geometry, targets, target_index, one_sided, prior, prior_weight, backend)
    limits = _limits(geometry, start, minimum_scale, connectivity, backend)

    def iteration(trial: Tensor, share: Tensor, *best: Tensor) -> State:
        """The trial judged, and the next one; on a GPU nothing here waits for the device."""
        problem, before = problems(trial), _Iterate(*best)
        better = problem.objective < before.objective
        found = before.improved(trial, limits.step(problem, trial), problem, better).told(watch)
        # Where the loss rose, half the step from the best iterate is tried: from 1 on, halves lower the quadratic.
        share = torch.where(better, 1.0, share / 2)
        return limits.allowed(found.parameters, share[:, None, None] * found.step), share, *found

    unknown = _Iterate.unknown(limits.start)
    state = (limits.start, torch.ones_like(unknown.loss), *unknown)
    trial, _, *rest = _repeated(iteration, state, iterations, graph=backend == "triton" and watch is None)
    problem, best = problems(trial), _Iterate(*rest)
    return _fit(geometry, best.improved(trial, best.step, problem, problem.objective < best.objective).told(watch))


@torch.no_grad()
def optimise_inner_sgd(
    geometry: PartGeometry,
    targets: Float[Tensor, "B N2 3"],
    target_index: Int[Tensor, " M"],
    *,
    start: Parameters | None = None,
    iterations: int = 2000,
    learning_rate: float = 0.5,
    one_sided: bool = False,
    prior: Parameters | None = None,
    prior_weight: float = 0.0,
    connectivity: bool = True,
    watch: Watch | None = None,
) -> InnerFit:
    """The paper's IDO: plain gradient descent, `learning_rate` a pair; other arguments as for `optimise_inner`.

    As in the paper half-extents are not bounded: compare with a `minimum_scale` of minus infinity there. The published
    code divides the rate by the number of pairs in the batch; here no pair feels the others.
    """
    backend = choose_backend("auto", geometry.points, targets)
    problems = _problems(geometry, targets, target_index, one_sided, prior, prior_weight, backend)
    projection = _projection(geometry, connectivity)

    def iteration(trial: Tensor, *best: Tensor) -> State:
        problem, before = problems(trial), _Iterate(*best)
        found = before.improved(trial, before.step, problem, problem.objective < before.objective).told(watch)
        return trial + 2 * learning_rate * (projection @ problem.pull.unsqueeze(-1)).squeeze(-1), *found

    first = _unknowns((geometry.centre, geometry.half_extent) if start is None else start)
    state = (first, *_Iterate.unknown(first))
    trial, *rest = _repeated(iteration, state, iterations, graph=backend == "triton" and watch is None)
    problem, best = problems(trial), _Iterate(*rest)
    return _fit(geometry, best.improved(trial, best.step, problem, problem.objective < best.objective).told(watch))


@dataclass(frozen=True)
class _Limits:
    """Where parameters may go: within the joints, half-extents above the least; by axis, float64."""

    start: Tensor  #: [M, 3, 2P]
    basis: Tensor  #: [M, 3, 2P, D], of the null space of the joints
    least: Tensor  #: [M, P, 3]
    solve: Callable[..., Tensor]  #: `bounded_step`, for the device

    def step(self, problem: InnerProblem, parameters: Tensor) -> Tensor:
        """The step from `parameters` to the minimum of the quadratic, and on."""
        num_parts = self.least.shape[1]
        bound = (1 + _MARGIN) * self.least.transpose(1, 2)
        return self.solve(problem, self.basis, parameters[..., num_parts:], bound, relaxation=_RELAXATION)

    def allowed(self, parameters: Tensor, step: Tensor) -> Tensor:
        """parameters + step, cut short where a half-extent would fall below the least allowed."""
        share = step_back(by_part(parameters)[1], by_part(step)[1], self.least)
        return parameters + share.transpose(1, 2) * step


class _Iterate(NamedTuple):
    """The best parameters so far, the step from there, and what they are worth."""

    parameters: Tensor  #: [M, 3, 2P]
    step: Tensor  #: [M, 3, 2P]
    loss: Tensor  #: [M]
    objective: Tensor  #: [M]

    @staticmethod
    def unknown(start: Tensor) -> "_Iterate":
        worst = start.new_full((len(start),), torch.inf)
        return _Iterate(start, torch.zeros_like(start), worst, worst)

    def improved(self, trial: Tensor, step: Tensor, problem: InnerProblem, better: Bool[Tensor, " M"]) -> "_Iterate":
        """The trial where it is better, else this."""
        return _Iterate(
            _where(better, trial, self.parameters),
            _where(better, step, self.step),
            torch.where(better, problem.loss, self.loss),
            torch.where(better, problem.objective, self.objective),
        )

    def told(self, watch: Watch | None) -> "_Iterate":
        """This, after `watch` has seen its objective."""
        if watch is not None:
            watch(self.objective)
        return self


def _repeated(iteration: Callable[..., State], state: State, times: int, *, graph: bool) -> State:
    """`times` times state = iteration(*state); as a CUDA graph where told and on a GPU (interpreted, nothing is)."""
    if graph and state[0].is_cuda:
        return replayed(iteration, state, times)
    for _ in range(times):
        state = iteration(*state)
    return state


def _where(condition: Bool[Tensor, " M"], yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition[:, None, None], yes, no)


def _unknowns(parameters: Parameters) -> Tensor:
    centre, half_extent = parameters
    return by_axis(centre.detach().double(), half_extent.detach().double())


def _problems(geometry, targets, target_index, one_sided, prior, prior_weight, backend):
    assert (prior is None) == (prior_weight == 0.0), "a prior and its weight come together"
    pull = None if prior is None else Prior(_unknowns(prior), prior_weight)
    orders = None
    if backend == "numba":
        orders = spatial_order(geometry.points), spatial_order(targets)
    problem = partial(inner_problem, geometry, targets, target_index, one_sided=one_sided, prior=pull)
    return partial(problem, orders=orders, backend=backend)


def _limits(geometry, start, minimum_scale, connectivity, backend) -> _Limits:
    centre, half_extent = (geometry.centre, geometry.half_extent) if start is None else start
    least = (1 + _MARGIN) * minimum_scale * geometry.half_extent.double()
    least = torch.minimum(least, (1 - 1e-7) * half_extent.double())
    basis = null_space_basis(_projection(geometry, connectivity))
    solve = bounded_step if backend != "triton" else _triton_step()
    return _Limits(_unknowns((centre, half_extent)), basis, least, solve)


def _triton_step() -> Callable[..., Tensor]:
    """step_triton.py's, imported where it is used: all but a GPU works without Triton."""
    from jr_dist.models.step_triton import bounded_step

    return bounded_step


def _projection(geometry: PartGeometry, connectivity: bool) -> Tensor:
    if not connectivity:
        return torch.diag_embed(geometry.part_mask.repeat(1, 2).double()).unsqueeze(1).expand(-1, 3, -1, -1)
    projection = geometry.projection.double()
    # Float32 leaves it idempotent to 1e-7; one step of Newton's iteration to 1e-14.
    squared = projection @ projection
    return 3 * squared - 2 * squared @ projection


def _fit(geometry: PartGeometry, best: _Iterate) -> InnerFit:
    dtype = geometry.points.dtype
    centre, half_extent = by_part(best.parameters.to(dtype))
    return InnerFit(centre, half_extent, best.loss.to(dtype), best.objective.to(dtype))
