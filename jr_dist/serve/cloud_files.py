"""Point clouds from files: PLY without faces, text (XYZ, TXT, CSV), NPY and NPZ. Nothing here unpickles."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np

from jr_dist.errors import InputError
from jr_dist.serve.ply_files import has_faces, read_ply_vertices

TEXT_SUFFIXES = (".xyz", ".txt", ".csv", ".pts", ".asc")
CLOUD_SUFFIXES = (*TEXT_SUFFIXES, ".npy", ".npz")  # .ply is a cloud or a mesh: `is_cloud` looks inside
MINIMUM_POINTS = 32

_COMMENTS = ("#", "//", "%")
_HEADER_LINES = 100  # a text file whose first lines hold no point is no cloud
_NO_POINTS = (
    f"has no line of three numbers among its first {_HEADER_LINES}; "
    "a text cloud has x y z on every line, with any further columns after; export it as XYZ or PLY"
)


def read_cloud(path: str | Path) -> np.ndarray:
    """The points of a cloud file, [N, 3] float64 in its own frame: at least 32, finite, not all in one place.

    Raises `InputError` naming the file, the value, what is allowed and the remedy.
    """
    path = Path(path)
    reader = {".ply": read_ply_vertices, ".npy": _read_npy, ".npz": _read_npz}.get(path.suffix.lower(), _read_text)
    try:
        points = reader(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give a readable file") from error
    return checked_points(points, path)


def checked_points(points: np.ndarray, path: Path) -> np.ndarray:
    """`points` ([N, 3], any real type) as float64; `InputError` naming `path` where they can't be matched."""
    points = np.asarray(points, dtype=np.float64)
    if len(points) < MINIMUM_POINTS:
        raise InputError(
            f"{path} holds {len(points)} points; a cloud needs at least {MINIMUM_POINTS}; give a denser scan or a mesh"
        )
    num_bad = len(points) - int(np.isfinite(points).all(axis=1).sum())
    if num_bad:
        raise InputError(
            f"{path} has {num_bad} of {len(points)} points with NaN or infinite coordinates; "
            "all must be finite; remove these points"
        )
    extent = np.ptp(points, axis=0)
    if not extent.max() > 1e-9 * np.abs(points).max():
        raise InputError(
            f"{path} has all its {len(points)} points in one place (extent {extent.max():g}); "
            "a shape needs an extent; check the file's columns and units"
        )
    return points


def is_cloud(path: Path) -> bool:
    """Whether `path` is read as points: by its suffix, and for PLY by having no faces."""
    if path.suffix.lower() != ".ply":
        return path.suffix.lower() in CLOUD_SUFFIXES
    try:
        return not has_faces(path)
    except (OSError, InputError):
        return True  # `read_cloud` then says what is wrong with it


def why_no_text_cloud(path: Path) -> str | None:
    """What is wrong with a text file whose first lines hold no point, a licence or notes perhaps; None of a cloud."""
    try:
        return _NO_POINTS if _text_layout(path) is None else None
    except OSError as error:
        return f"cannot be read ({error.strerror or error}); give a readable file"


# Text


@dataclass(frozen=True)
class _TextLayout:
    """Where the points begin in a text file and how a line of them is cut."""

    skip: int
    delimiter: str | None
    columns: tuple[int, int, int]


def _read_text(path: Path) -> np.ndarray:
    layout = _text_layout(path)
    if layout is None:
        raise InputError(f"{path} {_NO_POINTS}")
    try:
        with _open_text(path) as file:
            return np.loadtxt(
                file,
                delimiter=layout.delimiter,
                skiprows=layout.skip,
                usecols=layout.columns,
                comments=_COMMENTS,
                ndmin=2,
            )
    except ValueError as error:
        raise InputError(
            f"{path} {_first_fault(path, layout) or error}; every line must hold x, y and z as numbers; "
            "mend or remove that line"
        ) from error


def _first_fault(path: Path, layout: _TextLayout) -> str | None:
    """The first line that holds no point and why. numpy counts neither comments nor empty lines, and says no line."""
    needed = max(layout.columns) + 1
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            for mark in _COMMENTS:
                line = line.partition(mark)[0]
            if number <= layout.skip or not line.strip():
                continue
            cells = line.split(layout.delimiter)
            if len(cells) < needed:
                columns = ", ".join(str(column + 1) for column in layout.columns)
                return (
                    f"line {number} has {len(cells)} column{'s' * (len(cells) != 1)}, and {needed} or more are "
                    f"expected (x, y and z are columns {columns})"
                )
            for column in layout.columns:
                if not _is_number(cells[column]):
                    return f"line {number} has {cells[column].strip()!r}, which is no number, in column {column + 1}"
    return None


def _open_text(path: Path):
    # utf-8-sig drops a byte-order mark, which would otherwise hide the first number.
    return open(path, encoding="utf-8-sig", errors="replace")


def _text_layout(path: Path) -> _TextLayout | None:
    """How the points stand in the file; None where its first lines hold none."""
    names: list[str] = []
    with _open_text(path) as file:
        for number, line in enumerate(islice(file, _HEADER_LINES)):
            delimiter = next((mark for mark in (";", ",") if mark in line), None)
            cells = [cell.strip().strip('"').lower() for cell in line.split(delimiter)]
            columns = _columns_of(names, len(cells))
            if not line.lstrip().startswith(_COMMENTS) and _are_numbers(cells, columns):
                return _TextLayout(number, delimiter, columns)
            names = [cell for cell in (cell.lstrip("#/% ") for cell in cells) if cell] or names
    return None


def _columns_of(names: list[str], num_cells: int) -> tuple[int, int, int]:
    """The columns called x, y and z in the heading, else the first three."""
    if len(names) == num_cells and all(names.count(axis) == 1 for axis in "xyz"):
        return names.index("x"), names.index("y"), names.index("z")
    return 0, 1, 2


def _are_numbers(cells: list[str], columns: tuple[int, int, int]) -> bool:
    return max(columns) < len(cells) and all(_is_number(cells[column]) for column in columns)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 1_000, files don't hold it


# Arrays


def _read_npy(path: Path) -> np.ndarray:
    try:
        # Mapped, so that a header that lies about its size is refused before any memory is taken.
        return _as_points(np.lib.format.open_memmap(path, mode="r"), path)
    except (ValueError, EOFError, TypeError, AttributeError, SyntaxError) as error:
        _refuse_array(path, error)


def _read_npz(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            names = archive.files
            name = names[0] if len(names) == 1 else "points"
            if name not in names:
                raise InputError(
                    f"{path} holds {len(names)} arrays ({', '.join(names[:5])}); "
                    "one array, or one called points, is allowed; save the cloud alone"
                )
            return _as_points(archive[name], path)
    except InputError:
        raise
    except (ValueError, EOFError, TypeError, AttributeError, SyntaxError, zipfile.BadZipFile) as error:
        _refuse_array(path, error)


def _refuse_array(path: Path, error: Exception) -> NoReturn:
    if isinstance(error, InputError):
        raise error
    raise InputError(
        f"{path} is no plain array of numbers ({error}); an [N, 3] array of floats is allowed, "
        "objects and pickles are not; save it with numpy.save"
    ) from error


def _as_points(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise InputError(
            f"{path} holds an array of {array.dtype}; floating-point numbers are allowed; save the points as float32"
        )
    if array.ndim != 2 or array.shape[1] < 3:
        raise InputError(
            f"{path} holds an array of shape {array.shape}; [N, 3] (or more columns) is allowed; "
            "reshape or transpose it"
        )
    return np.array(array[:, :3], dtype=np.float64)
