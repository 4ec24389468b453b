"""Everything that one evaluation found, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from jr_dist.config import flatten
from jr_dist.data.dataset import Dataset
from jr_dist.evaluate import rows
from jr_dist.evaluate.methods import FULL, Measured
from jr_dist.evaluate.runs import Failure, Ground, LoadedRun, differing_settings
from jr_dist.evaluate.sizes import size_curves
from jr_dist.evaluate.tables import CHAMFER, FRAME, Database, RunInfo, Tables
from jr_dist.geometry.joints import Joints, num_connected_components
from jr_dist.locations import as_path
from jr_dist.train.journal import training_minutes

NOTES = (
    "`Nearest chamfer` ranks the sources by their undeformed chamfer to what is observed; `R` is the paper's: a "
    "learned space that predicts this distance.",
    "`X+DF`: retrieved by X, deformed by the DF run of the same seed (else of the least). `X + IDO`: retrieved by X, "
    "then IDO on each of the first 10. Where the whole target is seen no network takes part: all rankings are given "
    "the same starts. Where a part is seen, X's own deformation (or the undeformed source) holds the rest.",
    "`Box` scales the nearest source as a whole, axis by axis, to the target's box: a deformation that can't beat it "
    "is worth little.",
    "`reranked` orders the first 10 by their observed fit. Under the protocol full the whole target is observed, so it "
    "equals best-of-10 by construction, but for IDO rows only as far as IDO minimises what is reported.",
    "best-of-K and oracle choose with the very distance that they report: bounds on what re-ranking can give, not "
    "retrieval.",
    "Several seeds of a method are averaged for each target before targets are resampled: the intervals hold for other "
    "targets, not for other seeds. The seeds' own numbers stand beside them.",
)


def assemble(
    dataset: Dataset,
    split: str,
    num_points: int,
    grounds: Sequence[Ground],
    targets: rows.Targets,
    results: Sequence[Measured],
    failures: Sequence[Failure],
    bootstrap: rows.Bootstrap,
    protocols: Sequence[str] = (FULL,),
) -> Tables:
    """All records of an evaluation from what each method scored on each target."""
    runs = [run for ground in grounds for run in ground.scope.runs]
    num_sources = np.zeros(len(targets.ids), int)
    for ground in grounds:
        num_sources[ground.where] = len(ground.store.ids)
    failed = [(method, failure.seed, failure.reason) for failure in failures for method in failure.methods]
    return Tables(
        dataset=str(dataset.path),
        dataset_hash=dataset.hash,
        split=split,
        num_points=num_points,
        frame=FRAME,
        chamfer=CHAMFER,
        bootstrap={"kind": "BCa", "unit": "target", **asdict(bootstrap)},
        categories=targets.names,
        protocols=tuple(protocols),
        rows=rows.result_rows(results, targets, bootstrap),
        summary=rows.summary_rows(results, targets, bootstrap),
        comparisons=rows.comparison_rows(results, targets, bootstrap),
        rankings=rows.ranking_rows(results, targets, num_sources, bootstrap),
        sanity=rows.sanity_rows(results, targets),
        curves=rows.curves(results),
        sizes=size_curves(results, num_sources),
        databases=tuple(_database(ground) for ground in grounds),
        absent=rows.absent_rows(results, targets, failed),
        runs=tuple(_info(run, ground) for ground in grounds for run in ground.scope.runs),
        notes=(*NOTES, *differing_settings(runs)),
    )


def _info(run: LoadedRun, ground: Ground) -> RunInfo:
    minutes = training_minutes(as_path(run.path))
    return RunInfo(run.path, run.name, run.seed, ground.scope.categories, minutes, flatten(run.model.config))


def _database(ground: Ground) -> Database:
    num_parts = ground.store.num_parts
    joints = [Joints(*ground.store.joints(row)) for row in range(len(num_parts))]
    whole = [num_connected_components(own, int(count)) == 1 for own, count in zip(joints, num_parts, strict=True)]
    return Database(
        ground.scope.categories,
        len(num_parts),
        float(np.mean(num_parts)),
        float(np.mean([len(own) for own in joints])),
        float(np.mean(whole)),
    )
