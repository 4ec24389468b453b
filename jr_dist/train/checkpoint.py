"""A checkpoint: one directory of safetensors and JSON, whole or not there, checked when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from jr_dist.array_files import read_arrays, write_arrays
from jr_dist.config import Config
from jr_dist.data.dataset import Dataset, count_rows
from jr_dist.errors import InputError
from jr_dist.locations import AnyPath, StoreAwayError
from jr_dist.train.draw import Draw
from jr_dist.train.run_directory import LAST, checkpoint_path, has_checkpoint, new_checkpoint
from jr_dist.train.schedule import make_schedule
from jr_dist.train.state import TrainState

SCHEMA = 2
MANIFEST = "manifest.json"
NETWORKS, OPTIMISER, DRAWN = "networks.safetensors", "optimiser.safetensors", "drawn.safetensors"
# What may differ when a run goes on: where and how it runs, not what it computes.
FREE_SETTINGS = (
    *("run.", "cluster.", "evaluate.", "compare.", "sweep."),
    *("bank.num_shards", "labels.path", "labels.num_workers"),
    *("ido.iterations", "ido.prior_weight", "ido.mirror"),
    *("train.device", "train.epochs", "train.checkpoint_every", "data.image_tasks"),
    "model.encoder_weights",  # read at the start alone
    # these two by their product, the targets of a step: order and candidates depend on it alone
    *("train.num_workers", "train.batch_size"),
)

#: settings that one method alone reads
OWN_SETTINGS = {
    "labels.": "fit_aware",
    "ido.teacher_": "ours_ido",
    "retrieval.dar_loss": "dar",
    "retrieval.margin": "dar",
}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint directory holds, read and checked; the blocks of the bank stay in their files."""

    path: AnyPath
    manifest: dict[str, Any]
    networks: dict[str, np.ndarray]
    optimiser: dict[str, np.ndarray]
    drawn: dict[str, np.ndarray]  # the candidates of the next step, where they are drawn a step ahead

    @property
    def hashes(self) -> dict[str, str]:
        """The hash of each file."""
        return self.manifest["files"]


def save_checkpoint(run: AnyPath, names: Sequence[str], state: TrainState, *, dataset_hash: str) -> None:
    """Make the present state the run's checkpoints `names`: rank 0 writes the dense part, each shard its blocks.

    All ranks call it together. Raises `InputError` and `OSError` as `new_checkpoint` does.
    """
    drawn = _gathered(state)
    if state.group.rank == 0:
        with new_checkpoint(run, state.step, state.incarnation, names) as aside:
            arrays = {
                NETWORKS: _arrays(state.networks.state_dict()),
                OPTIMISER: _optimiser_arrays(state.optimiser),
                DRAWN: drawn,
            }
            files = {name: write_arrays(aside / name, values) for name, values in arrays.items()}
            files |= state.bank.save(aside)
            manifest = {
                "schema": SCHEMA,
                "step": state.step,
                "start": state.incarnation,
                "method": state.config.train.method,
                "dataset_hash": dataset_hash,
                "source_ids": list(state.store.ids),
                "pictures": state.picture_identity,
                "num_parts": list(state.bank.layout.num_parts),
                "embedding_version": state.bank.embedding_version,
                "fit_scale_start": state.fit_scale_start,
                "validation": state.validation,
                "best_validation": state.best_validation if np.isfinite(state.best_validation) else None,
                "config": state.config.model_dump(mode="json"),
                "files": files,
            }
            (aside / MANIFEST).write_text(json.dumps(manifest | {"sha256": _digest(manifest)}, indent=1))


def _gathered(state: TrainState) -> dict[str, np.ndarray]:
    """The candidates drawn ahead, of all ranks in rank order: the order of the next step's targets."""
    if state.upcoming is None:
        return {}
    own = state.upcoming.arrays()
    of_ranks = state.group.gather(list(own.values()))
    return {name: np.concatenate(values) for name, values in zip(own, zip(*of_ranks, strict=True), strict=True)}


def load_checkpoint(path: AnyPath) -> Checkpoint:
    """Read and verify a checkpoint. Raises `InputError` naming the file that is missing or damaged."""
    path = path.resolve()  # `last` may move on to another directory while we read
    manifest = read_manifest(path)
    networks, optimiser, drawn = (
        read_arrays(path / name, manifest["files"].get(name, "")) for name in (NETWORKS, OPTIMISER, DRAWN)
    )
    return Checkpoint(path, manifest, networks, optimiser, drawn)


