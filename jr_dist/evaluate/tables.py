"""The paper's tables as records, and their forms for programs: JSON and CSV. For people: markdown.py, report.py."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from jr_dist.errors import InputError

FRAME = "canonical: x right, y up, z front; centred on the box; half-diagonal 1"
CHAMFER = "squared, mean over points, both directions added, x100"
ALL = "all"


@dataclass(frozen=True)
class Row:
    """One method with one seed on one category: mean chamfer over n targets and its interval (None where n < 2)."""

    method: str
    retrieval: str  # top-1 | best-of-K | reranked | oracle
    protocol: str  # what is observed of a target: full, partial-50, ...
    category: str
    chamfer_x100: float
    low: float | None
    high: float | None
    n: int
    seed: int | None  # None: nothing was trained


@dataclass(frozen=True)
class Summary:
    """One method over all its seeds: averaged over seeds a target, then over targets, which are what is resampled."""

    method: str
    retrieval: str
    protocol: str
    category: str
    chamfer_x100: float
    low: float | None
    high: float | None
    n: int
    seeds: tuple[int, ...]
    between_seeds: float | None  # standard deviation of the seeds' means, x100


@dataclass(frozen=True)
class Comparison:
    """`method` minus `against` on the same targets: below zero is better; a paired interval over targets."""

    method: str
    against: str
    retrieval: str
    protocol: str
    category: str
    difference_x100: float
    low: float | None
    high: float | None
    n: int
    clear: bool  # the interval does not touch zero
    share_better: float  # of the targets
    seeds: tuple[int, ...]
    by_seed_x100: tuple[float, ...]  # the difference for each of `seeds`


@dataclass(frozen=True)
class Ranking:
    """How well a retrieval orders the sources, against the oracle of the deformation behind it."""

    method: str
    protocol: str
    category: str
    seed: int | None
    n: int
    num_sources: int
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    mean_oracle_rank: float  # from 1
    distinct_sources: int  # retrieved first for some target
    regret_x100: float  # top-1 minus oracle
    low: float | None  # of the regret
    high: float | None


@dataclass(frozen=True)
class Sanity:
    """Whether the deformations are sound: a network's over all pairs, IDO's over the pairs that it was run on."""

    method: str
    protocol: str
    category: str
    seed: int | None
    max_joint_gap: float  # canonical units
    share_at_floor: float  # of half-extents, at the least scale allowed


@dataclass(frozen=True)
class Curve:
    """Mean chamfer of the best of the first k retrieved, for k = 1, 2, ..., over all targets of the method."""

    method: str
    seed: int | None
    protocol: str
    chamfer_x100: tuple[float, ...]


@dataclass(frozen=True)
class SizeCurve:
    """Expected top-1 chamfer where the database is a random subset of so many of its sources; over all targets."""

    method: str
    seed: int | None
    protocol: str
    sizes: tuple[int, ...]
    chamfer_x100: tuple[float, ...]


@dataclass(frozen=True)
class Database:
    """The sources that one group of runs retrieves from."""

    categories: tuple[str, ...]
    num_sources: int
    num_parts_mean: float
    num_joints_mean: float
    connected: float  # share of the sources whose joints hold all parts together


@dataclass(frozen=True)
class Absent:
    """A row that the table should have and has not, under any protocol."""

    method: str
    retrieval: str
    category: str
    seed: int | None
    reason: str


@dataclass(frozen=True)
class RunInfo:
    """A run that was measured."""

    path: str
    method: str
    seed: int
    categories: tuple[str, ...]
    minutes: float | None  # that its training took; None where it did not say
    settings: Mapping[str, Any]  # {"section.key": value}


@dataclass(frozen=True)
class Tables:
    """Everything that one evaluation found. Chamfer distances: see `chamfer`, `num_points` and `frame`."""

    dataset: str
    dataset_hash: str
    split: str
    num_points: int
    frame: str
    chamfer: str
    bootstrap: Mapping[str, Any]
    categories: tuple[str, ...]
    protocols: tuple[str, ...]
    rows: tuple[Row, ...]
    summary: tuple[Summary, ...]
    comparisons: tuple[Comparison, ...]
    rankings: tuple[Ranking, ...]
    sanity: tuple[Sanity, ...]
    curves: tuple[Curve, ...]
    sizes: tuple[SizeCurve, ...]
    databases: tuple[Database, ...]
    absent: tuple[Absent, ...]
    runs: tuple[RunInfo, ...]
    notes: tuple[str, ...]


_RECORDS = {
    "rows": Row,
    "summary": Summary,
    "comparisons": Comparison,
    "rankings": Ranking,
    "sanity": Sanity,
    "curves": Curve,
    "sizes": SizeCurve,
    "databases": Database,
    "absent": Absent,
    "runs": RunInfo,
}


def to_json(tables: Tables) -> str:
    """The tables as JSON; keys as the fields of `Tables` and of its records, numbers in full."""
    return json.dumps(asdict(tables), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Tables:
    """What `to_json` wrote. Raises `InputError` where the text is something else."""
    try:
        tree = json.loads(text)
        for name, record in _RECORDS.items():
            tree[name] = tuple(record(**_tuples(entry)) for entry in tree[name])
        return Tables(**_tuples(tree))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"these are no tables of `evaluate` ({error}); give its tables.json") from None


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}


def to_csv(tables: Tables) -> str:
    """The rows, a line each; points, frame and definition of the chamfer stand in every line."""
    stream = io.StringIO()
    names = [field.name for field in fields(Row)]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*names, "split", "num_points", "frame", "chamfer"])
    for row in tables.rows:
        values = [getattr(row, name) for name in names]
        writer.writerow([*values, tables.split, tables.num_points, tables.frame, tables.chamfer])
    return stream.getvalue()
