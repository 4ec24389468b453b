"""The model of a step as a picture: curves, and the runs it was fitted on and checked on (for step_measure.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from step_measure import trials
from step_model import Cluster, Observed, Rates, Shape, stages, step_seconds

from jr_dist.atomic import atomic_write
from jr_dist.evaluate.charts import Axis

SCALE = 2  # drawn so many times larger, then reduced: smooth lines
WIDTH, HEIGHT = 400, 330  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 46
INK, GRID, PAPER = "#333333", "#dddddd", "#ffffff"
COLOURS = ("#0072b2", "#d55e00", "#009e73")

Point = tuple[float, float, bool]  # x, y, whether the model was fitted on it


class Panel:
    """One chart with logarithmic axes; units are the caller's."""

    def __init__(self, title: str, x_label: str, y_label: str, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        wide = [min(xs) / 1.15, max(xs) * 1.15]
        self.x = Axis.around(wide, True, LEFT * SCALE, (WIDTH - RIGHT) * SCALE)
        self.y = Axis.around(ys, True, (HEIGHT - BOTTOM) * SCALE, TOP * SCALE, upright=True)
        self._names = 0
        for value in self.y.ticks():
            at = self.y.place(value)
            self._draw.line([(self.x.start, at), (self.x.end, at)], fill=GRID, width=SCALE)
            self._text(self.x.start - 6 * SCALE, at, f"{value:g}", "rm")
        for value in self.x.ticks():
            at = self.x.place(value)
            self._draw.line([(at, self.y.start), (at, self.y.start + 4 * SCALE)], fill=INK, width=SCALE)
            self._text(at, self.y.start + 7 * SCALE, f"{value:g}", "mt")
        self._draw.line([(self.x.start, self.y.start), (self.x.end, self.y.start)], fill=INK, width=SCALE)
        self._text((self.x.start + self.x.end) / 2, (HEIGHT - 6) * SCALE, x_label, "mb", 13)
        self._text(8 * SCALE, 8 * SCALE, f"{title}, {y_label}", "lt", 14)

    def curve(self, x: np.ndarray, y: np.ndarray, colour: str, name: str = "") -> None:
        """A line, and its name in the legend."""
        places = [(self.x.place(a), self.y.place(b)) for a, b in zip(x, y, strict=True)]
        self._draw.line(places, fill=colour, width=2 * SCALE, joint="curve")
        if name:
            at = (TOP + 12 + 17 * self._names) * SCALE
            self._names += 1
            left = (LEFT + 12) * SCALE
            self._draw.line([(left, at), (left + 20 * SCALE, at)], fill=colour, width=2 * SCALE)
            self._text(left + 26 * SCALE, at, name, "lm")

    def points(self, points: Sequence[Point], colour: str) -> None:
        """Full discs where the model was fitted, rings where it was checked."""
        for x, y, fitted in points:
            self._disc(self.x.place(x), self.y.place(y), colour, fitted)

    def key(self) -> None:
        """What discs and rings are."""
        for row, (fitted, name) in enumerate(((True, "fitted on"), (False, "checked on"))):
            x, y = self.x.end - 92 * SCALE, self.y.start - (32 - 17 * row) * SCALE
            self._disc(x, y, INK, fitted)
            self._text(x + 12 * SCALE, y, name, "lm")

    def _disc(self, x: float, y: float, colour: str, full: bool) -> None:
        r = (4.5 if full else 5) * SCALE
        box = (x - r, y - r, x + r, y + r)
        self._draw.ellipse(box, fill=colour if full else PAPER, outline=colour, width=2 * SCALE)

    def _text(self, x: float, y: float, text: str, anchor: str, size: int = 12) -> None:
        self._draw.text((x, y), text, fill=INK, font=ImageFont.load_default(size * SCALE), anchor=anchor)


def draw(path: Path, found: Sequence[Observed], used: Sequence[bool], rates: Rates, cluster: Cluster) -> None:
    """Write three panels: the step against targets, the wait for proposals against sources, all runs as modelled."""
    panels = [
        _along(
            "A step", "targets a worker", found, used, [("1 worker", _of_batches(1)), ("2 workers", _of_batches(2))],
            lambda shape: shape.batch, lambda shape, x: replace(shape, batch=round(x)),
            lambda shape: step_seconds(shape, rates, cluster), lambda each: each.step,
        ),
        _along(
            "Waiting for proposals", "sources, of 512 dimensions", found, used,
            [(f"W {w}, N {n}", _of_sources(w, n)) for w, n in ((1, 1), (2, 1), (2, 2))],
            lambda shape: shape.sources, lambda shape, x: replace(shape, sources=round(x)),
            lambda shape: stages(shape, rates, cluster)["proposals"], lambda each: each.stages["proposals"],
        ),
        _all_runs(found, used, rates, cluster),
    ]  # fmt: skip
    panels[-1].key()
    image = Image.new("RGB", (len(panels) * WIDTH, HEIGHT), PAPER)
    for number, panel in enumerate(panels):
        image.paste(panel.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS), (number * WIDTH, 0))
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    atomic_write(path, buffer.getvalue())


