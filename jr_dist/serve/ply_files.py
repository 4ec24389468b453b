"""The vertices of a PLY file, read by its header alone: a scan with or without faces, of any program."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from jr_dist.errors import InputError

_PLY_HEADER_BYTES = 1 << 20
_PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}


@dataclass(frozen=True)
class _PlyElement:
    name: str
    count: int
    properties: tuple[tuple[str, str], ...]  # (name, numpy type), type "list" for a list

    def dtype(self, order: str) -> np.dtype:
        return np.dtype([(name, order + kind) for name, kind in self.properties])


@dataclass(frozen=True)
class _PlyHeader:
    format: str
    elements: tuple[_PlyElement, ...]


def has_faces(path: Path) -> bool:
    """Whether the header of a PLY announces faces; `InputError` where it is no PLY."""
    with open(path, "rb") as file:
        header = _ply_header(file, path)
    return any(element.name == "face" and element.count > 0 for element in header.elements)


def read_ply_vertices(path: Path) -> np.ndarray:
    """The vertices of a PLY file, [N, 3] float64; ascii or binary, of either byte order.

    Raises `InputError` for a file that is no PLY, is cut short, or has no x, y and z.
    """
    with open(path, "rb") as file:
        header = _ply_header(file, path)
        position = next((i for i, element in enumerate(header.elements) if element.name == "vertex"), None)
        if position is None:
            _refuse_ply(path, "has no vertex element")
        before, vertex = header.elements[:position], header.elements[position]
        names = [name for name, _ in vertex.properties]
        if any(axis not in names for axis in "xyz") or len(set(names)) != len(names):
            _refuse_ply(path, f"has vertex properties {', '.join(names[:8])} which are not x, y and z, each once")
        if any(kind == "list" for element in (*before, vertex) for _, kind in element.properties):
            _refuse_ply(path, "has lists before or among its vertices")
        if header.format == "ascii":
            return _ascii_vertices(file, path, sum(element.count for element in before), vertex)
        order = "<" if header.format == "binary_little_endian" else ">"
        file.seek(sum(element.count * element.dtype(order).itemsize for element in before), 1)
        return _binary_vertices(file, path, vertex, order)


def _refuse_ply(path: Path, what: str) -> NoReturn:
    raise InputError(
        f"{path} {what}; a PLY cloud has a vertex element with x, y and z, ascii or binary; "
        "write it again from its program"
    )


def _ply_header(file: BinaryIO, path: Path) -> _PlyHeader:
    """Read up to and including `end_header`; `file` stands at the first byte of the data."""
    if file.readline(16).strip() != b"ply":
        _refuse_ply(path, "does not begin with 'ply'")
    layout, elements = "", []
    while file.tell() < _PLY_HEADER_BYTES:
        line = file.readline(4096)
        words = line.decode("ascii", "replace").split()
        if not line:
            break
        if words == ["end_header"]:
            if layout not in ("ascii", "binary_little_endian", "binary_big_endian"):
                _refuse_ply(path, f"has the format {layout or '(none)'}")
            return _PlyHeader(layout, tuple(_PlyElement(n, c, tuple(p)) for n, c, p in elements))
        try:
            _ply_line(words, elements)
        except (KeyError, IndexError, ValueError):
            _refuse_ply(path, f"has the header line {' '.join(words)[:80]!r}")
        if words[:1] == ["format"]:
            layout = words[1] if len(words) > 1 else ""
    _refuse_ply(path, "ends inside its header")


def _ply_line(words: list[str], elements: list[tuple[str, int, list[tuple[str, str]]]]) -> None:
    if words[:1] == ["element"]:
        count = int(words[2])
        if count < 0:
            raise ValueError(count)
        elements.append((words[1], count, []))
    elif words[:2] == ["property", "list"]:
        elements[-1][2].append((words[4], "list"))
    elif words[:1] == ["property"]:
        elements[-1][2].append((words[2], _PLY_TYPES[words[1]]))


def _ascii_vertices(file: BinaryIO, path: Path, skip: int, vertex: _PlyElement) -> np.ndarray:
    names = [name for name, _ in vertex.properties]
    lines = [line.decode("ascii", "replace") for line in islice(file, skip, skip + vertex.count)]
    if len(lines) != vertex.count:
        _refuse_ply(path, f"is cut short: {len(lines)} of {vertex.count} vertices")
    if not lines:
        return np.zeros((0, 3))
    try:
        points = np.loadtxt(lines, usecols=[names.index(axis) for axis in "xyz"], ndmin=2)
    except ValueError as error:
        _refuse_ply(path, f"has a vertex line that is not numbers ({error})")
    if len(points) != vertex.count:
        _refuse_ply(path, f"has {vertex.count - len(points)} empty vertex lines")
    return points


def _binary_vertices(file: BinaryIO, path: Path, vertex: _PlyElement, order: str) -> np.ndarray:
    dtype = vertex.dtype(order)
    # Compared before anything is read: a header that lies about its count must not take memory.
    present = (path.stat().st_size - file.tell()) // dtype.itemsize
    if present < vertex.count:
        _refuse_ply(path, f"is cut short: {max(present, 0)} of {vertex.count} vertices")
    data = np.frombuffer(file.read(vertex.count * dtype.itemsize), dtype=dtype)
    return np.stack([data[axis].astype(np.float64) for axis in "xyz"], axis=1)
