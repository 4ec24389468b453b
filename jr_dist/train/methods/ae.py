"""AE: retrieval in the latent space of an autoencoder of points, which knows of no deformation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jr_dist.geometry.chamfer import chamfer
from jr_dist.train.draw import Draw
from jr_dist.train.methods.method import Method
from jr_dist.train.methods.plan import StepPlan, retrieval_alone
from jr_dist.train.pairs import pair_up, source_geometry, undeformed_pairs
from jr_dist.train.state import TrainState
from jr_dist.train.update import move

if TYPE_CHECKING:  # the stream imports Ray; the step does not need it
    from jr_dist.data.streams import TargetBatch


def step(state: TrainState, batch: TargetBatch, plan: StepPlan, rate: float, draw: Draw) -> dict[str, Any]:
    """Encode B targets and as many sources, decode them, and lower the chamfer to what was encoded.

    Of a target seen in part the whole is decoded. The sources are the first candidate drawn for each target.
    """
    loss = torch.zeros((), device=state.device)
    if plan.retrieval:
        points, seen = (values.to(state.device) for values in (batch.points, batch.shown))
        drawn = pair_up(draw.candidates().rows[:, :1], state.device)
        sources = source_geometry(state, drawn.rows).points[drawn.source_index]
        networks = state.networks
        assert networks.decoder is not None, "networks of ae have a decoder"
        decoded = networks.decoder(networks.retrieval_encoder(torch.cat([seen, sources[:, : seen.shape[1]]])))
        loss = chamfer(decoded, torch.cat([points, sources])).mean()
    logged = {"loss_reconstruction": loss.detach()}
    return move(state, None, loss, rate, num_targets=len(batch.rows), logged=logged) | {
        "nearest": np.empty(0, np.int64)
    }


AE = Method(
    name="ae",
    title="AE",
    trains_retrieval=True,
    trains_deformation=False,
    plan=retrieval_alone,
    step=step,
    fitted=undeformed_pairs,
)
