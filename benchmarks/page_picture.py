"""The ratios of the page as bars on a logarithmic axis (for page.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from jr_dist.atomic import atomic_write
from jr_dist.evaluate.charts import Axis

SCALE = 2  # drawn so many times larger, then reduced: smooth letters
WIDTH, LEFT, RIGHT = 900, 330, 70
TOP, ROW, GAP, BOTTOM = 46, 19, 9, 34
INK, FAINT, PAPER = "#333333", "#dddddd", "#ffffff"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
#: of the PNG: what it was drawn from
KEY = "drawn"


@dataclass(frozen=True)
class Bar:
    """One ratio."""

    topic: str
    name: str
    ratio: float
    goal: float | None


def digest(bars: Sequence[Bar]) -> str:
    """What is drawn, in short."""
    return hashlib.sha256(repr([astuple(bar) for bar in bars]).encode()).hexdigest()


def drawn_in(path: Path) -> str | None:
    """The digest of what a picture was drawn from."""
    with Image.open(path) as image:
        return image.info.get(KEY)


def draw(path: Path, bars: Sequence[Bar]) -> None:
    """Write the picture: a bar from 1 to each ratio, in its topic's colour, and a stroke at its goal."""
    topics = list(dict.fromkeys(bar.topic for bar in bars))
    height = TOP + BOTTOM + ROW * len(bars) + GAP * len(topics)
    image = Image.new("RGB", (WIDTH * SCALE, height * SCALE), PAPER)
    pen = _Pen(image)
    values = [1.0, *(bar.ratio for bar in bars), *(bar.goal for bar in bars if bar.goal)]
    axis = Axis.around([min(values) / 1.3, max(values) * 1.3], True, LEFT, WIDTH - RIGHT)
    for value in axis.ticks():
        pen.line(axis.place(value), TOP, axis.place(value), height - BOTTOM, FAINT)
        pen.text(axis.place(value), height - BOTTOM + 5, f"{value:g}", "mt")
    y = TOP + GAP / 2
    for number, topic in enumerate(topics):
        for bar in (bar for bar in bars if bar.topic == topic):
            ends = sorted((axis.place(1), axis.place(bar.ratio)))
            pen.box(ends[0], y + 3, ends[1], y + ROW - 3, COLOURS[number % len(COLOURS)])
            pen.text(LEFT - 8, y + ROW / 2, bar.name, "rm")
            goal = axis.place(bar.goal) if bar.goal else 0.0
            pen.text(max(ends[1], goal) + 5, y + ROW / 2, f"{bar.ratio:.3g}", "lm")
            if bar.goal:
                pen.line(goal, y, goal, y + ROW, INK, 3)
            y += ROW
        y += GAP
    pen.line(axis.place(1), TOP, axis.place(1), height - BOTTOM, INK)
    pen.text(12, 9, "How many times faster than each peer, or slower (left of 1); a stroke is a goal", "lt", 15)
    buffer, told = BytesIO(), PngInfo()
    told.add_text(KEY, digest(bars))
    image.resize((WIDTH, height), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True, pnginfo=told)
    atomic_write(path, buffer.getvalue())


class _Pen:
    """Draws in units of the reduced picture."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: str, width: float = 1) -> None:
        self._draw.line([(x0 * SCALE, y0 * SCALE), (x1 * SCALE, y1 * SCALE)], fill=colour, width=round(width * SCALE))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        self._draw.rectangle([x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE], fill=colour)

    def text(self, x: float, y: float, text: str, anchor: str, size: int = 12) -> None:
        font = ImageFont.load_default(size * SCALE)
        self._draw.text((x * SCALE, y * SCALE), text, fill=INK, font=font, anchor=anchor)
