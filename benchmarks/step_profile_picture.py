"""The profile of a step as a picture (for step_profile.py): a stacked bar a run, and one for the bound."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from jr_dist.atomic import atomic_write

if TYPE_CHECKING:
    from step_profile import Row

SCALE = 2  # drawn so many times larger, then reduced
WIDTH, BAR, GAP, LEFT, RIGHT, TOP, KEY = 900, 34, 20, 130, 90, 50, 26
INK, PAPER, REST = "#333333", "#ffffff", "#999999"
#: what is told apart by colour; all else is one piece
COLOURS = {
    "retrieval encoder": ("#0072b2", "#66aad1"),
    "deformation encoder": ("#d55e00", "#e69f66"),
    "queries": ("#cc79a7", "#cc79a7"),
    "deformation network": ("#009e73", "#66c5ab"),
    "search, fitting": ("#e8c000", "#e8c000"),
    "search, symmetry": ("#8c6bb1", "#8c6bb1"),
}


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Write the bars, in ms: of each colour the darker piece is forward, the lighter one backward."""
    names = list(dict.fromkeys(row.name for row in rows))
    bars = {name: [row for row in rows if row.name == name] for name in names}
    height = TOP + (len(bars) + 1) * (BAR + GAP) + 3 * KEY
    image = Image.new("RGB", (WIDTH * SCALE, height * SCALE), PAPER)
    pen = ImageDraw.Draw(image)
    longest = max(sum(row.forward + row.backward for row in own) for own in bars.values())
    scale = (WIDTH - LEFT - RIGHT) / longest

    def text(x: float, y: float, words: str, anchor: str, size: int = 13) -> None:
        font = ImageFont.load_default(size * SCALE)
        pen.text((x * SCALE, y * SCALE), words, fill=INK, font=font, anchor=anchor)

    def bar(y: float, name: str, pieces: Sequence[tuple[str, float]]) -> None:
        x = float(LEFT)
        for colour, value in pieces:
            pen.rectangle([x * SCALE, y * SCALE, (x + value * scale) * SCALE, (y + BAR) * SCALE], fill=colour)
            x += value * scale
        text(LEFT - 10, y + BAR / 2, name, "rm")
        text(x + 8, y + BAR / 2, f"{sum(value for _, value in pieces):.0f} ms", "lm")

    text(LEFT, TOP / 2, f"A joint training step, {rows[-1].device}: darker forward, lighter backward", "lm", 15)
    y = TOP
    for name, own in bars.items():
        known = [row for row in own if row.range in COLOURS]
        pieces = [
            (colour, value)
            for row in known
            for colour, value in zip(COLOURS[row.range], (row.forward, row.backward), strict=True)
        ]
        rest = sum(row.forward + row.backward for row in own if row.range not in COLOURS)
        bar(y, name, [*pieces, (REST, rest)])
        y += BAR + GAP
    last = bars[names[-1]]
    bar(y, "bound", [(COLOURS.get(row.range, (REST, REST))[0], row.bound) for row in last])
    y += BAR + GAP
    for number, (name, colour) in enumerate([*((n, c[0]) for n, c in COLOURS.items()), ("all else", REST)]):
        x, at = LEFT + number % 4 * 185, y + number // 4 * KEY
        pen.rectangle([x * SCALE, at * SCALE, (x + 14) * SCALE, (at + 14) * SCALE], fill=colour)
        text(x + 20, at + 7, name, "lm")
    buffer = BytesIO()
    image.resize((WIDTH, height), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    atomic_write(path, buffer.getvalue())
