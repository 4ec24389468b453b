"""Ours + fit-aware retrieval: our own step beyond the paper. Retrieval learns what fits best after IDO.

With a whole target at hand IDO mends most of what the deformation network misses, and what fits after IDO is not what
fits before. So pairs are labelled with their chamfer after IDO (`labels`), and all sources, or a large sample of them,
compete in one softmax for each target. The deformation module is that of an `ours` run, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from jr_dist.bank.client import Codes
from jr_dist.config import Config
from jr_dist.data.dataset import Dataset
from jr_dist.data.transfer import to_device
from jr_dist.errors import InputError
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.models.refine import Refinement, refine
from jr_dist.models.retrieval import effective_number, retrieval_weight, soft_retrieval
from jr_dist.train.draw import Draw
from jr_dist.train.embedding import embed_together
from jr_dist.train.label_loss import label_loss, label_probability, spread_of_best, step_columns
from jr_dist.train.labels import Labels, make_labels, open_labels
from jr_dist.train.methods.method import Method
from jr_dist.train.methods.plan import StepPlan, retrieval_alone
from jr_dist.train.pairs import Pairs, deform_pairs
from jr_dist.train.state import TrainState
from jr_dist.train.stretch import stretch_factors, stretched
from jr_dist.train.update import move

if TYPE_CHECKING:  # the stream imports Ray; the step does not need it
    from jr_dist.data.streams import TargetBatch


@dataclass(frozen=True)
class _Wanted:
    """What the step looks up for its targets."""

    labels: Labels
    scale: float  # c of softmax(-c label)


def before(config: Config) -> None:
    """Label the training targets, on a GPU where there is one for this process."""
    device = config.train.device
    if device == "auto":
        device = "cuda" if config.labels.num_workers == 0 and torch.cuda.is_available() else "cpu"
    elif device == "cuda" and config.labels.num_workers == 0 and not torch.cuda.is_available():
        raise InputError(
            "labels.num_workers is 0, but this process, which would label for train.device cuda, has no CUDA device; "
            "allowed is 1 or more on a cluster that has one; set that"
        )
    make_labels(config, device)


def prepare(state: TrainState, dataset: Dataset) -> None:
    """Open the labels; c = `labels.spread_factor` / the spread of the `retrieval.num_candidates` best ones."""
    config, labels = state.config, open_labels(state.config, dataset)
    spread = spread_of_best(labels, config.retrieval.num_candidates)
    state.of_targets = _Wanted(labels, config.labels.spread_factor / spread)


def step(state: TrainState, batch: TargetBatch, plan: StepPlan, rate: float, draw: Draw) -> dict[str, Any]:
    """Full softmax over the sources, by cross-entropy to what their labels prefer; moves retrieval alone.

    Targets come with their stretched versions: encoding some sources takes most of a step, further targets cost little.
    """
    config, wanted = state.config, state.of_targets
    labels = wanted.labels
    [of_ranks] = zip(*state.group.gather([batch.rows]), strict=True)
    columns = step_columns(
        labels,
        labels.versions(np.concatenate(of_ranks)),
        config.labels.step_sources,
        seed=config.train.seed,
        step=batch.step,
    )
    codes = state.bank.pull(columns, state.device)
    shown = batch.shown
    if labels.num_versions > 1:
        factors = to_device(stretch_factors(batch.rows, labels.num_versions), shown.device)
        shown = stretched(shown, factors).flatten(0, 1)
    squared = _squared_distances(state, codes, shown.to(state.device))
    label = torch.from_numpy(labels.take(labels.versions(batch.rows), columns)).to(state.device)
    sigma0 = config.labels.sigma0
    loss = label_loss(squared, label, sigma=sigma0, scale=wanted.scale)
    if not plan.retrieval:
        loss = loss.detach()
    found = squared.detach()[:: labels.num_versions]  # of the targets as they are
    logged = {
        "loss_embedding": loss.detach(),
        "effective_candidates": effective_number(soft_retrieval(found, sigma0)).mean(),
        "effective_fit": effective_number(label_probability(label[:: labels.num_versions], wanted.scale)).mean(),
    }
    read = move(state, codes, loss, rate, num_targets=len(batch.rows), logged=logged)
    return read | {"nearest": columns[found.argmin(dim=1).cpu().numpy()]}


def fitted(
    state: TrainState, codes: Codes, geometry: PartGeometry, shown: Tensor, points: Tensor, pairs: Pairs
) -> Tensor:
    """The sources after IDO to the whole target, as the labels have it: [M, N, 3].

    A picture has no points that IDO could solve for: there the network deforms.
    """
    if state.config.data.images != "none":
        return deform_pairs(state, codes, geometry, shown, points, pairs)
    sources = geometry.take(pairs.source_index)
    settings = state.config
    how = Refinement(iterations=settings.labels.iterations)
    fit = refine(sources, points, pairs.target_index, None, how, connectivity=settings.model.connectivity)
    return deform(sources, fit.centre, fit.half_extent)


def _squared_distances(state: TrainState, codes: Codes, shown: Tensor) -> Tensor:
    """d_R^2 of B targets to the C sources of `codes`, with gradients: [B, C]."""
    num_points = state.config.data.encoder_points
    target, source = embed_together(
        state, codes, shown, lambda: state.store.clouds(codes.rows, num_points).to(state.device)
    )
    difference = retrieval_weight(codes.retrieval_weight) * (target[:, None] - source)
    return difference.square().sum(dim=-1)


FIT_AWARE = Method(
    name="fit_aware",
    title="Ours + fit-aware retrieval",
    trains_retrieval=True,
    trains_deformation=False,
    teacher="ours",
    plan=retrieval_alone,
    step=step,
    fitted=fitted,
    before=before,
    prepare=prepare,
)
