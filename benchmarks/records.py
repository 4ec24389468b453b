"""Records of the benchmarks as CSV: a row a record, with what it was measured on, by which command, at which commit.

page.py makes docs/benchmarks.md of these files. Nothing here needs more than Python.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from goals import goal_of

from jr_dist.atomic import atomic_write

ROOT = Path(__file__).resolve().parent.parent
#: what of the clone decides what is measured: results and documents may change while benchmarks run
CODE = ("jr_dist", "benchmarks", "configs", "constraints.txt", "pyproject.toml")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Record:
    """One measurement; `ratio` is how many times faster (or smaller) than `peer`."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    ratio: float | None = None
    low: float | None = None  # least and most of the ratio over the rounds; of the value where there is no ratio
    high: float | None = None
    rounds: int | None = None
    limit: float | None = None  # in `unit`: what nothing that computes this can surpass on this machine
    limit_is: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where a record comes from."""

    commit: str  # "unknown" outside a clone
    dirty: bool  # whether the code differed from that commit
    hardware: str
    date: str  # UTC
    command: str


@dataclass(frozen=True)
class Row:
    """A line of a CSV file."""

    record: Record
    origin: Origin


COLUMNS = (*(field.name for field in fields(Record)), "goal", *(field.name for field in fields(Origin)))
_PLACES = ("--csv", "--json", "--clone")
_TEXTS = {"name", "unit", "peer", "limit_is", "commit", "hardware", "date", "command"}


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, in its order."""
    with open(path, newline="", encoding="utf-8") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, str]) -> Row:
    values: dict[str, Any] = {}
    for column in (field.name for part in (Record, Origin) for field in fields(part)):
        text = line[column]
        if column == "dirty":
            values[column] = text == "yes"
        elif column in _TEXTS:
            values[column] = text or None
        else:
            values[column] = None if not text else int(text) if column == "rounds" else float(text)
    values["unit"] = values["unit"] or ""
    record, origin = ({field.name: values[field.name] for field in fields(part)} for part in (Record, Origin))
    return Row(Record(**record), Origin(**origin))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Put rows into a file, as a whole or not at all: in the place of those of the same names, new ones at its end."""
    found = {row.record.name: row for row in read_rows(path)} if path.is_file() else {}
    found.update({row.record.name: row for row in rows})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in found.values():
        goal = goal_of(row.record.name)
        values = {**asdict(row.record), "goal": goal and goal.text, **asdict(row.origin)}
        writer.writerow([_cell(values[column]) for column in COLUMNS])
    atomic_write(path, text.getvalue())


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def origin(threads: int, commit: str, dirty: bool) -> Origin:
    """Of what this process measured of code that was at `commit` when it began (`commit_of`)."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    return Origin(commit, dirty, hardware(threads), now, command(sys.argv))


def commit_of(clone: Path) -> tuple[str, bool]:
    """(commit, whether its code was changed since); ("unknown", True) where `clone` is no clone."""
    try:
        top = _git(clone, "rev-parse", "--show-toplevel")
        if not top or Path(top).resolve() != clone.resolve():
            return UNKNOWN, True
        return _git(clone, "rev-parse", "--short=12", "HEAD"), bool(_git(clone, "status", "--porcelain", "--", *CODE))
    except (OSError, subprocess.CalledProcessError):  # no git, no clone, no commit yet
        return UNKNOWN, True


def _git(clone: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(clone), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def hardware(threads: int) -> str:
    """Processor, cores, threads used, memory, GPU if there is one, and the versions that decide speed."""
    cores = f"{os.cpu_count()} cores, {threads} thread{'s' * (threads != 1)} used"
    parts = [_processor(), cores, f"{_memory_gib():.0f} GiB", *_gpus(), f"Python {platform.python_version()}"]
    return ", ".join([*parts, *(f"{name} {_version(name)}" for name in ("torch", "numba", "ray"))])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join((named or [platform.processor() or platform.machine()])[0].split())


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _gpus() -> list[str]:
    torch: Any = sys.modules.get("torch")  # what needs a GPU has imported it
    return [torch.cuda.get_device_name()] if torch and torch.cuda.is_available() else []


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def command(words: Sequence[str]) -> str:
    """The command line from the clone's root, without where its results go and where another clone lies."""
    kept, left = [], iter(words[1:])
    for word in left:
        if word in _PLACES:
            next(left, None)
        elif not word.startswith(tuple(f"{place}=" for place in _PLACES)):
            kept.append(word)
    return " ".join(["python", f"benchmarks/{Path(words[0]).name}", *kept])
