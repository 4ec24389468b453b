"""Ours w/ IDO: as Ours, and the deformation module learns what inner deformation optimisation makes of its output."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from jr_dist.geometry.boxes import deform
from jr_dist.models.ido import optimise_inner
from jr_dist.train.methods.method import Method
from jr_dist.train.methods.ours import plan
from jr_dist.train.pairs import Pairs, Predicted
from jr_dist.train.state import TrainState
from jr_dist.train.step import Logged, joint_step


def supervision(
    state: TrainState, predicted: Predicted, points: Tensor, pairs: Pairs, weights: Tensor
) -> tuple[Tensor, Logged]:
    """The squared distance from the points to where IDO's parameters put them, weighed as L_fit is in Eq. 4."""
    config = state.config
    found = optimise_inner(
        predicted.sources,
        points,
        pairs.target_index,
        start=(predicted.centre.detach(), predicted.half_extent.detach()),
        iterations=config.ido.teacher_iterations,
        connectivity=config.model.connectivity,
    )
    away = point_distance(predicted, found.centre, found.half_extent).view(pairs.shape)
    loss = config.ido.teacher_weight * (weights.detach() * away).sum(-1).mean()
    return loss, {"fit_inner": found.loss.mean()}


def point_distance(predicted: Predicted, centre: Tensor, half_extent: Tensor) -> Tensor:
    """[M]: the squared distance from where the predicted parameters put a point to where these, [M, P, 3], do.

    A mean over the points: a quadratic in the parameters that counts a part by its points, in the unit of L_fit.
    """
    away = predicted.points() - deform(predicted.sources, centre, half_extent)
    return away.square().sum(-1).mean(-1)


OURS_IDO = Method(
    name="ours_ido",
    title="Ours w/ IDO",
    trains_retrieval=True,
    trains_deformation=True,
    plan=plan,
    step=partial(joint_step, supervision=supervision),
)
