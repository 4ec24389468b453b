"""A trained run, ready to retrieve and deform: what evaluation and fit use."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from jr_dist.bank.client import BankClient, local_bank
from jr_dist.config import Config
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import part_parameters
from jr_dist.locations import AnyPath, as_path
from jr_dist.models.networks import Networks
from jr_dist.train.checkpoint import Checkpoint, load_checkpoint
from jr_dist.train.embedding import in_evaluation
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.run_directory import BEST, LAST, checkpoint_path, has_checkpoint
from jr_dist.train.state import bank_layout, build_networks

PAIRS_AT_ONCE = {"cpu": 512, "cuda": 8192}  # 32 kB of hidden layers each at 16 parts
SOURCE_CHUNK = 4096  # pairs whose sources' share of the first layer is held: 32 kB a source at 16 parts


@dataclass(frozen=True)
class TrainedModel:
    """Networks in evaluation mode and the bank of a checkpoint. The sources were encoded by the
    encoder of that checkpoint, at the validation that made it the best."""

    path: AnyPath
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

    @property
    def takes_pictures(self) -> bool:
        """Whether targets are shown to it as pictures, `data.image_size` pixels wide, framed as in training."""
        return self.config.data.images != "none"

    @torch.no_grad()
    def retrieval_distances(self, targets: Tensor) -> Tensor:
        """d_R^2 of T targets to all sources: [T, S], least = best.

        Targets are points [T, N, 3] (canonical frame, random order) or, where it takes pictures, [T, 3, S, S] uint8.
        Raises `InputError` for the other kind.
        """
        codes = in_evaluation(self.networks.retrieval_encoder, self._shown(targets), self.device)
        return self.bank.squared_distances(codes)

    @torch.no_grad()
    def deform(self, targets: Tensor, rows: Tensor, store: SourceStore) -> tuple[Tensor, Tensor]:
        """Centre and half-extent, each [T, K, P, 3], of the sources `rows` [T, K] deformed to the targets, which are as
        of `retrieval_distances`.

        P is the largest number of parts in the store; joints stay closed (see geometry.projection).
        """
        num_targets = len(rows)
        target_code = in_evaluation(self.networks.deformation_encoder, self._shown(targets), self.device)
        target_term = self.networks.deformation.target_term(target_code)
        width = max(1, SOURCE_CHUNK // num_targets)
        parts = [self._deform_block(some, target_term, store) for some in rows.split(width, dim=1)]
        centre, half_extent = (torch.cat(values, dim=1) for values in zip(*parts, strict=True))
        return centre, half_extent

    def _deform_block(self, rows: Tensor, target_term: Tensor, store: SourceStore) -> tuple[Tensor, Tensor]:
        """`deform` of a block of pairs: what depends on a source alone is computed once in it."""
        unique, inverse = np.unique(rows.numpy(), return_inverse=True)
        index = torch.from_numpy(inverse.reshape(-1)).to(self.device)
        target = torch.arange(len(rows), device=self.device).repeat_interleave(rows.shape[1])
        codes = self.bank.pull(unique, self.device)
        source_term = self.networks.deformation.source_term(codes.global_code, codes.padded_part_code())
        # One point is enough: only boxes and projections are looked at here.
        geometry = store.geometry(unique, device=self.device, num_points=1)
        chunk = PAIRS_AT_ONCE[self.device.type]
        parts = [
            self._deform_pairs(geometry.take(some), source_term, some, target_term[whom])
            for some, whom in zip(index.split(chunk), target.split(chunk), strict=True)
        ]
        centre, half_extent = (torch.cat(v).view(*rows.shape, -1, 3) for v in zip(*parts, strict=True))
        return centre, half_extent

    def _deform_pairs(
        self, geometry: PartGeometry, source_term: Tensor, source: Tensor, target_term: Tensor
    ) -> tuple[Tensor, Tensor]:
        pair, part = geometry.part_mask.nonzero(as_tuple=True)  # padding is not decoded
        delta = source_term.new_zeros(*geometry.part_mask.shape, 6)
        decoded = self.networks.deformation.decode(source_term[source[pair], part][:, None], target_term[pair])
        delta[pair, part] = decoded[:, 0]
        model = self.config.model
        return part_parameters(geometry, delta, alpha=model.alpha, connectivity=model.connectivity)

    def _shown(self, targets: Tensor) -> Tensor:
        of_pictures = targets.dtype == torch.uint8
        if of_pictures != self.takes_pictures:
            kinds = ("points", "pictures")
            raise InputError(
                f"run {self.path} was trained on {kinds[self.takes_pictures]}, but it is given {kinds[of_pictures]}; "
                f"allowed are {kinds[self.takes_pictures]}; choose another run"
            )
        return targets if of_pictures else targets[:, : self.config.data.encoder_points]


def load_run(path: str | AnyPath, device: str = "cpu") -> TrainedModel:
    """The best checkpoint of a run. Raises `InputError` for a directory without one."""
    path = as_path(path)
    if not path.is_dir():
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
            return _load(path, at, device)
        except InputError:
            if link.resolve() == at:
                raise
            # The run is still in training: a new best took this one's place while it was read.


def _load(run: AnyPath, at: AnyPath, device: str) -> TrainedModel:
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


def _settings(manifest: dict, run: AnyPath) -> Config:
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
