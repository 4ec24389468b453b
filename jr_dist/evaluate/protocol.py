"""The protocol: every target of a split, every source of a run's database, every row counted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from jr_dist.atomic import atomic_write
from jr_dist.blocks import Job, read_result, run_jobs
from jr_dist.config import ClusterConfig, IdoConfig
from jr_dist.data.dataset import Dataset, count_rows, open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.evaluate import gallery as pictures
from jr_dist.evaluate import report, rows
from jr_dist.evaluate.assemble import assemble
from jr_dist.evaluate.markdown import to_markdown
from jr_dist.evaluate.measure import Rules
from jr_dist.evaluate.methods import NEAREST, Measured, concatenated, joined, spread
from jr_dist.evaluate.runs import (
    Failure,
    Ground,
    Scope,
    check_same_dataset,
    entrants,
    fills,
    finished,
    load_runs,
    scopes,
)
from jr_dist.evaluate.tables import Tables, to_csv, to_json
from jr_dist.evaluate.views import check_all_protocols, check_shown_alike, check_suits, open_views
from jr_dist.evaluate.work import failure_in, jobs_of, make_measurer, unpack
from jr_dist.locations import AnyPath, as_path
from jr_dist.log import say
from jr_dist.progress import progress as progress_of
from jr_dist.train.trained import load_run

FILES = ("tables.json", "tables.md", "tables.csv", "report.html")
BLOCKS = "blocks"  # folder of what is measured, a file a block of targets; a rerun goes on from it
LEAST_RESAMPLES = 100


@dataclass(frozen=True)
class Found:
    """What was measured, before it becomes tables."""

    results: list[Measured]
    failures: list[Failure]


def evaluate(
    run_paths: Sequence[str | AnyPath],
    *,
    split: str = "test",
    num_points: int = 2048,
    out: str | AnyPath,
    protocols: Sequence[str] = ("full",),
    ido: bool = True,
    num_workers: int = 0,
    num_gpus: float = 0,
    device: str = "cpu",
    seed: int = 0,
    resamples: int = 2000,
    gallery: int = 12,
    data: str | AnyPath | None = None,
    ido_settings: IdoConfig | None = None,
    cluster: ClusterConfig | None = None,
    progress: TextIO | None = None,
) -> Tables:
    """Measure trained runs on a split of their dataset; write tables.json, .md and .csv and report.html to `out`.

    Finished blocks of targets are kept in `out`/blocks: a rerun measures only what is missing, to the same bits.

    Args:
        run_paths: run directories of one dataset; several seeds, methods and categories may be mixed.
        num_points: points of a shape in every chamfer distance, the first that are stored.
        protocols: what is observed of a target (geometry.observation), or which pictures of it are shown (views).
        ido: also rows with IDO at test time, with the numbers of `ido_settings`.
        num_workers, num_gpus: actors of Ray that measure, and GPUs of each; 0 workers: this process.
        seed, resamples: of observations and of the bootstrap over targets.
        gallery: how many targets the report shows.
        data: the dataset, where it has moved since training; None: where the first run's settings say.
        progress: the stream that progress is shown on; None: stderr.

    Raises `InputError` for an output directory that holds other files, runs of different datasets, an empty split, more
    points than are stored, an unknown protocol, and where no run can be measured. A run among several that can't be is
    listed as absent.
    """
    out, protocols = as_path(out), check_all_protocols(protocols)
    check_output(out)
    if resamples < LEAST_RESAMPLES:
        raise InputError(
            f"resamples is {resamples}; allowed is {LEAST_RESAMPLES} or more, or the interval is noise; raise it"
        )
    load = partial(load_run, device=device)
    here = "cpu" if num_workers else device  # where actors measure, this process may have no GPU
    runs, failures = load_runs(run_paths, partial(load_run, device=here))
    for run in runs:
        check_suits(run.path, run.model.config.data, protocols)
    dataset = open_dataset(data or runs[0].model.config.data.path)
    check_same_dataset(runs, dataset.hash, str(dataset.path))
    runs, unfinished = finished(runs, dataset)
    for failure in (*failures, *unfinished):
        line = f"evaluate: warning: a run is left out of the tables: {failure.reason}"
        say(line, level="warning", stream=sys.stderr, fields={"event": "left out"})
    groups = scopes(runs, dataset.categories)
    targets, points = _targets(dataset, split, groups, num_points)
    grounds = [_ground(dataset, split, group, targets, points, protocols) for group in groups]
    numbers = ido_settings or IdoConfig()
    rules = Rules(num_points, ido, numbers.iterations, numbers.prior_weight, numbers.mirror, device)
    jobs = jobs_of(grounds, protocols, rules, {"dataset": dataset.hash, "split": split, "seed": seed})
    folder = out / BLOCKS
    folder.mkdir(parents=True, exist_ok=True)
    with progress_of("evaluate", sum(job.weight for job in jobs), unit="pairs", stream=progress) as state:
        run_jobs(
            make_measurer,
            ([replace(ground, scope=replace(ground.scope, runs=())) for ground in grounds], rules, load, seed),
            jobs,
            folder,
            advance=state.advance,
            num_workers=num_workers,
            num_gpus=num_gpus,
            cluster=cluster,
        )
    found = collect(grounds, jobs, folder, len(points))
    bootstrap = rows.Bootstrap(resamples, seed)
    tables = assemble(
        dataset,
        split,
        num_points,
        grounds,
        targets,
        found.results,
        [*failures, *unfinished, *found.failures],
        bootstrap,
        protocols,
    )
    items = pictures.show(grounds, targets, found.results, gallery, here, seed=seed)
    page = report.to_html(tables, items, report.training_charts(runs))
    for name, content in zip(FILES, (to_json(tables), to_markdown(tables), to_csv(tables), page), strict=True):
        atomic_write(out / name, content)
    _sweep(folder, jobs)
    return tables


def _sweep(folder: AnyPath, jobs: Sequence[Job]) -> None:
    """Remove the blocks of evaluations that this one replaces."""
    own = {job.name for job in jobs}
    for path in folder.glob("*.safetensors"):
        if path.stem not in own:
            path.unlink(missing_ok=True)


def check_output(out: AnyPath) -> None:
    """Raises `InputError` where `out` is a file, or holds anything but an earlier evaluation: it will be replaced."""
    if out.exists() and not out.is_dir():
        raise InputError(f"output {out} is a file; allowed is a directory; name another")
    known = (*FILES, BLOCKS)
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in known) if out.is_dir() else []
    if others:
        raise InputError(
            f"output {out} holds other files ({', '.join(others[:3])}); allowed is a new directory or an earlier "
            "evaluation, which is replaced; name another"
        )


def _targets(dataset: Dataset, split: str, groups: Sequence[Scope], num_points: int) -> tuple[rows.Targets, Tensor]:
    """All targets of the split in the groups' categories: ids, categories and points (T, N, 3)."""
    if not 0 < num_points <= dataset.num_points:
        raise InputError(
            f"num_points is {num_points}; allowed is 1 to {dataset.num_points}, the points that {dataset.path} "
            f"stores a shape; pass --num-points {dataset.num_points}"
        )
    names = [name for group in groups for name in group.categories]
    columns = tuple(name for name in dataset.categories if name in names)
    table = read_targets(dataset, split, columns)
    assert len(table.ids) == count_rows(dataset, split, columns), "every target of the split is read"
    categories = np.asarray(table.categories, dtype=str)
    columns = tuple(name for name in columns if (categories == name).any())
    points = torch.from_numpy(np.ascontiguousarray(table.points[:, :num_points]))
    return rows.Targets(np.asarray(table.ids, dtype=str), categories, columns), points


