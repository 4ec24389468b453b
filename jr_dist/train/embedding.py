"""Where targets and sources lie in the retrieval space: phi(t) of what is shown of a target, phi(s) of a source.

A source is placed by a learned code, by its points, or by its pictures (`retrieval.source_embedding`). Where targets
are shown as points, one encoder serves both; where they are shown as pictures, a source's points have an encoder of
their own, and its pictures share the targets'.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from jr_dist.bank.client import Codes
from jr_dist.train.state import TrainState

ENCODER_CHUNK = 128  # clouds, or sources, at once
PICTURE_CHUNK = 32  # a ResNet holds some 4 MB a picture of 224 pixels


def embed(state: TrainState, shown: Tensor) -> Tensor:
    """phi of what is shown of M targets, as retrieval sees them at test time: [M, D]."""
    return in_evaluation(state.networks.retrieval_encoder, shown, state.device)


@torch.no_grad()
def in_evaluation(encoder: nn.Module, shown: Tensor, device: torch.device) -> Tensor:
    """The codes [M, D] of clouds [M, N, 3] or pictures [M, 3, S, S], batch norm with its running statistics."""
    was_training = encoder.training
    encoder.eval()
    chunk = PICTURE_CHUNK if shown.dtype == torch.uint8 else ENCODER_CHUNK
    codes = [encoder(some.to(device)) for some in shown.split(chunk)]
    encoder.train(was_training)
    return torch.cat(codes)


def embed_together(
    state: TrainState, codes: Codes, shown: Tensor, clouds: Callable[[], Tensor]
) -> tuple[Tensor, Tensor]:
    """phi of B targets [B, D] and of the U sources of `codes` [U, D], with gradients; never taken from the cache.

    `clouds` gives the points [U, E, 3] of these sources. What one encoder sees is one batch, so that batch norm treats
    targets and sources alike. Of a source's pictures a step sees one, each in its turn: the mean over them is what the
    cache has, and a step can't pay for.
    """
    encoder, own = state.networks.retrieval_encoder, state.networks.source_encoder
    if codes.embedding is not None:
        return encoder(shown), codes.embedding
    if own is not None:
        return encoder(shown), own(clouds())
    sources = clouds() if state.pictures is None else _one_picture(state, codes.rows)
    encoded = encoder(torch.cat([shown, sources]))
    return encoded[: len(shown)], encoded[len(shown) :]


def _one_picture(state: TrainState, rows: np.ndarray) -> Tensor:
    assert state.pictures is not None
    return state.pictures.take(rows, (rows + state.step) % state.pictures.num_views).to(state.device)


def refresh_embeddings(state: TrainState) -> None:
    """Encode every source with the present encoder into the bank's cache, and note the step as its version.

    All ranks call it together and each encodes its share of the sources.
    """
    if state.bank.layout.learned_embedding or not state.encodes_sources:
        return
    # Shares are whole chunks, so that a source is encoded in the same company whatever the number of ranks.
    rows = np.arange(len(state.store.ids))
    own = rows[rows // ENCODER_CHUNK % state.group.world_size == state.group.rank]
    if state.pictures is None:
        encoder = state.networks.source_encoder or state.networks.retrieval_encoder
        num_points = state.config.data.encoder_points
        for some, points in state.clouds(state.store, own, num_points=num_points, batch_size=ENCODER_CHUNK):
            state.bank.set_embedding(some, in_evaluation(encoder, points, state.device), state.step)
    else:
        for first in range(0, len(own), ENCODER_CHUNK):
            some = own[first : first + ENCODER_CHUNK]
            of_views = [embed(state, state.pictures.take(some, view)) for view in range(state.pictures.num_views)]
            state.bank.set_embedding(some, torch.stack(of_views).mean(dim=0), state.step)
    state.bank.settle()
    state.group.barrier()
    state.bank.embedding_version = state.step
