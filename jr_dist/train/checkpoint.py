"""A checkpoint: one directory of safetensors and JSON, whole or not there, checked when it is read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from jr_dist.atomic import atomic_directory
from jr_dist.config import Config
from jr_dist.errors import InputError
from jr_dist.train.state import TrainState

SCHEMA = 1
MANIFEST = "manifest.json"
# What may differ when a run goes on: where and how it runs, not what it computes.
FREE_SETTINGS = (
    *("run.", "cluster.", "evaluate.", "bank.num_shards"),
    *("train.device", "train.epochs", "train.checkpoint_every"),
    # these two by their product, the targets of a step: order and candidates depend on it alone
    *("train.num_workers", "train.batch_size"),
)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint directory holds, read and checked."""

    path: Path
    manifest: dict[str, Any]
    networks: dict[str, np.ndarray]
    optimiser: dict[str, np.ndarray]
    blocks: tuple[dict[str, np.ndarray], ...]


def save_checkpoint(path: Path, state: TrainState, *, dataset_hash: str) -> None:
    """Write the whole state aside, then rename it to `path`; an earlier checkpoint there is replaced in one step."""
    files = {
        "networks.safetensors": save_arrays(_arrays(state.networks.state_dict())),
        "optimiser.safetensors": save_arrays(_optimiser_arrays(state.optimiser)),
    }
    for block in range(state.bank.layout.num_blocks):
        files[block_file(block)] = save_arrays(state.bank.shard.block_state(block))
    manifest = {
        "schema": SCHEMA,
        "step": state.step,
        "method": state.config.train.method,
        "dataset_hash": dataset_hash,
        "source_ids": list(state.store.ids),
        "num_parts": list(state.bank.layout.num_parts),
        "embedding_version": state.bank.shard.embedding_version,
        "fit_scale_start": state.fit_scale_start,
        "validation": state.validation,
        "best_validation": state.best_validation if np.isfinite(state.best_validation) else None,
        "config": state.config.model_dump(mode="json"),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    with atomic_directory(path, replace=True) as aside:
        for name, content in files.items():
            (aside / name).write_bytes(content)
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1))


def block_file(block: int) -> str:
    """File of a block of the bank."""
    return f"bank-{block:05d}.safetensors"


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint. Raises `InputError` naming the file that is missing or damaged."""
    manifest = read_manifest(path)
    contents = {name: _verified(path / name, digest) for name, digest in manifest["files"].items()}
    blocks = sorted(name for name in contents if name.startswith("bank-"))
    return Checkpoint(
        path=path,
        manifest=manifest,
        networks=contents["networks.safetensors"],
        optimiser=contents["optimiser.safetensors"],
        blocks=tuple(contents[name] for name in blocks),
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises `InputError` where there is none or it is of another kind."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        known = manifest["schema"] == SCHEMA and {"files", "step", "config"} <= manifest.keys()
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} is no checkpoint ({MANIFEST} is missing or damaged); allowed is a directory that `jr-dist train` "
            "wrote; name another run or train it again"
        ) from None
    if not known:
        raise InputError(f"checkpoint {path} has another schema; allowed is {SCHEMA}; train the run again")
    return manifest


def restore(state: TrainState, checkpoint: Checkpoint, *, dataset_hash: str) -> None:
    """Put a checkpoint into a fresh state. Raises `InputError` where it is of another dataset or other settings."""
    check_same_run(checkpoint.manifest, state.config, list(state.store.ids), dataset_hash, checkpoint.path)
    state.networks.load_state_dict({name: torch.from_numpy(values) for name, values in checkpoint.networks.items()})
    _load_optimiser(state.optimiser, checkpoint.optimiser)
    for block, values in enumerate(checkpoint.blocks):
        state.bank.shard.load_block_state(block, values, checkpoint.manifest["embedding_version"])
    state.step = checkpoint.manifest["step"]
    state.fit_scale_start = checkpoint.manifest["fit_scale_start"]
    best = checkpoint.manifest["best_validation"]
    state.best_validation = float("inf") if best is None else best
    state.validation = checkpoint.manifest["validation"]


def check_same_run(
    manifest: dict[str, Any], config: Config, source_ids: list[str], dataset_hash: str, path: Path
) -> None:
    """Raise `InputError` unless the checkpoint was made from this dataset with these settings."""
    if manifest["dataset_hash"] != dataset_hash or manifest["source_ids"] != source_ids:
        raise InputError(
            f"checkpoint {path} was trained on another dataset (hash {manifest['dataset_hash'][:12]}, this one has "
            f"{dataset_hash[:12]}); allowed is the same dataset; set data.path to it, or name a new run.path"
        )
    then, now = (_compared(tree) for tree in (manifest["config"], config.model_dump(mode="json")))
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            raise InputError(
                f"checkpoint {path} was trained with {name} {then.get(name)}, now it is {now.get(name)}; allowed is "
                "the same value; restore it, or name a new run.path"
            )


def _compared(tree: dict[str, Any]) -> dict[str, Any]:
    flat = {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}
    kept = {name: value for name, value in flat.items() if not name.startswith((*FREE_SETTINGS, "data.path"))}
    return kept | {
        "train.batch_size times train.num_workers": flat["train.batch_size"] * max(flat["train.num_workers"], 1)
    }


def _verified(path: Path, digest: str) -> dict[str, np.ndarray]:
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("its hash differs from the manifest's")
        return load_arrays(content)
    except (OSError, ValueError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"checkpoint file {path} is damaged or missing ({reason}); allowed is the file as it was saved; restore it "
            "from a copy or resume from another checkpoint"
        ) from None


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
