"""Uniform Sampling: the paper's ablation of biased sampling; both modules trained, candidates drawn uniformly."""

from jr_dist.train.methods.method import Method
from jr_dist.train.methods.plan import StepPlan, taking_turns


def plan(step: int, warm_up: bool, alternate: bool) -> StepPlan:
    """Every source with equal probability and equal weight, throughout."""
    deformation, retrieval = taking_turns(step, alternate)
    return StepPlan(soft=False, weighted=False, deformation=deformation, retrieval=retrieval)


UNIFORM = Method(name="uniform", title="Uniform Sampling", trains_retrieval=True, trains_deformation=True, plan=plan)
