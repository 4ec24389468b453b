"""The retrieval space: the distance d_R, soft retrieval (Eq. 1) and sampling from it without replacement."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

MINIMUM_WEIGHT = 1e-6


def retrieval_weight(raw: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """The metric of a source, w_s > 0, from its unbounded parameters: a sigmoid, so that no weight can run away."""
    return torch.sigmoid(raw) + MINIMUM_WEIGHT


def squared_distance(
    target: Float[Tensor, "*#B D"], source: Float[Tensor, "*#B D"], weight: Float[Tensor, "*#B D"]
) -> Float[Tensor, "*#B"]:
    """d_R^2(s, t) = sum_j (w_sj (phi(t)_j - phi(s)_j))^2, pair by pair. Asymmetric: the weight is the source's."""
    return (weight * (target - source)).square().sum(-1)


def squared_distance_to_all(
    target: Float[Tensor, "B D"], source: Float[Tensor, "S D"], weight: Float[Tensor, "S D"]
) -> Float[Tensor, "B S"]:
    """d_R^2 of B targets to all S sources as two products: sum w^2 t^2 - 2 t.(w^2 s) + sum w^2 s^2.

    Cancellation can leave a tiny negative number where t and s are close; it is cut off at zero.
    """
    square = weight.square()
    moved = square * source
    distance = target.square() @ square.T - 2.0 * (target @ moved.T) + (moved * source).sum(-1)
    return distance.clamp_min(0.0)


def soft_retrieval(squared: Float[Tensor, "*B K"], sigma: float | Float[Tensor, "*#B K"]) -> Float[Tensor, "*B K"]:
    """Eq. 1: p(s) = exp(-d^2 / sigma^2) / sum_s' exp(-d^2 / sigma^2), over the last axis."""
    return torch.softmax(-squared / (sigma * sigma), dim=-1)


def gumbel_top_k(
    log_probability: Float[Tensor, "B S"], num_candidates: int, noise: Float[Tensor, "B S"]
) -> Int[Tensor, "B K"]:
    """K draws without replacement from softmax(log_probability), the most favoured first.

    Adding independent Gumbel noise to the logits and keeping the K largest is an exact sequential draw without
    replacement (Yellott 1977; Kool et al., ICML 2019). `noise` is an argument so that the draw is reproducible.
    """
    return torch.topk(log_probability + noise, num_candidates, dim=-1).indices


def effective_number(probability: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """exp(entropy): how many entries the distribution is spread over, from 1 (one-hot) to K (uniform)."""
    entropy = -(probability * probability.clamp_min(torch.finfo(probability.dtype).tiny).log()).sum(-1)
    return entropy.exp()
