"""What records are to reach, and what stops those that don't."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Goal:
    """Of one record: its ratio or its value, at least or at most so much."""

    name: str
    what: str
    level: float | None  # None: to be reported, with its bound
    of: Literal["ratio", "value"] = "ratio"
    at_most: bool = False
    #: what bounds it; {NAME} stands for the value of another record
    bound: str = ""

    @property
    def text(self) -> str:
        """As "ratio >= 200"."""
        return "reported" if self.level is None else f"{self.of} {'<=' if self.at_most else '>='} {self.level:g}"

    def met_by(self, value: float) -> bool:
        """Whether a ratio, or value, reaches it."""
        return self.level is None or (value <= self.level if self.at_most else value >= self.level)


_SEARCH = (
    "of a pair {chamfer.stage.sort} ms sort, {chamfer.stage.search} make boxes and search, {chamfer.stage.gradient} "
    "make the gradient"
)
_GPU = "compiled for sm_90 the search's loop takes {gpu_resources.search.instructions} instructions a distance"
GOALS = (
    Goal("chamfer.vs_cdist", "chamfer on the CPU, value and gradient", 200, bound=_SEARCH),
    Goal("chamfer.vs_ckdtree", "the same against k-d trees", 9, bound=_SEARCH),
    Goal("step.without_encoders", "a training step without encoders, CPU, against the published formulation", 120),
    Goal("step.without_encoders_vs_two_pass", "the same against a compiled chamfer in two passes", 20),
    Goal("step.joint", "the whole step", None, bound="the encoders: of the same size and weights on both sides"),
    Goal("ido.vs_sgd", "IDO to the mean loss of 2,000 steps of gradient descent", 25),
    Goal("chamfer.loss_error", "loss against float64", 1e-6, "value", at_most=True),
    Goal("chamfer.gradient_error", "gradient against float64", 1e-5, "value", at_most=True),
    Goal(
        "chamfer_gpu.vs_two_pass", "chamfer on a GPU against the faster of two in two passes", 3,
        bound=f"{_GPU}, a peer's 9.44 for each of two passes: 1.9, if nothing else costs time ([gpu.md](gpu.md))",
    ),
    Goal(
        "chamfer_gpu.of_fp32_limit", "share of the GPU's measured arithmetic", 0.5, "value",
        bound=f"{_GPU}, eight are the least",
    ),
    Goal(
        "step_gpu.without_encoders_vs_two_pass", "a training step without encoders on a GPU", 20,
        bound="as for the chamfer; beside it the peer multiplies dense matrices and calls its decoder once a pair",
    ),
)  # fmt: skip


def goal_of(name: str) -> Goal | None:
    """The goal of a record."""
    return next((goal for goal in GOALS if goal.name == name), None)
