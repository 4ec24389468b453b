"""The deformation module of a finished run, taken over by a method that trains retrieval alone."""

from __future__ import annotations

from typing import Any

import torch

from jr_dist.config import Config, flatten
from jr_dist.data.dataset import Dataset
from jr_dist.errors import InputError
from jr_dist.log import say
from jr_dist.train.checkpoint import load_checkpoint, progress_of, read_manifest
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.run_directory import BEST, LAST, checkpoint_path, has_checkpoint
from jr_dist.train.state import TrainState

#: dense weights and codes that make up the deformation module
MODULES = ("deformation_encoder.", "deformation.")
TABLES = ("global_code", "part_code")
#: settings that say what the module is, what it sees of a target, and which file of a checkpoint holds which sources
_OF_THE_MODULE = (
    *("model.encoder", "model.encoder_channels", "model.global_code", "model.part_code", "model.target_code"),
    *("model.hidden", "model.alpha", "model.connectivity"),
    *("data.categories", "data.encoder_points", "data.observed", "bank.block_size"),
    "data.image_size",
)


def check_teacher(config: Config, dataset: Dataset, source_ids: list[str]) -> None:
    """Raise `InputError` where `train.teacher` is not a finished run of the kind that `train.method` takes over."""
    method, named = METHODS[config.train.method], config.train.teacher
    if method.teacher is None:
        if named is not None:
            takers = " and ".join(sorted(name for name, each in METHODS.items() if each.teacher is not None))
            raise InputError(
                f"train.teacher is {named}, but train.method {method.name} takes nothing over; allowed is none, or a "
                f"run for {takers}; leave it out"
            )
        return
    asked = f"a finished {method.teacher} run on the same dataset"
    if named is None:
        raise InputError(
            f"train.teacher is none, but train.method {method.name} takes over the deformation module of a run; "
            f"allowed is {asked}; train one by train.method {method.teacher} and name its run.path"
        )
    if not (has_checkpoint(named, BEST) and has_checkpoint(named, LAST)):
        raise InputError(
            f"train.teacher {named} holds no trained run; allowed is {asked}; train it by train.method {method.teacher}"
        )
    manifest = read_manifest(checkpoint_path(named, BEST))
    if manifest["method"] != method.teacher:
        raise InputError(
            f"train.teacher {named} is a run of {manifest['method']}; allowed with train.method {method.name} is "
            f"{asked}; name one"
        )
    if manifest["dataset_hash"] != dataset.hash:
        raise InputError(
            f"train.teacher {named} was trained on another dataset (hash {manifest['dataset_hash'][:12]}, this one has "
            f"{dataset.hash[:12]}); allowed is {asked}; train one on it"
        )
    then, now = _flat(manifest), flatten(config)
    for name in _OF_THE_MODULE:
        if then.get(name) != now[name]:
            raise InputError(
                f"train.teacher {named} was trained with {name} {then.get(name)}, now it is {now[name]}; allowed is "
                "the same value; change the one or train the other again"
            )
    assert manifest["source_ids"] == source_ids, "the same dataset and categories have the same sources"
    step, end = progress_of(named, dataset)
    if step < end:
        raise InputError(
            f"train.teacher {named} is half finished, at step {step} of {end}; allowed is {asked}; start it again with "
            "run.resume auto"
        )


def take_over(state: TrainState, *, dataset_hash: str) -> None:
    """Put the teacher's deformation module into a fresh state: its dense weights, and the codes of all sources.

    All ranks call it together. What is taken is part of the run's own checkpoints, so a resumed run and its evaluation
    need no teacher. Raises `InputError` where the teacher has changed since it was checked, and for a damaged file.
    """
    named = state.config.train.teacher
    assert named is not None, "checked before the start"
    checkpoint = load_checkpoint(checkpoint_path(named, BEST))
    if checkpoint.manifest["dataset_hash"] != dataset_hash:
        raise InputError(
            f"train.teacher {named} was replaced by a run on another dataset; allowed is one on the same; start again"
        )
    weights = {
        name: torch.from_numpy(values) for name, values in checkpoint.networks.items() if name.startswith(MODULES)
    }
    state.networks.load_state_dict(weights, strict=False)
    if state.group.rank == 0:
        state.bank.take_over(checkpoint.path, checkpoint.hashes, TABLES)
        say(f"{METHODS[state.config.train.method].title} takes over the deformation of {named}")
    state.group.barrier()


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, keys in manifest["config"].items() for key, value in keys.items()}
