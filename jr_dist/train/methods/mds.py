"""R: retrieval by geometric similarity alone, in the space that classical MDS makes of the chamfer between sources.

Li et al., SIGGRAPH Asia 2015: the sources' places are fixed first, then an encoder learns those of the targets by L2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from jr_dist.data.dataset import Dataset, count_rows, read_batches
from jr_dist.data.schema import tensor
from jr_dist.data.source_store import local_source_batches
from jr_dist.geometry.chamfer import chamfer_matrix
from jr_dist.models.retrieval import squared_distance
from jr_dist.progress import progress
from jr_dist.train.classical_mds import classical_mds
from jr_dist.train.draw import Draw
from jr_dist.train.methods.method import Method
from jr_dist.train.methods.plan import StepPlan, retrieval_alone
from jr_dist.train.pairs import undeformed_pairs
from jr_dist.train.state import TrainState
from jr_dist.train.update import move

if TYPE_CHECKING:  # the stream imports Ray; the step does not need it
    from jr_dist.data.streams import TargetBatch

#: sources whose chamfer to all others is looked at; the rest are placed by their chamfer to these
MAX_LANDMARKS = 1000
CHUNK = 32


def prepare(state: TrainState, dataset: Dataset) -> None:
    """Place all sources and training targets; the ranks share the work. A function of the data and the seed alone.

    Chamfer, being a mean of squares, has the part of the squared distance.
    """
    config, store = state.config, state.store
    num_sources, num_targets = len(store), count_rows(dataset, "train", config.data.categories)
    rows = landmark_rows(num_sources, config.train.seed)
    clouds = store.clouds(rows, config.data.num_points).to(state.device)
    total = len(rows) + num_targets + (num_sources if num_sources > len(rows) else 0)
    who = MDS.title if state.group.world_size == 1 else f"{MDS.title}, worker {state.group.rank},"
    with progress(f"{who} places", -(-total // state.group.world_size), unit="shape") as report:

        def to_landmarks(points: Tensor) -> np.ndarray:
            squared = chamfer_matrix(points.to(state.device), clouds).double().cpu().numpy()
            report.advance(len(points))
            return squared

        squared = np.zeros((len(rows), len(rows)))
        for first in _own_chunks(state, len(rows)):
            squared[first : first + CHUNK] = to_landmarks(clouds[first : first + CHUNK])
        squared = _joined(state, squared)
        space = classical_mds((squared + squared.T) / 2, config.retrieval.embedding)
        # Scaled as a whole, which ranks alike, to the size of what an encoder puts out before it has learned: chamfer's
        # own unit is so small that L2 would spend the training on the size.
        scale = unit_scale(space.coordinates)

        _place_sources(state, scale * space.coordinates, lambda points: scale * space.place(to_landmarks(points)))
        places = np.zeros((num_targets, config.retrieval.embedding))
        done = 0
        for batch in read_batches(dataset, "train", config.data.categories, ["points"]):
            points = torch.from_numpy(tensor(batch["points"])[:, : config.data.num_points].copy())
            for first in range(done, done + len(points), CHUNK):
                if first // CHUNK % state.group.world_size == state.group.rank:
                    own = points[first - done : first - done + CHUNK]
                    places[first : first + len(own)] = scale * space.place(to_landmarks(own))
            done += len(points)
        state.of_targets = torch.from_numpy(_joined(state, places)).float()


def landmark_rows(num_sources: int, seed: int) -> np.ndarray:
    """Ascending rows of the landmarks: all sources, or `MAX_LANDMARKS` drawn from them."""
    if num_sources <= MAX_LANDMARKS:
        return np.arange(num_sources)
    return np.sort(np.random.default_rng([seed, num_sources]).choice(num_sources, MAX_LANDMARKS, replace=False))


def unit_scale(coordinates: np.ndarray) -> float:
    """What gives centred coordinates [L, D] a variance of 1 a dimension, on average; 1 where all lie at one place."""
    variance = float(np.square(coordinates).mean())
    return variance**-0.5 if variance > 0 else 1.0


def step(state: TrainState, batch: TargetBatch, plan: StepPlan, rate: float, draw: Draw) -> dict[str, Any]:
    """The encoder learns where the targets are: the squared distance to their places, mean over the B targets."""
    assert state.of_targets is not None, "`prepare` has placed the targets"
    loss = torch.zeros((), device=state.device)
    if plan.retrieval:
        found = state.networks.retrieval_encoder(batch.shown.to(state.device))
        place = state.of_targets[torch.from_numpy(batch.rows)].to(state.device)
        loss = squared_distance(found, place, torch.ones_like(place)).mean()
    logged = {"loss_embedding": loss.detach()}
    return move(state, None, loss, rate, num_targets=len(batch.rows), logged=logged) | {
        "nearest": np.empty(0, np.int64)
    }


def _place_sources(state: TrainState, landmarks: np.ndarray, place: Callable[[Tensor], np.ndarray]) -> None:
    """Fix the sources in the bank: `landmarks` where all of them are, else each by `place`."""
    num_sources, bank = len(state.store), state.bank
    own = np.arange(num_sources)
    own = own[own // CHUNK % state.group.world_size == state.group.rank]
    if num_sources == len(landmarks):
        bank.set_embedding(own, torch.from_numpy(landmarks[own]).float(), 0)
    else:
        for rows, points in local_source_batches(
            state.store, own, num_points=state.config.data.num_points, batch_size=CHUNK
        ):
            bank.set_embedding(rows, torch.from_numpy(place(points)).float(), 0)
    bank.settle()
    state.group.barrier()
    bank.embedding_version = 0
    state.encodes_sources = False


def _own_chunks(state: TrainState, num_rows: int) -> range:
    return range(state.group.rank * CHUNK, num_rows, state.group.world_size * CHUNK)


def _joined(state: TrainState, share: np.ndarray) -> np.ndarray:
    """What all ranks have made; each left the others' rows at zero."""
    return np.sum([values for [values] in state.group.gather([share])], axis=0)


MDS = Method(
    name="mds",
    title="R",
    trains_retrieval=True,
    trains_deformation=False,
    plan=retrieval_alone,
    step=step,
    fitted=undeformed_pairs,
    prepare=prepare,
)
