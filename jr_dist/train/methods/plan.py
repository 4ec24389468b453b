"""What a method may decide about a step; all methods share the step itself, the data and the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StepPlan:
    """The choices of one training step."""

    soft: bool  # candidates are drawn from P_R (Eq. 1), else uniformly without replacement
    weighted: bool  # Eq. 4 weighs the candidates by p_R, else all alike
    deformation: bool  # this step moves the deformation module (Eq. 4)
    retrieval: bool  # this step moves the retrieval module (Eq. 2)


@dataclass(frozen=True)
class Method:
    """A row of the paper's tables that is trained.

    `plan(step, warm_up, alternate)` says what a step does; `warm_up` is whether it falls into the first epochs, whose
    candidates are uniform for every method, `alternate` whether the modules take turns.
    """

    name: str
    title: str
    trains_retrieval: bool
    plan: Callable[[int, bool, bool], StepPlan]


def taking_turns(step: int, alternate: bool) -> tuple[bool, bool]:
    """(deformation, retrieval) of a step of a joint method: both, or in successive iterations as in section 2.1."""
    return (step % 2 == 0, step % 2 == 1) if alternate else (True, True)
