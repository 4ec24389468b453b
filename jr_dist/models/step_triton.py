"""`inner_problem.bounded_step` on a GPU: one launch of the kernel in step_kernels.py, which no host waits for.

What torch has for this, batched solvers of cuSOLVER and MAGMA, allocates memory of its own and waits for the device in
places that differ from release to release (pytorch issues 47953 and 96632), so it can't go into a CUDA graph.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from jr_dist.geometry.chamfer_triton import launch
from jr_dist.models import step_kernels as kernels
from jr_dist.models.inner_problem import RIDGE, InnerProblem

#: numbers of a matrix that a warp holds: eight a lane, beside what is worked on
_NUMBERS = 256


def bounded_step(
    problem: InnerProblem,
    basis: Float64[Tensor, "M 3 R D"],
    half_extent: Float64[Tensor, "M 3 P"],
    bound: Float64[Tensor, "M 3 P"],
    *,
    relaxation: float = 1.0,
) -> Float64[Tensor, "M 3 R"]:
    """As `inner_problem.bounded_step`, to rounding."""
    num_pairs, _, num_unknowns, num_columns = basis.shape
    quadratic = [problem.weight + RIDGE, problem.weight_q, problem.weight_qq + RIDGE]
    rows = torch.cat([*quadratic, relaxation * problem.pull, half_extent - bound], dim=-1)
    step = torch.empty(num_pairs, 3, num_unknowns, dtype=torch.float64, device=basis.device)
    columns, parts = _power_of_two(num_columns), _power_of_two(num_unknowns // 2)
    sizes, forms = (num_unknowns // 2, num_columns), {"PARTS": parts, "COLUMNS": columns}
    num_warps = min(16, max(1, columns**2 // _NUMBERS))
    launch(kernels.bounded_step, 3 * num_pairs, rows, basis.contiguous(), step, *sizes, **forms, num_warps=num_warps)
    return step


def _power_of_two(count: int) -> int:
    """The least one that is no less, 2 at the least."""
    return 1 << max(1, (count - 1).bit_length())
