"""Which K sources a target is paired with in a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from jr_dist.bank.client import Candidates
from jr_dist.bank.scan import uniform_best
from jr_dist.train.draw import Draw
from jr_dist.train.embedding import embed, refresh_embeddings
from jr_dist.train.state import TrainState

if TYPE_CHECKING:  # the stream imports Ray; drawing does not need it
    from jr_dist.data.streams import TargetBatch


def begin_draw(state: TrainState, batch: TargetBatch, *, soft: bool) -> Draw:
    """K sources without replacement for each of B targets: from P_R (Eq. 1) where `soft`, else uniformly.

    Both draws depend on (seed, step, target) and the bank alone, so any rank, any number of shards and a resumed run
    draw the same. All ranks call it together: cached embeddings that have grown too old are made anew before.
    """
    k, seed = state.config.retrieval.num_candidates, state.config.train.seed
    if not soft:
        return Draw.of(uniform_candidates(len(state.store.ids), k, batch.rows, seed=seed, step=batch.step))
    if not state.bank.layout.learned_embedding and _is_old(state):
        refresh_embeddings(state)
    queries = embed(state, batch.shown)
    sigma0 = state.config.retrieval.sigma0
    return Draw(state.bank.begin_propose(queries, batch.rows, k, sigma0, seed=seed, step=batch.step))


def _is_old(state: TrainState) -> bool:
    version = state.bank.embedding_version
    return version < 0 or state.step - version >= state.config.retrieval.refresh_steps


def uniform_candidates(num_sources: int, k: int, target_rows: np.ndarray, *, seed: int, step: int) -> Candidates:
    """K of S sources, every subset equally likely: the K largest of S independent uniform numbers."""
    rows = uniform_best(num_sources, k, target_rows, seed=seed, step=step, num_threads=torch.get_num_threads())
    return Candidates(rows, np.full(len(rows), float(num_sources)), np.full(len(rows), -1))
