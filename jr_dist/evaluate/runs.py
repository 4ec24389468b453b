"""Which runs are measured together: loaded, checked against one another, grouped by the database they retrieve from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from jr_dist.config import flatten, load_config
from jr_dist.data.dataset import Dataset
from jr_dist.errors import InputError
from jr_dist.evaluate.methods import (
    AE,
    DAR,
    DF,
    FIT_AWARE,
    NEAREST_DF,
    PAPERS_LETTER,
    R,
    TrainedModelLike,
    row_name,
    with_df,
)
from jr_dist.evaluate.views import Views
from jr_dist.locations import AnyPath, as_path
from jr_dist.train.checkpoint import matters, progress_of
from jr_dist.train.run_directory import LAST, has_checkpoint

# What may differ between runs of one table without a word: it changes what a run is, or how fast it goes.
_MAY_DIFFER = (
    *("train.method", "train.teacher", "train.seed", "train.num_workers", "train.device"),
    *("data.path", "data.categories", "data.image_tasks", "labels.path", "labels.num_workers"),
    *("ido.iterations", "ido.prior_weight", "ido.mirror"),
)
_MAY_DIFFER_SECTIONS = ("run", "cluster", "evaluate", "compare", "bank")

Load = Callable[[str], TrainedModelLike]


@dataclass(frozen=True)
class LoadedRun:
    """A trained run and the row it fills."""

    path: str
    name: str  # its name in the tables
    seed: int
    categories: tuple[str, ...] | None  # None: all of the dataset
    model: TrainedModelLike


@dataclass(frozen=True)
class Failure:
    """A run that fills no row, and why."""

    methods: tuple[str, ...]
    seed: int | None
    reason: str


@dataclass(frozen=True)
class Scope:
    """Runs that retrieve from the same sources: those of `categories`."""

    categories: tuple[str, ...]
    runs: tuple[LoadedRun, ...]


@dataclass(frozen=True)
class Entrant:
    """Who fills rows of a table: a run, perhaps with the deformation of another, or (no path) what needs no run."""

    name: str | None
    path: str | None
    seed: int | None
    deformer: str | None = None  # the DF run that deforms what this one retrieves, where it can't itself
    fills_oracle: bool = False  # its deformation is trained with it
    identity: tuple[Any, ...] = ()  # what its results depend on


@dataclass(frozen=True)
class Ground:
    """The targets and sources that one group of runs is measured on."""

    scope: Scope
    store: Any  # SourceStore of the scope's categories
    where: np.ndarray  # [T] positions of its targets among all targets of the table
    points: Tensor  # [T, N, 3]
    target_ids: tuple[str, ...]  # [T]
    entrants: tuple[Entrant, ...]
    views: Views | None = None  # pictures of the targets, where the runs see pictures


def entrants(runs: Sequence[LoadedRun]) -> tuple[Entrant, ...]:
    """What needs no run, and every run; one that retrieves without deforming is given the DF run of its seed.

    Where there is none of its seed, that of the least seed.
    """
    deformers = {run.seed: run for run in sorted(runs, key=lambda run: -run.seed) if run.name == DF}
    found = [Entrant(None, None, None)]
    for run in runs:
        deformer = None
        if not run.model.has_deformation and deformers:
            deformer = deformers.get(run.seed, deformers[min(deformers)])
        identity = [run.model.identity, None if deformer is None else deformer.model.identity]
        own = run.model.has_deformation and run.name not in (DAR, FIT_AWARE)
        found.append(Entrant(run.name, run.path, run.seed, deformer.path if deformer else None, own, tuple(identity)))
    return tuple(found)


def load_runs(
    paths: Sequence[str | AnyPath], load: Callable[[str | AnyPath], TrainedModelLike]
) -> tuple[list[LoadedRun], list[Failure]]:
    """The runs that can be measured and those that can't. Raises `InputError` where none can, or one is given twice."""
    if not paths:
        raise InputError("no run was given; allowed is one run directory or more; name what `jr-dist train` wrote")
    resolved = [as_path(path).resolve() for path in paths]
    for path, lies in zip(paths, resolved, strict=True):
        if resolved.count(lies) > 1:
            raise InputError(f"run {path} is given more than once; allowed is once; name each run once")
    runs, failures, errors = [], [], []
    for path in paths:
        try:
            runs.append(_loaded(str(path), load(path)))
        except InputError as error:
            errors.append(error)
            failures.append(failure_of(path, str(error)))
    if not runs:
        raise errors[0]
    return runs, failures