def _ground(
    dataset: Dataset, split: str, scope: Scope, targets: rows.Targets, points: Tensor, protocols: Sequence[str]
) -> Ground:
    store = SourceStore.open(dataset, categories=scope.categories)
    for run in scope.runs:
        assert tuple(run.model.source_ids) == tuple(store.ids), f"{run.path} knows other sources than the dataset holds"
    where = np.flatnonzero(np.isin(targets.categories, scope.categories))
    names = tuple(str(name) for name in targets.ids[where])
    check_shown_alike([(run.path, run.model.config.data) for run in scope.runs])
    views = open_views(dataset, split, scope.categories, scope.runs[0].model.config.data, protocols)
    return Ground(scope, store, where, points[torch.from_numpy(where)], names, entrants(scope.runs), views)


def collect(grounds: Sequence[Ground], jobs: Sequence[Job], folder: AnyPath, num_targets: int) -> Found:
    """What every method scored on all targets of the table, blocks and groups of runs joined."""
    found: dict[tuple[str, int | None, str], Measured] = {}
    failures: list[Failure] = []
    for ground in grounds:
        own = [job for job in jobs if job.task["sources"] == list(ground.scope.categories)]
        for entrant in ground.entrants:
            results = [read_result(folder, job) for job in own if job.task["entrant"] == entrant.path]
            reasons = [reason for arrays in results if (reason := failure_in(arrays))]
            if reasons:
                failures.append(
                    Failure((NEAREST,) if entrant.name is None else fills(entrant.name), entrant.seed, reasons[0])
                )
                continue
            for result in _joined_blocks([unpack(arrays) for arrays in results]):
                wide = spread(result, ground.where, num_targets)
                found[result.key] = joined(found[result.key], wide) if result.key in found else wide
    return Found(list(found.values()), failures)


def _joined_blocks(blocks: Sequence[Sequence[Measured]]) -> list[Measured]:
    by_key: dict[tuple[str, int | None, str], list[Measured]] = {}
    for block in blocks:
        for result in block:
            by_key.setdefault(result.key, []).append(result)
    return [concatenated(parts) for parts in by_key.values()]
