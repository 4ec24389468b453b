"""The retrieval space: the distance d_R and soft retrieval (Eq. 1). Sampling from it is the bank's (bank/shard.py)."""

import torch
from jaxtyping import Float
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


def soft_retrieval(squared: Float[Tensor, "*B K"], sigma: float | Float[Tensor, "*#B K"]) -> Float[Tensor, "*B K"]:
    """Eq. 1: p(s) = exp(-d^2 / sigma^2) / sum_s' exp(-d^2 / sigma^2), over the last axis."""
    return torch.softmax(-squared / (sigma * sigma), dim=-1)


def effective_number(probability: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """exp(entropy): how many entries the distribution is spread over, from 1 (one-hot) to K (uniform)."""
    entropy = -(probability * probability.clamp_min(torch.finfo(probability.dtype).tiny).log()).sum(-1)
    return entropy.exp()
