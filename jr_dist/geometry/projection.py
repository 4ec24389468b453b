"""Connectivity: part parameters that keep joints closed and half-extents positive (paper section 3.2)."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jr_dist.geometry.part_geometry import PartGeometry

# Rows have length 1, so singular values are of order 1; joints rounded to float32 leave spurious 1e-7.
_RELATIVE_TOLERANCE = 1e-6
# The step back stops this fraction short, so that rounding cannot carry a half-extent below its bound.
_SAFETY = 1e-6
#: the least share of itself that a half-extent keeps, unless told otherwise
MINIMUM_SCALE = 0.05
# Rounds of `bend`, and the multiple of its bound that it moves a half-extent to: a little further than asked, so that
# few rounds leave little for the step back.
_BEND_ROUNDS = 8
BEND_MARGIN = 2.0


def constraint_rows(
    joint_parts: Int[np.ndarray, "J 2"], joint_coordinates: Float[np.ndarray, "J 2 3"], num_parts: int
) -> Float[np.ndarray, "3 J two_P"]:
    """B of each axis over [c_1..c_P, s_1..s_P]; a row says c_i + q_i s_i = c_j + q_j s_j and has length 1."""
    num_joints = len(joint_parts)
    rows = np.zeros((3, num_joints, 2 * num_parts))
    joint = np.arange(num_joints)
    i, j = joint_parts[:, 0], joint_parts[:, 1]
    for axis in range(3):
        rows[axis, joint, i] = 1.0
        rows[axis, joint, j] = -1.0
        rows[axis, joint, num_parts + i] = joint_coordinates[:, 0, axis]
        rows[axis, joint, num_parts + j] = -joint_coordinates[:, 1, axis]
    return rows / np.linalg.norm(rows, axis=2, keepdims=True)


def _row_spaces(
    joint_parts: Int[np.ndarray, "J 2"], joint_coordinates: Float[np.ndarray, "J 2 3"], num_parts: int
) -> list[Float[np.ndarray, "rank two_P"]]:
    spaces = []
    for rows in constraint_rows(joint_parts, joint_coordinates, num_parts):
        _, singular, right = np.linalg.svd(rows, full_matrices=False)
        rank = int((singular > _RELATIVE_TOLERANCE * singular.max(initial=0.0)).sum())
        spaces.append(right[:rank])
    return spaces


def axis_projections(
    joint_parts: Int[np.ndarray, "J 2"],
    joint_coordinates: Float[np.ndarray, "J 2 3"],
    num_parts: int,
    *,
    pad_to: int | None = None,
) -> Float[np.ndarray, "3 R R"]:
    """Pi = I - pinv(B) B of each axis, float64, over [c_1..c_P, s_1..s_P], padded to P = `pad_to` with zeros.

    Axes split because boxes are axis-aligned. Joints in a cycle may say the same twice: singular values below
    1e-6 of the largest count as zero. No joints: the identity.
    """
    padded = num_parts if pad_to is None else pad_to
    assert padded >= num_parts, (padded, num_parts)
    real = np.concatenate([np.arange(num_parts), padded + np.arange(num_parts)])
    result = np.zeros((3, 2 * padded, 2 * padded))
    for axis, space in enumerate(_row_spaces(joint_parts, joint_coordinates, num_parts)):
        result[axis][np.ix_(real, real)] = np.eye(2 * num_parts) - space.T @ space
    return result


def null_space_dimensions(
    joint_parts: Int[np.ndarray, "J 2"], joint_coordinates: Float[np.ndarray, "J 2 3"], num_parts: int
) -> Int[np.ndarray, " 3"]:
    """Degrees of freedom of the parts along x, y, z; at least 2 each: translation and scale of the whole."""
    spaces = _row_spaces(joint_parts, joint_coordinates, num_parts)
    return np.array([2 * num_parts - len(space) for space in spaces], dtype=np.int64)


def by_axis(first: Float[Tensor, "M P 3"], second: Float[Tensor, "M P 3"]) -> Float[Tensor, "M 3 R"]:
    """Vectors a part as the unknowns of each axis, [first_1..first_P, second_1..second_P]."""
    return torch.cat([first, second], dim=1).transpose(1, 2)


def by_part(unknowns: Float[Tensor, "M 3 R"]) -> tuple[Float[Tensor, "M P 3"], Float[Tensor, "M P 3"]]:
    """The inverse of `by_axis`."""
    num_parts = unknowns.shape[2] // 2
    parts = unknowns.transpose(1, 2)
    return parts[:, :num_parts], parts[:, num_parts:]


def step_back(
    half_extent: Float[Tensor, "M P 3"], step: Float[Tensor, "M P 3"], minimum: Float[Tensor, "M P 3"]
) -> Float[Tensor, "M 1 3"]:
    """Largest t <= 1 of each pair and axis with half_extent + t * step >= minimum, half_extent > minimum.

    Shrinking the whole step stays in the null space; clamping single half-extents would open joints. t is
    exactly 1 where no bound binds; elsewhere its gradient reaches the part that binds.
    """
    overshoot = -step / (half_extent - minimum) * (1 + _SAFETY)
    return 1 / overshoot.amax(dim=1, keepdim=True).clamp(min=1.0)


def bend(
    step: Float[Tensor, "M 3 R"], projection: Float[Tensor, "M 3 R R"], lowest: Float[Tensor, "M 3 P"]
) -> Float[Tensor, "M 3 R"]:
    """A step in the null space near `step` whose half-extents fall less, or not at all, below `lowest`.

    Alternating projections: what a half-extent lacks is added and projected back, which closes the joints again.
    Both sets are convex and meet (no step at all lies in them), so the rounds close in on a step that satisfies both.
    Nothing changes where nothing is lacking.
    """
    num_parts = lowest.shape[2]
    for _ in range(_BEND_ROUNDS):
        lack = (lowest - step[:, :, num_parts:]).clamp_min(0.0)
        lack = torch.cat([torch.zeros_like(lack), lack], dim=2)
        step = step + torch.matmul(projection, lack.unsqueeze(-1)).squeeze(-1)
    return step


def part_parameters(
    geometry: PartGeometry,
    delta: Float[Tensor, "M P 6"],
    *,
    alpha: float = 0.1,
    connectivity: bool = True,
    minimum_scale: float = MINIMUM_SCALE,
) -> tuple[Float[Tensor, "M P 3"], Float[Tensor, "M P 3"]]:
    """(centre, half_extent) p0 + alpha * Pi delta, delta = [dc xyz, ds xyz] a part (paper section 2.2).

    Each half-extent keeps at least `minimum_scale` of itself: the step bends round that bound (`bend`), and what the
    rounds leave is stepped back towards p0, a pair and axis at a time (`step_back`). Stepping back alone would do, but
    one thin part then holds back its whole source. Joints stay closed; delta = 0 gives the bits of p0. Without
    `connectivity` Pi = I.
    """
    delta = delta.masked_fill(~geometry.part_mask.unsqueeze(-1), 0.0)
    shift, growth = alpha * delta[..., :3], alpha * delta[..., 3:]
    # The step is added to p0 last: with delta = 0 nothing rounds.
    if connectivity:
        step = torch.matmul(geometry.projection, by_axis(shift, growth).unsqueeze(-1)).squeeze(-1)
        lowest = (BEND_MARGIN * minimum_scale - 1.0) * geometry.half_extent.transpose(1, 2)
        shift, growth = by_part(bend(step, geometry.projection, lowest))
    else:
        growth = torch.maximum(growth, (BEND_MARGIN * minimum_scale - 1.0) * geometry.half_extent)
    scale = step_back(geometry.half_extent, growth, minimum_scale * geometry.half_extent)
    return geometry.centre + scale * shift, geometry.half_extent + scale * growth
