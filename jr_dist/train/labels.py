"""What fit_aware learns from: the chamfer of training targets and sources after IDO, computed once for a dataset.

A table lies in a folder of its own, named by all that it depends on: runs of any seed share it, and one of other
settings or of another dataset is never taken for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jr_dist.blocks import Job, Work, read_result, run_jobs
from jr_dist.config import Config
from jr_dist.data.dataset import Dataset, check_categories, count_rows, open_dataset, read_batches
from jr_dist.data.decoded import scratch_folder
from jr_dist.data.device_geometry import DeviceGeometry
from jr_dist.data.schema import tensor
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.geometry.chamfer import chamfer_matrix
from jr_dist.locations import AnyPath, as_path
from jr_dist.models.ido import VERSION
from jr_dist.models.refine import Refinement, refine
from jr_dist.progress import progress
from jr_dist.train.stretch import LARGEST_STRETCH, stretch_factors, stretched

BLOCK_PAIRS = 4096  # of a job, at least: some seconds of work
IN_MEMORY_BYTES = 512 << 20  # a larger table is mapped from a file that all processes of the machine share
COARSE_POINTS = 128  # of a shape, when sources are ranked before they are labelled
_COARSE_CHUNK = 4096  # sources ranked at once
_PAIRS_AT_ONCE = {"cpu": 512, "cuda": 4096}  # 30 kB and 100 kB each at 512 points


@dataclass(frozen=True)
class Labels:
    """How well L of S sources fit each of T training targets: chamfer after IDO from the two starts of `refine`.

    A target is there in V versions, itself and stretched (`train.stretch`): version v of target t is row t V + v.
    """

    values: np.ndarray  # [T V, L] float32
    columns: np.ndarray | None  # [T V, L] int32, ascending: the sources; None where they are all S, in order
    num_sources: int
    num_versions: int = 1

    def take(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """[B, C] float32: of the rows [B] and the sources `columns` [C], ascending; NaN where unlabelled."""
        if self.columns is None:
            return self.values[rows[:, None], columns]
        own, result = self.columns[rows], np.full((len(rows), len(columns)), np.nan, np.float32)
        place = np.searchsorted(columns, own).clip(max=len(columns) - 1)
        target, label = np.nonzero(columns[place] == own)
        result[target, place[target, label]] = self.values[rows[target], label]
        return result

    def sources(self, rows: np.ndarray) -> np.ndarray:
        """[B, L] the sources that are labelled for the rows [B]."""
        if self.columns is not None:
            return self.columns[rows]
        return np.broadcast_to(np.arange(self.num_sources, dtype=np.int32), (len(rows), self.num_sources))

    def versions(self, targets: np.ndarray) -> np.ndarray:
        """[B V] int64: the rows of all versions of the targets [B], target after target."""
        return (targets[:, None] * self.num_versions + np.arange(self.num_versions)).reshape(-1)


def make_labels(config: Config, device: str = "cpu") -> None:
    """Compute what is missing of the table that these settings name, and say how long it will take.

    Blocks of targets that are finished are kept. Two processes may do it at once: they do the same work. Raises
    `InputError` as `check_labels` and `run_jobs` do.
    """
    dataset = open_dataset(config.data.path)
    check_labels(config, dataset)
    jobs = _jobs(config, dataset)
    arguments = (config.data.path, config.data.categories, _settings(config, dataset), device)
    with progress("labels", sum(job.weight for job in jobs), unit="pair") as state:
        run_jobs(
            _make_work,
            arguments,
            jobs,
            labels_folder(config, dataset),
            advance=state.advance,
            num_workers=config.labels.num_workers,
            num_gpus=float(device == "cuda"),
            cluster=config.cluster,
        )


def open_labels(config: Config, dataset: Dataset) -> Labels:
    """The table that `make_labels` has left. Raises `InputError` where a block of it is missing or damaged."""
    folder, jobs = labels_folder(config, dataset), _jobs(config, dataset)
    versions = num_versions(config)
    num_targets = count_rows(dataset, "train", config.data.categories)
    shape = num_targets * versions, _num_labelled(config, dataset)
    num_sources = count_rows(dataset, "sources", config.data.categories)
    everything = shape[1] == num_sources

    def parts(name: str) -> Callable[[], Any]:
        return lambda: (read_result(folder, job)[name] for job in jobs)

    values = _joined(parts("values"), shape, np.float32, f"labels-{folder.name}-values.npy", dataset)
    columns = None
    if not everything:
        columns = _joined(parts("columns"), shape, np.int32, f"labels-{folder.name}-columns.npy", dataset)
    return Labels(values, columns, num_sources, versions)


def labels_folder(config: Config, dataset: Dataset) -> AnyPath:
    """Where the table lies: in `labels.path` or the run, under a digest of what it depends on."""
    root = as_path(config.labels.path) if config.labels.path else as_path(config.run.path) / "labels"
    settings = json.dumps(_settings(config, dataset), sort_keys=True)
    return root / hashlib.sha256(settings.encode()).hexdigest()[:16]


def check_labels(config: Config, dataset: Dataset) -> None:
    """Raise `InputError` for labels that this dataset can't have."""
    if config.labels.num_points > dataset.num_points:
        raise InputError(
            f"labels.num_points is {config.labels.num_points}, but {dataset.path} stores {dataset.num_points} points a "
            "shape; allowed is at most that; lower it"
        )


