"""Runs at a URI: the settings of a short one, what must not differ from the same run in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from failure_cases import logged
from pyarrow.fs import FileSelector
from test_train import arrays_of, settings

from jr_dist.config import Config
from jr_dist.locations import AnyPath, as_path
from jr_dist.storage import resolve
from jr_dist.train.journal import END
from jr_dist.train.run_directory import LAST, checkpoint_path

#: two shards of three blocks each, candidates drawn a step ahead
COMMON: dict[str, Any] = {
    "bank__num_shards": 2,
    "bank__block_size": 2,
    "bank__lookahead": 1,
    "train__validate_every": 1,
    "train__schedule": "constant",
}


def at(uri: str | Path, dataset: str | Path, **overrides: Any) -> Config:
    """A run of 12 steps in this process, a checkpoint every third."""
    return settings(dataset, uri, **{**COMMON, **overrides})  # type: ignore[arg-type]


def assert_same_run(uri: str, directory: Path) -> None:
    """The same bits of all that a run keeps, and the same lines of its log."""
    found, expected = arrays_of(uri), arrays_of(directory)  # type: ignore[arg-type]
    assert found.keys() == expected.keys()
    assert [name for name in expected if not np.array_equal(found[name], expected[name])] == []
    assert _lines(as_path(uri)) == _lines(directory)


def _lines(run: AnyPath) -> list[dict[str, Any]]:
    """The lines of a log but for the end of each start: one run may have more of them than the other."""
    return [line for line in logged(run) if line["part"] != END]  # type: ignore[arg-type]


def copied(uri: str, to: str) -> str:
    """Copy all objects below an address; returns the other."""
    (filesystem, source), (_, target) = resolve(uri), resolve(to)
    for info in filesystem.get_file_info(FileSelector(source, recursive=True)):
        if info.is_file:
            filesystem.copy_file(info.path, target + info.path.removeprefix(source))
    return to


def last_of(uri: str) -> str:
    """The directory that `last` names."""
    return checkpoint_path(uri, LAST).resolve().name
