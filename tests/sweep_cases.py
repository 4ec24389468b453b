"""Small sweeps: settings with which a trial takes seconds, and tables without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import TINY_SETTINGS

from jr_dist.config import Config, load_config
from jr_dist.evaluate.sweep_table import Finalist, SweepTable
from jr_dist.train.sweep_space import Choice, Space, Span
from jr_dist.train.trials import Trial

SIGMA0, K = "retrieval.sigma0", "retrieval.num_candidates"


def settings(dataset: Path, path: Path, **overrides: Any) -> Config:
    """A sweep of a few tiny trials, no repeats, never stopped early."""
    small = {
        "sweep.space": {SIGMA0: {"log": [0.5, 200]}, K: {"choice": [2, 4]}},
        "sweep.trials": 3,
        "sweep.finalists": 1,
        "sweep.repeats": 0,
        "sweep.grace_epochs": 99,
        "cluster.object_store_mb": 256,
    }
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(None, {**TINY_SETTINGS, **small, "data.path": str(dataset), "run.path": str(path), **named})


def table_of(trials: list[Trial], space: Space, further: tuple[float, ...] = ()) -> SweepTable:
    """A table of made-up trials, the first complete one the winner."""
    best = next(trial for trial in trials if trial.state == "complete")
    return SweepTable(
        dataset="data/chairs",
        num_targets=10,
        num_points=128,
        epochs=4,
        num_steps=40,
        grace=1,
        seed=0,
        space=space,
        trials=tuple(trials),
        repeats=(),
        finalists=(Finalist(best, (best.validations[-1][1], *further)),),
    )


def trial(number: int, sigma0: float, k: int, *chamfers: float, state: Any = "complete", **more: Any) -> Trial:
    """A trial with a validation at each epoch."""
    validations = tuple((float(epoch), value) for epoch, value in enumerate(chamfers, start=1))
    return Trial(f"{number:03d}", {SIGMA0: sigma0, K: k}, 0, state=state, validations=validations, **more)


#: the paper's sigma0 and K both lie outside
SPACE: Space = {SIGMA0: Span(0.5, 20.0, log=True, whole=False), K: Choice((2, 4))}
