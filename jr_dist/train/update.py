"""The end of a step: the gradient of its loss moves the dense weights and the codes, on all ranks alike."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from jr_dist.bank.client import Codes
from jr_dist.bank.shard import Update
from jr_dist.data.transfer import read
from jr_dist.train.state import TrainState

#: the learned log sigma_k may leave its matched start by this much either way: outside, p_fit is one-hot or flat
FIT_SCALE_RANGE = 2.0


def move(
    state: TrainState,
    codes: Codes | None,
    loss: Tensor,
    rate: float,
    *,
    num_targets: int,
    logged: Mapping[str, Tensor | float] = MappingProxyType({}),
    finite: Mapping[str, Tensor] = MappingProxyType({}),
    fit_scale: float | None = None,
) -> dict[str, float]:
    """Move by the gradient of `loss`, this rank's mean over its `num_targets` targets; the rate is the learning rate.

    Codes that no loss reached stay as they are; None are those of a method that has none, in all of its steps. With a
    `fit_scale` log sigma_k is set to it first, for all sources. A loss without gradient is a module's rest, while the
    other one takes its turn. Returns the numbers of `logged`. Raises `FloatingPointError` where the loss or a value of
    `finite` is not finite, before anything has moved.
    """
    state.optimiser.zero_grad(set_to_none=True)
    if loss.requires_grad:
        loss.backward()
    # All that the host reads of a step, at once: from a GPU it comes in one copy, which waits for the step to be made.
    scalars = {name: value for name, value in logged.items() if isinstance(value, Tensor)}
    whether = {name: torch.isfinite(values).all() for name, values in {"loss": loss, **finite}.items()}
    gradients = {} if codes is None else codes.gradients()
    found, numbers, arrays = read(whether, scalars, gradients)
    for name, value in reversed(found.items()):
        check_finite(state.step, name, bool(value))
    if state.upcoming is not None:
        state.upcoming.candidates()  # there by now; a wait behind the push would wait for the push as well
    # Codes are on their way, and those of the next step asked for, while the dense weights move.
    if codes is not None:
        first = {} if fit_scale is None else {"fit_scale": fit_scale}
        state.bank.push(codes.rows, arrays, num_targets, Update(rate, start=first, bounds=_bounds(state)))
        if state.upcoming is not None:
            state.upcoming.begin_pull(state.bank, state.device)
    _average(state)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    state.optimiser.step()
    return {name: float(numbers.get(name, value)) for name, value in logged.items()}


def check_finite(step: int, what: str, is_finite: bool) -> None:
    """Raise `FloatingPointError` where training has diverged."""
    if not is_finite:
        raise FloatingPointError(
            f"step {step}: {what} not finite, training diverged; nothing was updated; lower train.learning_rate"
        )


def _bounds(state: TrainState) -> dict[str, tuple[float, float]]:
    start = state.fit_scale_start
    return {} if start is None else {"fit_scale": (start - FIT_SCALE_RANGE, start + FIT_SCALE_RANGE)}


def _average(state: TrainState) -> None:
    """Gradients and running statistics of batch norm become their means over the ranks, which so stay equal.

    Parameters that this step did not reach have no gradient on any rank.
    """
    gradients = [parameter.grad for parameter in state.networks.parameters() if parameter.grad is not None]
    state.group.average([*gradients, *moving_statistics(state.networks)])


def moving_statistics(networks: nn.Module) -> list[Tensor]:
    """The running means and variances of the batch norms that follow the batches."""
    return [
        buffer
        for norm in networks.modules()
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.training
        for buffer in norm.buffers()
        if buffer.is_floating_point()
    ]
