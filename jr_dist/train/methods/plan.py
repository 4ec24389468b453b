"""What a method may decide about a step: its candidates, and which module moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepPlan:
    """The choices of one training step."""

    soft: bool  # candidates are drawn from P_R (Eq. 1), else uniformly without replacement
    weighted: bool  # Eq. 4 weighs the candidates by p_R, else all alike
    deformation: bool  # this step moves the deformation module (Eq. 4)
    retrieval: bool  # this step moves the retrieval module (Eq. 2)


def taking_turns(step: int, alternate: bool) -> tuple[bool, bool]:
    """(deformation, retrieval) of a step of a joint method: both, or in successive iterations as in section 2.1."""
    return (step % 2 == 0, step % 2 == 1) if alternate else (True, True)


def retrieval_alone(step: int, warm_up: bool, alternate: bool) -> StepPlan:
    """Of a method that trains retrieval alone: uniform pairs, and a rest in the turns of deformation."""
    _, retrieval = taking_turns(step, alternate)
    return StepPlan(soft=False, weighted=False, deformation=False, retrieval=retrieval)
