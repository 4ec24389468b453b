"""Runs at a URI: the settings of a short one, what must not differ from the same run in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from failure_cases import logged
from test_train import arrays_of, settings

from jr_dist.config import Config
from jr_dist.locations import as_path
from jr_dist.train.run_directory import LAST, checkpoint_path

#: two shards of three blocks each, candidates drawn a step ahead
COMMON: dict[str, Any] = {
    "bank__num_shards": 2,
    "bank__block_size": 2,
    "bank__lookahead": 1,
    "train__validate_every": 1,
}


def at(uri: str | Path, dataset: str | Path, **overrides: Any) -> Config:
    """A run of 12 steps in this process, a checkpoint every third."""
    return settings(dataset, uri, **{**COMMON, **overrides})  # type: ignore[arg-type]


def assert_same_run(uri: str, directory: Path) -> None:
    """The same bits of all that a run keeps, and the same lines of its log."""
    found, expected = arrays_of(uri), arrays_of(directory)  # type: ignore[arg-type]
    assert found.keys() == expected.keys()
    assert [name for name in expected if not np.array_equal(found[name], expected[name])] == []
    assert logged(as_path(uri)) == logged(directory)  # type: ignore[arg-type]


def last_of(uri: str) -> str:
    """The directory that `last` names."""
    return checkpoint_path(uri, LAST).resolve().name