def read_manifest(path: AnyPath) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises `InputError` where there is none or it is of another kind."""
    try:
        manifest = json.loads((path.resolve() / MANIFEST).read_text())
        known = manifest["schema"] == SCHEMA
        if known and manifest.pop("sha256") != _digest(manifest):
            raise ValueError("the manifest differs from its own hash")
    except (StoreAwayError, InputError):
        raise
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} is no checkpoint ({MANIFEST} is missing or damaged); allowed is a directory that `jr-dist train` "
            "wrote; name another run or train it again"
        ) from None
    if not known:
        raise InputError(f"checkpoint {path} has another schema; allowed is {SCHEMA}; train the run again")
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def saved_step(run: AnyPath) -> int:
    """The step of the run's last checkpoint; 0 where there is none."""
    return read_manifest(checkpoint_path(run, LAST))["step"] if has_checkpoint(run) else 0


def progress_of(run: str | AnyPath, dataset: Dataset) -> tuple[int, int]:
    """The step of a run's last checkpoint, and the step at which its training ends."""
    manifest = read_manifest(checkpoint_path(run, LAST))
    settings = Config.model_validate(manifest["config"])
    num_targets = count_rows(dataset, "train", settings.data.categories)
    return manifest["step"], make_schedule(settings.train, num_targets, settings.train.num_workers).num_steps


def restore(state: TrainState, checkpoint: Checkpoint, *, dataset_hash: str) -> None:
    """Put a checkpoint into a fresh state; all ranks call it together.

    Raises `InputError` where it is of another dataset or other settings, and for a damaged file.
    """
    manifest = checkpoint.manifest
    check_same_run(manifest, state.config, list(state.store.ids), dataset_hash, checkpoint.path)
    state.networks.load_state_dict({name: torch.from_numpy(values) for name, values in checkpoint.networks.items()})
    _load_optimiser(state.optimiser, checkpoint.optimiser)
    at = {"version": manifest["step"], "embedding_version": manifest["embedding_version"]}
    if state.group.rank == 0:
        state.bank.load(checkpoint.path, checkpoint.hashes, **at)
    state.group.barrier()
    state.bank.loaded(**at)
    state.step = manifest["step"]
    state.fit_scale_start = manifest["fit_scale_start"]
    best = manifest["best_validation"]
    state.best_validation = float("inf") if best is None else best
    state.validation = manifest["validation"]
    if checkpoint.drawn:
        batch_size, rank = state.config.train.batch_size, state.group.rank
        own = {name: values[rank * batch_size : (rank + 1) * batch_size] for name, values in checkpoint.drawn.items()}
        state.upcoming = Draw.from_arrays(own)
        state.upcoming.begin_pull(state.bank, state.device)


def check_same_run(
    manifest: dict[str, Any], config: Config, source_ids: list[str], dataset_hash: str, path: AnyPath
) -> None:
    """Raise `InputError` unless the checkpoint was made from this dataset with these settings."""
    if manifest["dataset_hash"] != dataset_hash or manifest["source_ids"] != source_ids:
        raise InputError(
            f"checkpoint {path} was trained on another dataset (hash {manifest['dataset_hash'][:12]}, this one has "
            f"{dataset_hash[:12]}); allowed is the same dataset; set data.path to it, or name a new run.path"
        )
    with suppress(ValidationError):  # of another release; what it had and we have not is named below
        # settings that came later were what is the default now
        manifest = manifest | {"config": Config.model_validate(manifest["config"]).model_dump(mode="json")}
    then, now = (_compared(tree) for tree in (manifest["config"], config.model_dump(mode="json")))
    then, now = ({k: v for k, v in flat.items() if matters(k, config.train.method)} for flat in (then, now))
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            raise InputError(
                f"checkpoint {path} was trained with {name} {then.get(name)}, now it is {now.get(name)}; allowed is "
                "the same value; restore it, or name a new run.path"
            )


def matters(name: str, method: str) -> bool:
    """Whether a run of `method` depends on a setting: some are of one method alone."""
    return all(method == owner for prefix, owner in OWN_SETTINGS.items() if name.startswith(prefix))


def _compared(tree: dict[str, Any]) -> dict[str, Any]:
    flat = {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}
    kept = {name: value for name, value in flat.items() if not name.startswith((*FREE_SETTINGS, "data.path"))}
    return kept | {
        "train.batch_size times train.num_workers": flat["train.batch_size"] * max(flat["train.num_workers"], 1)
    }


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}


def _optimiser_arrays(optimiser: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    # Parameters are numbered in the order of the networks' parameters, which the sizes in the config fix.
    state = optimiser.state_dict()["state"]
    flat = {f"{number}.{name}": value for number, slots in state.items() for name, value in slots.items()}
    return _arrays({name: value for name, value in flat.items() if value is not None})


def _load_optimiser(optimiser: torch.optim.Optimizer, arrays: dict[str, np.ndarray]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, values in arrays.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = torch.from_numpy(values.copy())
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
