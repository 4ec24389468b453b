"""What can be known wrong with a run before anything starts or is written."""

from __future__ import annotations

from pathlib import Path

import torch

from jr_dist.bank.layout import cut
from jr_dist.cluster import in_a_job
from jr_dist.config import Config
from jr_dist.data.dataset import Dataset, count_rows, open_dataset, require_rows
from jr_dist.data.pictures import check_views, open_pictures, picture_settings
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.locations import AnyPath
from jr_dist.storage import as_location, is_uri, resolve
from jr_dist.train.checkpoint import check_same_run, read_manifest
from jr_dist.train.encoder_weights import check_encoder_weights
from jr_dist.train.labels import check_labels
from jr_dist.train.methods.dar import NUM_POSITIVES
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.run_directory import LAST, checkpoint_path, start_point
from jr_dist.train.schedule import Schedule, make_schedule
from jr_dist.train.state import bank_layout, check_num_candidates
from jr_dist.train.teacher import check_teacher


def with_absolute_paths(config: Config) -> Config:
    """The same settings whatever folder a worker stands in, or whoever opens the run later. URIs stay as they are.

    Raises `InputError` for a relative run.path in a submitted job: its folder goes when the job has ended.
    """
    if in_a_job() and not is_uri(config.run.path) and not Path(config.run.path).is_absolute():
        raise InputError(
            f"run.path is {config.run.path}, relative to the folder of a submitted job, which is removed after it; "
            "allowed is an absolute path that all nodes see, or a URI; name one"
        )
    resume, teacher, labels = config.run.resume, config.train.teacher, config.labels.path
    run = {
        "path": as_location(config.run.path),
        "resume": resume if resume in ("auto", "never") else as_location(resume),
    }
    weights = config.model.encoder_weights
    model = {"encoder_weights": weights if weights in ("imagenet", "none") else as_location(weights)}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "data": config.data.model_copy(update={"path": as_location(config.data.path)}),
            "run": config.run.model_copy(update=run),
            "train": config.train.model_copy(update={"teacher": teacher and as_location(teacher)}),
            "labels": config.labels.model_copy(update={"path": labels and as_location(labels)}),
        }
    )


def require_cuda(setting: str) -> None:
    """Raise `InputError` where `setting` asks this process for a GPU and there is none."""
    if not torch.cuda.is_available():
        raise InputError(
            f"{setting} is cuda, but this machine has no CUDA device; allowed here is cpu; set that, or more than 0 "
            "workers to run on a cluster that has one"
        )


def check(config: Config) -> None:
    """Raise `InputError` for what can be known wrong before anything starts: data, K, batch size."""
    if config.train.device == "cuda" and config.train.num_workers == 0:
        require_cuda("train.device")
    _check_places(config)
    k = config.retrieval.num_candidates
    if config.train.method == "dar" and config.retrieval.dar_loss == "margin" and k <= NUM_POSITIVES:
        raise InputError(
            f"retrieval.num_candidates is {k}, but the margin loss of dar takes the {NUM_POSITIVES} that fit best as "
            f"positives; allowed is more than {NUM_POSITIVES}; raise it or set retrieval.dar_loss regression"
        )
    dataset = open_dataset(config.data.path)
    stored = dataset.num_points
    if config.data.num_points > stored:
        raise InputError(
            f"data.num_points is {config.data.num_points}, but {config.data.path} stores {stored} points a shape; "
            f"allowed is at most {stored}; lower it or make the dataset with --num-points {config.data.num_points}"
        )
    if config.train.method == "fit_aware":
        check_labels(config, dataset)
    require_rows(dataset, "val", config.data.categories)
    pictures = _check_pictures(config, dataset)
    num_targets = count_rows(dataset, "train", config.data.categories)
    schedule = make_schedule(config.train, num_targets, max(config.train.num_workers, 1))
    store = SourceStore.open(dataset, categories=config.data.categories, num_points=1)
    check_num_candidates(config, len(store.ids))
    cut(bank_layout(config, store.num_parts), config.bank.num_shards)
    start = start_point(config)
    if start is None or METHODS[config.train.method].teacher is None:
        check_teacher(config, dataset, list(store.ids))  # a run that goes on has its deformation module in itself
    if start is None:
        check_encoder_weights(config)
    else:
        manifest = read_manifest(start)
        check_same_run(manifest, config, list(store.ids), dataset.hash, start)
        if manifest.get("pictures", "") != pictures:
            raise InputError(
                f"checkpoint {start} was trained on other pictures than those of {config.data.path} now; allowed are "
                "the same; restore them, or name a new run.path"
            )
        check_steps_left(manifest["step"], schedule, start, goes_on=start == checkpoint_path(config.run.path, LAST))


def _check_pictures(config: Config, dataset: Dataset) -> str:
    """Raise `InputError` where pictures of targets or sources are missing; returns `picture_identity`."""
    how = picture_settings(config.data)
    if how is None:
        return ""
    identity, _ = (open_pictures(dataset, split, config.data.categories, how).identity for split in ("train", "val"))
    if config.retrieval.source_embedding == "renders":
        check_views(open_pictures(dataset, "sources", config.data.categories, how), config.retrieval.source_views)
    return identity


def _check_places(config: Config) -> None:
    """Raise `InputError` for a URI that nobody can reach, or of what is read by its path alone."""
    for path in (config.run.path, config.run.resume, config.train.teacher, config.labels.path):
        if path is not None and is_uri(path):
            resolve(path)
    if is_uri(config.model.encoder_weights):
        raise InputError(
            f"model.encoder_weights is {config.model.encoder_weights}; allowed are imagenet, none, or a file that all "
            "nodes see, not a URI; copy it to one"
        )


def check_steps_left(step: int, schedule: Schedule, start: AnyPath, *, goes_on: bool) -> None:
    """Raise `InputError` where a checkpoint is behind the end of the run. A run may be started again at its own end."""
    if step > schedule.num_steps or (step == schedule.num_steps and not goes_on):
        raise InputError(
            f"checkpoint {start} is at step {step}, train.epochs {schedule.epochs} end at step {schedule.num_steps}; "
            "allowed is a later end; raise train.epochs"
        )