def _of_batches(workers: int) -> Callable[[Shape], bool]:
    base = next(trial.shape for trial in trials())

    def belongs(shape: Shape) -> bool:
        own = replace(base, workers=workers, batch=shape.batch, dense_bytes=shape.dense_bytes)
        return shape == own and shape.dense_bytes < 2_000_000  # not those that have more for their own sake

    return belongs


def _of_sources(workers: int, shards: int) -> Callable[[Shape], bool]:
    def belongs(shape: Shape) -> bool:
        return (shape.workers, shape.shards, shape.embedding, shape.lookahead) == (workers, shards, 512, 0) and (
            shape.global_code == 128
        )

    return belongs


def _along(
    title: str,
    x_label: str,
    found: Sequence[Observed],
    used: Sequence[bool],
    series: Sequence[tuple[str, Callable[[Shape], bool]]],
    x_of: Callable[[Shape], float],
    at: Callable[[Shape, float], Shape],
    modelled: Callable[[Shape], float],
    measured: Callable[[Observed], float],
) -> Panel:
    curves, dots = [], []
    for name, belongs in series:
        own = [(each, use) for each, use in zip(found, used, strict=True) if belongs(each.shape)]
        if not own:
            continue
        points = [(x_of(each.shape), 1e3 * measured(each), use) for each, use in own]
        x = np.unique(np.geomspace(min(point[0] for point in points), max(point[0] for point in points), 60).round())
        y = np.array([1e3 * modelled(at(own[0][0].shape, value)) for value in x])
        curves.append((name, x, y))
        dots.append(points)
    ys = [point[1] for points in dots for point in points] + [float(value) for _, _, y in curves for value in y]
    panel = Panel(title, x_label, "ms", [point[0] for points in dots for point in points], ys)
    for (name, x, y), points, colour in zip(curves, dots, COLOURS, strict=False):
        panel.curve(x, y, colour, name)
        panel.points(points, colour)
    return panel


def _all_runs(found: Sequence[Observed], used: Sequence[bool], rates: Rates, cluster: Cluster) -> Panel:
    model = [1e3 * step_seconds(each.shape, rates, cluster) for each in found]
    steps = [1e3 * each.step for each in found]
    panel = Panel("All runs", "measured, ms a step", "modelled ms a step", steps, [*steps, *model])
    ends = np.array([min(steps), max(steps)])
    panel.curve(ends, ends, INK, "as measured")
    for factor in (0.9, 1.1):
        panel.curve(ends, factor * ends, GRID, "10 % off" if factor > 1 else "")
    for workers, colour in ((1, COLOURS[0]), (2, COLOURS[1])):
        rows = zip(found, steps, model, used, strict=True)
        panel.points([(x, y, use) for each, x, y, use in rows if each.shape.workers == workers], colour)
    return panel
