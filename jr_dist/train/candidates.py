"""Which K sources a target is paired with in a step, and the cached embeddings that the draw looks at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jr_dist.bank.client import Candidates
from jr_dist.bank.noise import uniform_noise
from jr_dist.train.state import TrainState

ENCODER_CHUNK = 128


def draw_candidates(state: TrainState, encoder_points: Tensor, target_rows: np.ndarray, *, soft: bool) -> Candidates:
    """K sources without replacement for each of B targets: from P_R (Eq. 1) where `soft`, else uniformly.

    Both draws depend on (seed, step, target) alone, so any rank, any number of shards and a resumed run draw the same.
    """
    k = state.config.retrieval.num_candidates
    seed = state.config.train.seed
    if not soft:
        return uniform_candidates(len(state.store.ids), k, target_rows, seed=seed, step=state.step)
    queries = embed(state, encoder_points)
    return state.bank.propose(queries, target_rows, k, state.config.retrieval.sigma0, seed=seed, step=state.step)


def uniform_candidates(num_sources: int, k: int, target_rows: np.ndarray, *, seed: int, step: int) -> Candidates:
    """K of S sources, every subset equally likely: the K largest of S independent uniform numbers."""
    noise = uniform_noise(seed, step, target_rows, np.arange(num_sources))
    rows = np.argsort(-noise, axis=1, kind="stable")[:, :k]
    return Candidates(rows, np.full(len(rows), float(num_sources)), rows[:, 0])


@torch.no_grad()
def embed(state: TrainState, points: Tensor) -> Tensor:
    """phi of clouds [M, N, 3] as retrieval sees them at test time: batch norm with its running statistics."""
    encoder = state.networks.retrieval_encoder
    was_training = encoder.training
    encoder.eval()
    codes = [encoder(chunk.to(state.device)) for chunk in points.split(ENCODER_CHUNK)]
    encoder.train(was_training)
    return torch.cat(codes)


def refresh_embeddings(state: TrainState) -> None:
    """Encode every source with the present encoder into the bank's cache, and note the step as its version.

    All ranks call it together: running statistics are averaged first, so that all of them propose from one table.
    """
    state.group.average_buffers(state.networks)
    if state.bank.layout.learned_embedding:
        return
    num_sources, num_points = len(state.store.ids), state.config.data.encoder_points
    for first in range(0, num_sources, ENCODER_CHUNK):
        rows = np.arange(first, min(first + ENCODER_CHUNK, num_sources))
        points = state.store.geometry(rows, num_points=num_points).points
        state.bank.shard.set_embedding(rows, embed(state, points).cpu().numpy(), state.step)


def embedding_age(state: TrainState) -> int:
    """Steps since the cached embeddings were made; 0 where embeddings are learned and so never stale."""
    return 0 if state.bank.layout.learned_embedding else state.step - state.bank.shard.embedding_version
