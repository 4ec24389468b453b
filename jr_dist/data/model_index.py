"""`index.csv`: what a folder says about its models (category, up axis, size, how parts are separated,
licence).
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jr_dist.errors import InputError

UP_AXES = ("x", "y", "z", "-x", "-y", "-z")
PART_RULES = ("nodes", "connected_components", "nodes_or_components")
# Told of the source where they are known: the licences ask for it.
_CREDITS = ("name", "licence", "license", "creator", "collection", "url", "source")


@dataclass(frozen=True)
class IndexRow:
    """One model's line; None or empty where the file says nothing."""

    file: str  # as written, relative to the index's folder
    category: str = ""
    up_axis: str | None = None  # one of UP_AXES
    rotation: np.ndarray | None = None  # (3, 3), applied to the file's coordinates; the up axis is meant after it
    size_cm: tuple[float | None, float | None, float | None] = (None, None, None)  # width, depth, height
    parts: str | None = None  # one of PART_RULES
    credits: dict[str, str] = field(default_factory=dict)


def read_index(path: str | Path) -> dict[str, IndexRow]:
    """The rows of an index file by the `file` column, posix separators. Columns other than `file` may be
    missing.

    Raises `InputError` naming line, column and value where one cannot be understood, and for a file named twice.
    """
    path = Path(path)
    rows: dict[str, IndexRow] = {}
    line_of: dict[str, int] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            headings = list(reader.fieldnames or ())
            if "file" not in (heading.strip().lower() for heading in headings):
                raise InputError(
                    f"index {path}, line {max(reader.line_num, 1)}: the heading is {','.join(headings)[:200]!r}; allowed "
                    "are columns separated by commas, one of them 'file'; correct it, or rename a file that is no index"
                )
            for cells in reader:
                number = reader.line_num  # of the row's end: rows may be empty, and cells hold line breaks
                row = _row(f"index {path}, line {number}", headings, cells)
                if row.file in line_of:
                    raise InputError(
                        f"index {path}, line {number}: file is {row.file!r}, as in line {line_of[row.file]}; "
                        "allowed is one line a file; remove one of the two"
                    )
                if row.file:
                    rows[row.file], line_of[row.file] = row, number
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"index {path} cannot be read ({error}); give a CSV file in UTF-8") from error
    return rows


def _row(where: str, headings: list[str], cells: dict) -> IndexRow:
    beyond = cells.get(None, [])  # where DictReader puts what has no heading
    if any(cell.strip() for cell in beyond):
        found = ",".join([*(cells[heading] for heading in headings), *beyond])
        raise InputError(
            f"{where}: {found[:200]!r} has {len(headings) + len(beyond)} cells; allowed are {len(headings)}, one a "
            'heading; write decimals with a point and cells that hold commas in double quotes ("...")'
        )
    values = {
        key.strip().lower(): value.strip()
        for key, value in cells.items()
        if isinstance(key, str) and isinstance(value, str)
    }
    return IndexRow(
        file=Path(values.get("file", "")).as_posix() if values.get("file") else "",
        category=values.get("category", ""),
        up_axis=_choice(where, "up_axis", values.get("up_axis", "").lower().lstrip("+"), UP_AXES),
        rotation=_rotation(where, values.get("rotation", "")),
        size_cm=(
            _length(where, "width_cm", values),
            _length(where, "depth_cm", values),
            _length(where, "height_cm", values),
        ),
        parts=_choice(where, "parts", values.get("parts", ""), PART_RULES),
        credits={key: values[key] for key in _CREDITS if values.get(key)},
    )


def _choice(where: str, column: str, value: str, allowed: tuple[str, ...]) -> str | None:
    if value and value not in allowed:
        raise InputError(f"{where}: {column} is {value!r}; allowed are {', '.join(allowed)} or nothing")
    return value or None


def _length(where: str, column: str, values: dict[str, str]) -> float | None:
    text = values.get(column, "")
    if not text:
        return None
    try:
        length = float(text)
    except ValueError:
        length = math.nan
    if not (math.isfinite(length) and length > 0):
        raise InputError(f"{where}: {column} is {text!r}; allowed is a length in cm above 0 or nothing")
    return length


def _rotation(where: str, text: str) -> np.ndarray | None:
    if not text:
        return None
    try:
        matrix = np.array([float(word) for word in text.replace(",", " ").split()]).reshape(3, 3)
    except ValueError:
        matrix = np.zeros((3, 3))
    if not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3):
        raise InputError(
            f"{where}: rotation is {text!r}; allowed are the 9 numbers of a 3x3 rotation, row by row, or nothing"
        )
    return matrix