def finished(runs: Sequence[LoadedRun], dataset: Dataset) -> tuple[list[LoadedRun], list[Failure]]:
    """The runs whose training has ended, and the others as failures: half a budget is no row of a fair table.

    Raises `InputError` where none has ended.
    """
    whole, failures = [], []
    for run in runs:
        step, end = progress_of(run.path, dataset) if has_checkpoint(run.path, LAST) else (0, 0)
        if step >= end:
            whole.append(run)
            continue
        reason = (
            f"run {run.path} is half finished, at step {step} of {end}; allowed is a finished run; start it again with "
            "run.resume auto"
        )
        failures.append(Failure(fills(run.name), run.seed, reason))
    if not whole:
        raise InputError(failures[0].reason)
    return whole, failures


def failure_of(path: str | AnyPath, reason: str) -> Failure:
    """A failure under the names of the rows that the run would have filled, as far as its settings tell."""
    try:
        config = load_config(as_path(path) / "config.yaml")
    except InputError:
        return Failure((f"run {path}",), None, reason)
    return Failure(fills(row_name(config.train.method, config.retrieval.loss)), config.train.seed, reason)


def fills(name: str) -> tuple[str, ...]:
    """The methods without IDO at test time that a run of this name fills rows of."""
    if name == DF:
        return (NEAREST_DF, DF)
    return (name, with_df(name)) if name in (R, AE, DAR) else (name,)


def _loaded(path: str, model: TrainedModelLike) -> LoadedRun:
    config = model.config
    categories = None if config.data.categories is None else tuple(config.data.categories)
    return LoadedRun(path, row_name(model.method, config.retrieval.loss), config.train.seed, categories, model)


def check_same_dataset(runs: Sequence[LoadedRun], dataset_hash: str, dataset_path: str) -> None:
    """Raises `InputError` where a run was trained on another dataset than the one that is measured."""
    first = runs[0]
    for run in runs[1:]:
        if run.model.dataset_hash != first.model.dataset_hash:
            raise InputError(
                f"runs {first.path} and {run.path} were trained on different datasets "
                f"({first.model.dataset_hash[:12]} and {run.model.dataset_hash[:12]}); allowed in one table is "
                "one dataset; evaluate them apart"
            )
    if first.model.dataset_hash != dataset_hash:
        raise InputError(
            f"run {first.path} was trained on dataset {first.model.dataset_hash[:12]}, but {dataset_path} is "
            f"{dataset_hash[:12]} now; allowed is the dataset it was trained on; restore it or train again"
        )


def scopes(runs: Sequence[LoadedRun], known: Sequence[str]) -> list[Scope]:
    """Runs grouped by the categories they were trained on, in the order of `known`, the categories of the dataset.

    Raises `InputError` where databases overlap without being equal (a category would then be retrieved from different
    sources in different rows), or where two runs would fill the same row.
    """
    groups: dict[tuple[str, ...], list[LoadedRun]] = {}
    for run in runs:
        names = tuple(name for name in known if run.categories is None or name in run.categories)
        groups.setdefault(names, []).append(run)
    found = [Scope(names, tuple(group)) for names, group in groups.items()]
    for i, first in enumerate(found):
        for second in found[i + 1 :]:
            if shared := sorted(set(first.categories) & set(second.categories)):
                raise InputError(
                    f"runs {first.runs[0].path} and {second.runs[0].path} retrieve {', '.join(shared)} from different "
                    f"databases ({', '.join(first.categories)} and {', '.join(second.categories)}); allowed in one "
                    "table is one database a category; evaluate them apart"
                )
        _check_rows(first)
    return sorted(found, key=lambda scope: known.index(scope.categories[0]))


def _check_rows(scope: Scope) -> None:
    rows: dict[tuple[str, int], LoadedRun] = {}
    for run in scope.runs:
        other = rows.setdefault((run.name, run.seed), run)
        if other is not run:
            raise InputError(
                f"runs {other.path} and {run.path} are both {run.name} with seed {run.seed} on "
                f"{', '.join(scope.categories)}; allowed is one run a method, seed and category; evaluate them "
                "apart or train with another train.seed"
            )


def differing_settings(runs: Sequence[LoadedRun]) -> list[str]:
    """Settings in which the runs of one table differ although it should compare methods alone, a line each.

    The paper's letter differs on purpose and is left out.
    """
    compared = [run for run in runs if run.name != PAPERS_LETTER]
    trees: list[dict[str, Any]] = [flatten(run.model.config) for run in compared]
    lines = []
    for name in trees[0] if trees else ():
        if name in _MAY_DIFFER or name.split(".")[0] in _MAY_DIFFER_SECTIONS:
            continue
        values: dict[str, list[str]] = {}
        for run, tree in zip(compared, trees, strict=True):
            if not matters(name, run.model.method):
                continue
            values.setdefault(str(tree[name]), []).append(f"{run.name} (seed {run.seed})")
        if len(values) > 1:
            shown = "; ".join(f"{value} for {', '.join(names)}" for value, names in values.items())
            lines.append(f"the runs differ in {name}: {shown}")
    return lines