def num_label_pairs(config: Config, dataset: Dataset) -> int:
    """Pairs that the table holds."""
    num_targets = count_rows(dataset, "train", config.data.categories)
    return num_targets * num_versions(config) * _num_labelled(config, dataset)


def _num_labelled(config: Config, dataset: Dataset) -> int:
    """L, the sources labelled for a target."""
    num_sources = count_rows(dataset, "sources", config.data.categories)
    return min(config.labels.sources or num_sources, num_sources)


def num_versions(config: Config) -> int:
    """V. A picture of a target can't be stretched as its points can."""
    return 1 + (config.labels.copies if config.data.images == "none" else 0)


def _settings(config: Config, dataset: Dataset) -> dict[str, Any]:
    """All that the labels depend on, as JSON."""
    return {
        "dataset": dataset.hash,
        "categories": sorted(check_categories(dataset, config.data.categories) or dataset.categories),
        "sources": _num_labelled(config, dataset),
        "iterations": config.labels.iterations,
        "starts": ["undeformed", "spread_alike"],
        "num_points": config.labels.num_points,
        "versions": num_versions(config),
        "largest_stretch": LARGEST_STRETCH,
        "connectivity": config.model.connectivity,
        "ido": VERSION,
    }


def _jobs(config: Config, dataset: Dataset) -> list[Job]:
    settings, num_labelled = _settings(config, dataset), _num_labelled(config, dataset)
    num_targets = count_rows(dataset, "train", config.data.categories)
    of_a_target = num_labelled * settings["versions"]
    size = -(-BLOCK_PAIRS // of_a_target)
    runs = [range(num_targets)[first : first + size] for first in range(0, num_targets, size)]
    return [
        Job(
            name=f"targets-{run.start:08d}",
            task={**settings, "targets": [run.start, run.stop]},
            weight=len(run) * of_a_target,
        )
        for run in runs
    ]


def _make_work(path: str, categories: Sequence[str] | None, settings: Mapping[str, Any], device: str) -> Work:
    """What an actor holds: the points of all shapes, as many as labels look at."""
    dataset, num_points = open_dataset(path), settings["num_points"]
    store = SourceStore.open(dataset, categories, num_points)
    targets = _target_points(dataset, categories, num_points)
    geometry = store.geometry if device == "cpu" else DeviceGeometry(store, device).geometry
    at_once = _PAIRS_AT_ONCE[torch.device(device).type]

    def work(task: Mapping[str, Any]) -> dict[str, np.ndarray]:
        first, last = task["targets"]
        own, num_versions = range(first, last), task["versions"]
        points = stretched(torch.from_numpy(targets[first:last]), stretch_factors(own, num_versions)).flatten(0, 1)
        versions = range(first * num_versions, last * num_versions)
        columns = chosen_sources(store, points, versions, task["sources"], device)
        rows, values = columns.reshape(-1), np.empty(columns.size, np.float32)
        for begin in range(0, len(rows), at_once):
            pairs = np.arange(begin, min(begin + at_once, len(rows)))
            of_target = pairs // columns.shape[1]
            seen = points[of_target[0] : of_target[-1] + 1].to(device)
            fit = refine(
                geometry(rows[pairs]),
                seen,
                torch.from_numpy(of_target - of_target[0]).to(device),
                None,
                Refinement(iterations=task["iterations"]),
                connectivity=task["connectivity"],
            )
            values[pairs] = fit.loss.cpu().numpy()
        return {"values": values.reshape(columns.shape), "columns": columns.astype(np.int32)}

    return work


def chosen_sources(
    store: SourceStore, points: Tensor, rows: range, num_labelled: int, device: str = "cpu"
) -> np.ndarray:
    """[T, L] int64, ascending: the sources to label for the `rows` of the table, which have `points` [T, N, 3].

    Half are the nearest by chamfer of `COARSE_POINTS` points when either shape fills its own box (IDO scales parts, so
    that proportions say little); the others are drawn, by a generator of the row alone.
    """
    num_sources = len(store)
    if num_labelled == num_sources:
        return np.tile(np.arange(num_sources), (len(points), 1))
    ranked = _coarse_chamfer(store, points, device).argsort(axis=1, kind="stable")
    nearest = -(-num_labelled // 2)
    chosen = ranked[:, :num_labelled]
    for place, row in enumerate(rows):
        raw = np.random.PCG64(np.random.SeedSequence([row, 2])).random_raw(num_sources - nearest)
        drawn = np.argsort(raw, kind="stable")[: num_labelled - nearest]
        chosen[place, nearest:] = ranked[place, nearest:][drawn]
    return np.sort(chosen, axis=1)


def _coarse_chamfer(store: SourceStore, points: Tensor, device: str) -> np.ndarray:
    seen, result = _fill_box(points[:, :COARSE_POINTS].to(device)), np.empty((len(points), len(store)), np.float32)
    for first in range(0, len(store), _COARSE_CHUNK):
        rows = np.arange(first, min(first + _COARSE_CHUNK, len(store)))
        sources = store.clouds(rows, min(COARSE_POINTS, store.num_points)).to(device)
        result[:, rows] = chamfer_matrix(seen, _fill_box(sources)).cpu().numpy()
    return result


def _fill_box(points: Tensor) -> Tensor:
    """The clouds [M, N, 3], each stretched along the axes so that its box is [-1, 1]^3."""
    low, high = points.amin(dim=1, keepdim=True), points.amax(dim=1, keepdim=True)
    return (points - (low + high) / 2) / ((high - low) / 2).clamp_min(1e-3)


def _target_points(dataset: Dataset, categories: Sequence[str] | None, num_points: int) -> np.ndarray:
    """[T, N, 3]: a prefix of `num_points` points of the training targets, in the order of `read_targets`."""
    points = np.empty((count_rows(dataset, "train", categories), num_points, 3), np.float32)
    done = 0
    for batch in read_batches(dataset, "train", categories, ["points"]):
        points[done : done + batch.num_rows] = tensor(batch["points"])[:, :num_points]
        done += batch.num_rows
    return points


def _joined(
    parts: Callable[[], Any], shape: tuple[int, int], kind: type[np.number], name: str, dataset: Dataset
) -> np.ndarray:
    """The parts one below the other, in memory or, where they are large, mapped from a scratch file."""
    if np.dtype(kind).itemsize * shape[0] * shape[1] <= IN_MEMORY_BYTES:
        return np.concatenate(list(parts()))
    path = scratch_folder() / dataset.hash / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f".{name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            table, done = np.lib.format.open_memmap(aside, "w+", np.dtype(kind), shape), 0
            for part in parts():
                table[done : done + len(part)] = part
                done += len(part)
            table.flush()
            os.replace(aside, path)  # two processes may have done the same work: the files are equal
        finally:
            aside.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r", allow_pickle=False)
