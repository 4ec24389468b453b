"""OBJ text prepared for trimesh: each (object, group, material) becomes a section of its own, indices
become absolute.

trimesh can split an OBJ by `o`, `g` and `usemtl`, but joins their names into one string that can't be taken
apart again, and reads relative (negative) indices from the end of the file rather than from the line they
stand on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DIRECTIVE = re.compile(rb"^[ \t]*(o|g|usemtl)(?:[ \t]+([^\r\n]*))?\r?$", re.MULTILINE)
_FACE = re.compile(rb"^[ \t]*f[ \t]", re.MULTILINE)
_RELATIVE = re.compile(rb"^[ \t]*f[ \t][^\r\n]*-", re.MULTILINE)
_CONTINUED = re.compile(rb"\\\r?\n")
_KINDS = {b"v": 0, b"vt": 1, b"vn": 2}


@dataclass(frozen=True)
class ObjSection:
    """Faces that share object, group and material ('' where the file names none)."""

    object: str
    group: str
    material: str


def split_sections(text: bytes) -> tuple[bytes, list[ObjSection]]:
    """Rewrite OBJ `text` so that trimesh's `split_objects` calls the i-th section returned
    `section_name(i)`.
    """
    text = _CONTINUED.sub(b" ", text)
    if _RELATIVE.search(text):
        text = _absolute_indices(text)
    sections: dict[tuple[bytes, ...], int] = {}
    current = {b"o": b"", b"g": b"", b"usemtl": b""}

    def section_line() -> bytes:
        key = (current[b"o"], current[b"g"], current[b"usemtl"])
        index = sections.setdefault(key, len(sections))
        material = b"\nusemtl " + key[2] if key[2] else b""
        return b"o " + section_name(index).encode() + material

    def rewrite(match: re.Match[bytes]) -> bytes:
        current[match[1]] = (match[2] or b"").strip()
        return section_line()

    first = _FACE.search(text)
    head, tail = (text, b"") if first is None else (text[: first.start()], text[first.start() :])
    head = _DIRECTIVE.sub(rewrite, head)
    # Faces before any directive need a section of their own; elsewhere this repeats the line that stands
    # there.
    tail = section_line() + b"\n" + _DIRECTIVE.sub(rewrite, tail)
    named = [ObjSection(*(part.decode("utf-8", "replace") for part in key)) for key in sections]
    return head + tail, named


def section_name(index: int) -> str:
    """The object name that section `index` bears in the rewritten text."""
    return f"SECTION_{index}"


def _absolute_indices(text: bytes) -> bytes:
    """Replace negative indices, which count back from the line they stand on, by positive ones."""
    counts = [0, 0, 0]
    lines = text.splitlines()
    for number, line in enumerate(lines):
        words = line.split()
        if not words:
            continue
        if words[0] in _KINDS:
            counts[_KINDS[words[0]]] += 1
        elif words[0] == b"f" and b"-" in line:
            lines[number] = b"f " + b" ".join(_absolute(word, counts) for word in words[1:])
    return b"\n".join(lines)


def _absolute(corner: bytes, counts: list[int]) -> bytes:
    numbers = corner.split(b"/")
    return b"/".join(
        b"%d" % (int(number) + 1 + counts[kind]) if number.startswith(b"-") else number
        for kind, number in enumerate(numbers[:3])
    )
