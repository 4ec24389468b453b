"""The protocol: every target of a split, every source of a run's database, every row counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from jr_dist.atomic import atomic_directory
from jr_dist.data.dataset import Dataset, count_rows, open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.evaluate import gallery as pictures
from jr_dist.evaluate import report, rows
from jr_dist.evaluate.assemble import assemble
from jr_dist.evaluate.markdown import to_markdown
from jr_dist.evaluate.methods import (
    DF,
    R_DF,
    Measured,
    concatenated,
    joined,
    measure_box,
    measure_nearest,
    measure_oracle,
    measure_ranked,
    spread,
)
from jr_dist.evaluate.metrics import retrieval_order
from jr_dist.evaluate.oracle import PairFits, blocks, box_chamfer, fit_all_pairs, undeformed_chamfer
from jr_dist.evaluate.runs import (
    Failure,
    Ground,
    LoadedRun,
    Scope,
    check_same_dataset,
    fills,
    load_runs,
    scopes,
)
from jr_dist.evaluate.tables import Tables, to_csv, to_json
from jr_dist.progress import progress as progress_of
from jr_dist.train.trained import load_run

FILES = ("tables.json", "tables.md", "tables.csv", "report.html")
LEAST_RESAMPLES = 100
MAX_CELLS = 1 << 23  # of a table of targets by sources; some ten such tables are in memory at once, 8 bytes a cell


def evaluate(
    run_paths: Sequence[str | Path],
    *,
    split: str = "test",
    num_points: int = 2048,
    out: str | Path,
    device: str = "cpu",
    seed: int = 0,
    resamples: int = 2000,
    gallery: int = 12,
    data: str | Path | None = None,
    progress: TextIO | None = None,
) -> Tables:
    """Measure trained runs on a split of their dataset; write tables.json, .md and .csv and report.html to `out`.

    Args:
        run_paths: run directories of one dataset; several seeds, methods and categories may be mixed.
        num_points: points of a shape in every chamfer distance, the first that are stored.
        seed, resamples: of the bootstrap over targets.
        gallery: how many targets the report shows.
        data: the dataset, where it has moved since training; None: where the first run's settings say.
        progress: the stream that progress is shown on; None: stderr.

    Raises `InputError` for an output directory that holds other files, runs of different datasets, an empty split, more
    points than are stored, and where no run can be measured. A run among several that can't be is listed as absent.
    """
    out = Path(out)
    check_output(out)
    if resamples < LEAST_RESAMPLES:
        raise InputError(
            f"resamples is {resamples}; allowed is {LEAST_RESAMPLES} or more, or the interval is noise; raise it"
        )
    runs, failures = load_runs(run_paths, lambda path: load_run(path, device=device))
    dataset = open_dataset(data or runs[0].model.config.data.path)
    check_same_dataset(runs, dataset.hash, str(dataset.path))
    groups = scopes(runs, dataset.categories)
    targets, points = _targets(dataset, split, groups, num_points)
    grounds = [_ground(dataset, group, targets, points) for group in groups]
    total = sum(len(g.points) * len(g.store.ids) * (1 + len(g.scope.runs)) for g in grounds)
    with progress_of("evaluate", total, unit="pairs", stream=progress) as state:
        results, failed = _measure_all(grounds, len(points), device, state.advance)
    tables = assemble(
        dataset, split, num_points, grounds, targets, results, [*failures, *failed], rows.Bootstrap(resamples, seed)
    )
    items = pictures.show(grounds, targets, results, gallery, device)
    page = report.to_html(tables, items, report.training_charts(runs))
    _write(out, dict(zip(FILES, (to_json(tables), to_markdown(tables), to_csv(tables), page), strict=True)))
    return tables


def check_output(out: Path) -> None:
    """Raises `InputError` where `out` is a file, or holds anything but an earlier evaluation: it will be replaced."""
    if out.exists() and not out.is_dir():
        raise InputError(f"output {out} is a file; allowed is a directory; name another")
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in FILES) if out.is_dir() else []
    if others:
        raise InputError(
            f"output {out} holds other files ({', '.join(others[:3])}); allowed is a new directory or an earlier "
            "evaluation, which is replaced; name another"
        )


def _write(out: Path, contents: dict[str, str]) -> None:
    with atomic_directory(out, replace=True) as aside:
        for name, content in contents.items():
            (aside / name).write_text(content, encoding="utf-8")


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


def _ground(dataset: Dataset, scope: Scope, targets: rows.Targets, points: Tensor) -> Ground:
    store = SourceStore.open(dataset, categories=scope.categories)
    for run in scope.runs:
        assert tuple(run.model.source_ids) == tuple(store.ids), f"{run.path} knows other sources than the dataset holds"
    where = np.flatnonzero(np.isin(targets.categories, scope.categories))
    return Ground(scope, store, where, points[torch.from_numpy(where)])


def _measure_all(
    grounds: Sequence[Ground], num_targets: int, device: str, finished: Callable[[int], None]
) -> tuple[list[Measured], list[Failure]]:
    """What every method scored on all targets of the table, groups of runs joined."""
    found: dict[tuple[str, int | None], Measured] = {}
    failures: list[Failure] = []
    for ground in grounds:
        if len(ground.where) == 0:
            continue
        results, failed = _measure(ground, device, finished)
        failures += failed
        for result in results:
            wide = spread(result, ground.where, num_targets)
            key = (result.method, result.seed)
            found[key] = joined(found[key], wide) if key in found else wide
    return list(found.values()), failures


def _measure(ground: Ground, device: str, finished: Callable[[int], None]) -> tuple[list[Measured], list[Failure]]:
    """What every method of one group scored on the group's own targets, so many at a time as `MAX_CELLS` allows."""
    store = ground.store
    found: dict[tuple[str, int | None], Measured] = {}
    failed: dict[str, Failure] = {}  # by the run's path
    for targets in blocks(len(ground.points), max(1, MAX_CELLS // len(store.ids))):
        points = ground.points[torch.from_numpy(targets)]
        undeformed = undeformed_chamfer(store, points, device=device, report=finished)
        nearest = retrieval_order(undeformed)[:, 0]
        box = box_chamfer(store, points, nearest, device=device)
        results = [measure_nearest(store.ids, undeformed), measure_box(store.ids, nearest, box)]
        for run in ground.scope.runs:
            if run.path in failed:
                continue
            try:
                fits = fit_all_pairs(run.model, store, points, device=device, report=finished)
                results += _results_of(run, store.ids, undeformed, fits, points)
            except FloatingPointError as error:
                failure = Failure(fills(run.name), run.seed, f"run {run.path} can't be measured: {error}")
                failed[run.path] = failure
                for method in failure.methods:
                    found.pop((method, run.seed), None)
        for result in results:
            key = (result.method, result.seed)
            found[key] = concatenated([found[key], result] if key in found else [result])
    return list(found.values()), list(failed.values())


def _results_of(
    run: LoadedRun, ids: Sequence[str], undeformed: np.ndarray, fits: PairFits, points: Tensor
) -> list[Measured]:
    sound = {"gap": fits.gap.max(axis=1), "at_floor": fits.at_floor.mean(axis=1)}
    if run.name == DF:
        oracle = replace(measure_oracle(DF, run.seed, ids, fits.chamfer), **sound)
        return [oracle, measure_ranked(R_DF, run.seed, ids, undeformed, fits.chamfer, oracle=False)]
    distances = run.model.retrieval_distances(points).cpu().numpy()
    if not np.isfinite(distances).all():
        raise FloatingPointError("its retrieval distances are not finite")
    return [replace(measure_ranked(run.name, run.seed, ids, distances, fits.chamfer, oracle=True), **sound)]
