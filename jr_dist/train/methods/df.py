"""DF: the deformation module alone, on random pairs; as many pairs a step as the joint methods."""

from jr_dist.train.methods.method import Method
from jr_dist.train.methods.plan import StepPlan, taking_turns


def plan(step: int, warm_up: bool, alternate: bool) -> StepPlan:
    """Uniform pairs; where the joint methods take turns, DF rests in the retrieval turns, so that updates are equal."""
    deformation, _ = taking_turns(step, alternate)
    return StepPlan(soft=False, weighted=False, deformation=deformation, retrieval=False)


DF = Method(name="df", title="DF", trains_retrieval=False, trains_deformation=True, plan=plan)
