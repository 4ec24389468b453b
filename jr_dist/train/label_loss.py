"""How retrieval learns from labels: which sources a step compares, and by how much it prefers those that fit better."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jr_dist.train.labels import Labels

_TARGETS_AT_ONCE = 1024


def spread_of_best(labels: Labels, count: int) -> float:
    """The standard deviation of the `count` best labels of a target, mean over the targets.

    Over all sources labels spread over those that no one would retrieve: a scale matched to that tells the ones that
    matter hardly apart.
    """
    count = min(count, labels.values.shape[1])
    parts = [
        np.partition(labels.values[first : first + _TARGETS_AT_ONCE], count - 1, axis=1)[:, :count].std(axis=1)
        for first in range(0, len(labels.values), _TARGETS_AT_ONCE)
    ]
    return max(float(np.concatenate(parts).mean(dtype=np.float64)), 1e-12)


def step_columns(labels: Labels, rows: np.ndarray, limit: int, *, seed: int, step: int) -> np.ndarray:
    """[C] int64, ascending: the sources that a step compares for the targets `rows` of all ranks; all S if they fit.

    Of at most `limit`, half are the best of these targets, in turns, and half are drawn from their other labelled
    sources. A function of the labels, the set of targets, seed and step alone.
    """
    if labels.num_sources <= limit:
        return np.arange(labels.num_sources)
    rows = np.unique(rows)
    values, own = labels.values[rows], labels.sources(rows)
    num_best = min(limit // 2, values.shape[1])
    best = np.argpartition(values, num_best - 1, axis=1)[:, :num_best]
    best = np.take_along_axis(best, np.take_along_axis(values, best, 1).argsort(axis=1, kind="stable"), 1)
    in_turns = np.take_along_axis(own, best, 1).T.reshape(-1)
    near = in_turns[np.sort(np.unique(in_turns, return_index=True)[1])][: limit // 2]
    others = np.setdiff1d(own, near)
    raw = np.random.PCG64(np.random.SeedSequence([seed, step, 3])).random_raw(len(others))
    drawn = others[np.argsort(raw, kind="stable")[: limit - len(near)]]
    return np.sort(np.concatenate([near, drawn])).astype(np.int64)


def label_probability(label: Tensor, scale: float) -> Tensor:
    """softmax(-scale label) over the labelled of C sources, [B, C]; zero where a label is NaN."""
    labelled = ~label.isnan()
    return _masked_log_softmax(-scale * label, labelled).exp() * labelled


def label_loss(squared: Tensor, label: Tensor, *, sigma: float, scale: float) -> Tensor:
    """The cross-entropies of P = softmax(-d_R^2 / sigma^2) and Q = softmax(-scale label), both ways; mean over targets.

    -sum Q log P has P cover all that fit well, and says little of how badly the others fit: -sum P log Q does. That is
    `scale` times the label to be expected of a source drawn from P, less the best one's, up to a constant, which is
    left out. Both are over the labelled of C sources: `squared` and `label` are [B, C], NaN where a pair has no label.
    """
    labelled = ~label.isnan()
    log_probability = _masked_log_softmax(-squared / (sigma * sigma), labelled)
    covering = -(label_probability(label, scale) * log_probability).sum(dim=1)
    known = label.masked_fill(~labelled, torch.inf)
    regret = torch.where(labelled, label - known.amin(dim=1, keepdim=True), 0.0)
    expected = scale * (log_probability.exp() * regret).sum(dim=1)
    return (covering + expected).mean()


def _masked_log_softmax(logits: Tensor, labelled: Tensor) -> Tensor:
    """Over the labelled of C sources, [B, C]; finite everywhere, also where a target has none."""
    filled = logits.masked_fill(~labelled, torch.finfo(logits.dtype).min)
    return torch.log_softmax(filled, dim=1).masked_fill(~labelled, 0.0)
