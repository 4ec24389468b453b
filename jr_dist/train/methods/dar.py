"""DAR: deformation-aware retrieval (Uy et al., ECCV 2020) for a deformation module that is held fixed."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from jr_dist.bank.client import Codes
from jr_dist.train.losses import margin_loss
from jr_dist.train.methods.method import Method
from jr_dist.train.methods.plan import retrieval_alone
from jr_dist.train.pairs import Pairs
from jr_dist.train.state import TrainState
from jr_dist.train.step import Logged, discrepancy, joint_step

#: how many of the K candidates count as fitting well, as published
NUM_POSITIVES = 2


def retrieval_loss(
    state: TrainState, codes: Codes, squared: Tensor, fitting: Tensor, pairs: Pairs
) -> tuple[Tensor, Logged]:
    """By `retrieval.dar_loss`: the margin between what fits well and what does not, or Eq. 2."""
    settings = state.config.retrieval
    if settings.dar_loss == "regression":
        return discrepancy(state, codes, squared, fitting, pairs)
    return margin_loss(squared, fitting, num_positives=NUM_POSITIVES, margin=settings.margin), {}


DAR = Method(
    name="dar",
    title="DAR",
    trains_retrieval=True,
    trains_deformation=False,
    teacher="df",
    plan=retrieval_alone,
    step=partial(joint_step, retrieval_loss=retrieval_loss),
)
