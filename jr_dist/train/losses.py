"""Eqs. 2 and 4 of the paper, the scales on which a fitting loss becomes a probability, and the margin loss of DAR."""

import torch
from jaxtyping import Float
from torch import Tensor

from jr_dist.models.retrieval import effective_number, soft_retrieval


def deformation_loss(fitting: Float[Tensor, "B K"], probability: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Eq. 4: L_def = sum_k p_R(s_k) L_fit(s_k), mean over the B targets.

    `probability` is p_R over the K candidates (for plain means: 1/K). It is held fixed, as the paper keeps the
    retrieval module fixed while the deformation module is trained.
    """
    return (probability.detach() * fitting).sum(-1).mean()


def embedding_loss(
    probability: Float[Tensor, "B K"], fit_probability: Float[Tensor, "B K"], *, loss: str = "cross_entropy"
) -> Float[Tensor, ""]:
    """Eq. 2: the discrepancy between p_R and p_fit over the K candidates, mean over the B targets.

    `loss="l1"` is the paper's sum_k |p_R - p_fit|. `loss="cross_entropy"` is -sum_k p_fit log p_R: its gradient does
    not vanish where one side is one-hot, so runs do not collapse to one source.
    """
    if loss == "l1":
        return (probability - fit_probability).abs().sum(-1).mean()
    assert loss == "cross_entropy", loss
    tiny = torch.finfo(probability.dtype).tiny
    return -(fit_probability * probability.clamp_min(tiny).log()).sum(-1).mean()


def margin_loss(
    squared: Float[Tensor, "B K"], fitting: Float[Tensor, "B K"], *, num_positives: int, margin: float
) -> Float[Tensor, ""]:
    """The margin loss of deformation-aware retrieval (Uy et al., ECCV 2020), mean over the B targets.

    Of the K candidates the `num_positives` that fit best are positives, the rest negatives:
    sum_negatives [margin + max_positives d_R^2 - d_R^2]_+, where `squared` is d_R^2 and `fitting` L_fit.
    """
    order = fitting.detach().argsort(dim=-1, stable=True)
    positive, negative = squared.gather(-1, order).tensor_split([num_positives], dim=-1)
    return (margin + positive.amax(-1, keepdim=True) - negative).relu().sum(-1).mean()


def fit_probability_learned(fitting: Float[Tensor, "B K"], sigma: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """p_fit as the paper writes it: Eq. 1 with d_fit = L_fit (Eq. 3) and a learned sigma_k for each source."""
    return soft_retrieval(fitting.detach().square(), sigma)


def spread_of_fit(fitting: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """The standard deviation of L_fit over the K candidates, mean over the B targets."""
    return fitting.detach().std(dim=-1, correction=0).mean()


def fit_probability_spread(
    fitting: Float[Tensor, "B K"], factor: float, spread: Float[Tensor, ""]
) -> Float[Tensor, "B K"]:
    """p_fit = softmax_k(-c L_fit), with c = factor / `spread` (`spread_of_fit`, of all targets of the step).

    One c for the step: a target whose candidates all fit alike then keeps a flat distribution, as it should.
    """
    return torch.softmax(-(factor / spread.clamp_min(1e-12)) * fitting.detach(), dim=-1)


def fit_probability_entropy(fitting: Float[Tensor, "B K"], effective: float) -> Float[Tensor, "B K"]:
    """p_fit = softmax_k(-c L_fit) with c chosen for each target so that exp(entropy) equals `effective`."""
    fitting = fitting.detach()
    return torch.softmax(-_matched_scale(fitting, effective) * (fitting - fitting.amin(-1, keepdim=True)), dim=-1)


def matched_sigma(fitting: Float[Tensor, "B K"], effective: float) -> float:
    """The one sigma for which exp(-L_fit^2 / sigma^2) is on average spread over `effective` candidates.

    The learned sigma_k start from it: at an arbitrary start p_fit is flat or one-hot and has no gradient.
    """
    squared = fitting.detach().square()
    return float(_matched_scale(squared, effective).log().mean().mul(-0.5).exp())


def _matched_scale(values: Float[Tensor, "B K"], effective: float) -> Float[Tensor, "B 1"]:
    # exp(entropy) falls from K to 1 as the scale grows, so bisection on log(scale) finds the one that matches.
    gap = values - values.amin(-1, keepdim=True)
    unit = gap.mean(-1, keepdim=True).clamp_min(1e-12)
    low, high = torch.full_like(unit, -12.0), torch.full_like(unit, 12.0)
    for _ in range(40):
        middle = 0.5 * (low + high)
        spread = effective_number(torch.softmax(-middle.exp() * gap / unit, dim=-1))[:, None]
        low, high = (
            torch.where(spread > effective, middle, low),
            torch.where(spread > effective, high, middle),
        )
    return (0.5 * (low + high)).exp() / unit
