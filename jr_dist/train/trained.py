"""A trained run, ready to retrieve and deform: what evaluation and fit use."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from jr_dist.bank.client import BankClient, local_bank
from jr_dist.config import Config
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.geometry.projection import part_parameters
from jr_dist.models.networks import Networks
from jr_dist.train.candidates import ENCODER_CHUNK
from jr_dist.train.checkpoint import Checkpoint, load_checkpoint
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.run_directory import BEST, LAST, checkpoint_path, has_checkpoint
from jr_dist.train.state import bank_layout, build_networks

PAIR_CHUNK = 512


@dataclass(frozen=True)
class TrainedModel:
    """Networks in evaluation mode and the bank of a checkpoint. The sources were encoded by the
    encoder of that checkpoint, at the validation that made it the best."""

    path: Path
    config: Config
    method: str  # as train.method names it
    dataset_hash: str
    source_ids: tuple[str, ...]
    step: int
    identity: str  # a digest of the checkpoint's weights and codes
    networks: Networks
    bank: BankClient
    device: torch.device

    @property
    def has_retrieval(self) -> bool:
        """Whether the method trains a retrieval space; DF does not."""
        return METHODS[self.method].trains_retrieval

    @property
    def has_deformation(self) -> bool:
        """Whether it can deform, by a module of its own or its teacher's; R and AE retrieve alone."""
        return METHODS[self.method].has_deformation

    @torch.no_grad()
    def retrieval_distances(self, points: Tensor) -> Tensor:
        """d_R^2 of T targets [T, N, 3] (canonical frame, random order) to all sources: [T, S], least = best."""
        codes = _in_chunks(self.networks.retrieval_encoder, self._encoder_points(points), self.device)
        return self.bank.squared_distances(codes)

    @torch.no_grad()
    def deform(self, points: Tensor, rows: Tensor, store: SourceStore) -> tuple[Tensor, Tensor]:
        """Centre and half-extent, each [T, K, P, 3], of the sources `rows` [T, K] deformed to the targets [T, N, 3].

        P is the largest number of parts in the store; joints stay closed (see geometry.projection).
        """
        num_targets, k = rows.shape
        target_code = _in_chunks(self.networks.deformation_encoder, self._encoder_points(points), self.device)
        flat = rows.reshape(-1)
        targets = torch.arange(num_targets).repeat_interleave(k)
        parts = [
            self._deform_pairs(flat[i : i + PAIR_CHUNK], target_code[targets[i : i + PAIR_CHUNK]], store)
            for i in range(0, len(flat), PAIR_CHUNK)
        ]
        centre, half_extent = (torch.cat(values).view(num_targets, k, -1, 3) for values in zip(*parts, strict=True))
        return centre, half_extent

    def _deform_pairs(self, rows: Tensor, target_code: Tensor, store: SourceStore) -> tuple[Tensor, Tensor]:
        unique, inverse = np.unique(rows.numpy(), return_inverse=True)
        index = torch.from_numpy(inverse)
        codes = self.bank.pull(unique, self.device)
        network = self.networks.deformation
        source = network.source_term(codes.global_code, codes.padded_part_code())
        delta = network.decode(source[index], network.target_term(target_code))
        # One point is enough: only boxes and projections are looked at here.
        geometry = store.geometry(unique, num_points=1).to(self.device).take(index)
        model = self.config.model
        return part_parameters(geometry, delta, alpha=model.alpha, connectivity=model.connectivity)

    def _encoder_points(self, points: Tensor) -> Tensor:
        return points[:, : self.config.data.encoder_points]


def load_run(path: str | Path, device: str = "cpu") -> TrainedModel:
    """The best checkpoint of a run. Raises `InputError` for a directory without one."""
    if not Path(path).is_dir():
        raise InputError(
            f"run {path} is no directory; allowed is a run directory that `jr-dist train` wrote; check the path"
        )
    if not has_checkpoint(path, BEST):
        hint = "it has not reached its first validation" if has_checkpoint(path, LAST) else "it has no checkpoint"
        raise InputError(
            f"run {path} can't be used: {hint}; allowed is one with checkpoints/best; train it by `jr-dist train`"
        )
    link = checkpoint_path(path, BEST)
    while True:
        at = link.resolve()
        try:
            return _load(Path(path), at, device)
        except InputError:
            if link.resolve() == at:
                raise
            # The run is still in training: a new best took this one's place while it was read.


def _load(run: Path, at: Path, device: str) -> TrainedModel:
    checkpoint = load_checkpoint(at)
    manifest = checkpoint.manifest
    config = _settings(manifest, run=run)
    networks = build_networks(config).to(device)
    networks.load_state_dict({name: torch.from_numpy(values) for name, values in checkpoint.networks.items()})
    networks.eval().requires_grad_(False)
    return TrainedModel(
        path=run,
        config=config,
        method=manifest["method"],
        dataset_hash=manifest["dataset_hash"],
        source_ids=tuple(manifest["source_ids"]),
        step=manifest["step"],
        identity=hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest(),
        networks=networks,
        bank=_bank(config, checkpoint),
        device=torch.device(device),
    )


def _settings(manifest: dict, run: Path) -> Config:
    try:
        return Config.model_validate(manifest["config"])
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(
            f"run {run} was trained by another release: its setting {where} is unknown here; allowed is a run of this "
            "release; train it again"
        ) from None


def _bank(config: Config, checkpoint: Checkpoint) -> BankClient:
    """The codes of the checkpoint, to be read: without the optimiser's slots."""
    manifest = checkpoint.manifest
    bank = local_bank(bank_layout(config, manifest["num_parts"]), None, num_threads=torch.get_num_threads())
    bank.load(
        checkpoint.path,
        checkpoint.hashes,
        version=manifest["step"],
        embedding_version=manifest["embedding_version"],
    )
    return bank


def _in_chunks(encoder: torch.nn.Module, points: Tensor, device: torch.device) -> Tensor:
    return torch.cat([encoder(chunk.to(device)) for chunk in points.split(ENCODER_CHUNK)])
