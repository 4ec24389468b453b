"""Ours: candidates by soft retrieval, both modules trained on them (section 2.1)."""

from jr_dist.train.methods.method import Method
from jr_dist.train.methods.plan import StepPlan, taking_turns


def plan(step: int, warm_up: bool, alternate: bool) -> StepPlan:
    """Uniform candidates with equal weights while retrieval knows nothing yet, then Eq. 1 and the weights of Eq. 4."""
    deformation, retrieval = taking_turns(step, alternate)
    return StepPlan(soft=not warm_up, weighted=not warm_up, deformation=deformation, retrieval=retrieval)


OURS = Method(name="ours", title="Ours", trains_retrieval=True, trains_deformation=True, plan=plan)
