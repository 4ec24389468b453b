"""Line charts as inline SVG: no script, no font to load, colours from the page so that light and dark both work.

Lines of one name, the seeds of a method, are one series: a group that holds its entry of the legend too, so that the
page's style can bring a whole series forward when a person points at any of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 44
NUM_COLOURS = 12
KEY_HEIGHT = 18  # of an entry of the legend


@dataclass(frozen=True)
class Line:
    """One curve; lines of one name share an entry of the legend."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: int = 0  # of --line-0 ... in the page's style
    dash: str = ""  # as of stroke-dasharray; "": a whole line


def line_chart(lines: Sequence[Line], *, x_label: str, y_label: str, log_x: bool = False, log_y: bool = False) -> str:
    """The lines as one SVG element, with axes, ticks and a legend below. Points that are not finite are left out."""
    curves = [(line, _finite(line, log_x, log_y)) for line in lines]
    curves = [(line, points) for line, points in curves if points]
    if not curves:
        return ""
    x_axis = Axis.around([x for _, points in curves for x, _ in points], log_x, LEFT, WIDTH - RIGHT)
    y_axis = Axis.around([y for _, points in curves for _, y in points], log_y, HEIGHT - BOTTOM, TOP, upright=True)
    parts = [*axes(x_axis, y_axis), *labels(x_label, y_label)]
    series: dict[str, list[tuple[Line, str]]] = {}
    for line, points in curves:
        path = " ".join(f"{x_axis.place(x):.1f},{y_axis.place(y):.1f}" for x, y in points)
        series.setdefault(line.name, []).append((line, path))
    parts += [_series(i, own) for i, own in enumerate(series.values())]
    height = HEIGHT + KEY_HEIGHT * -(-len(series) // 2)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(y_label)} against '
        f'{escape(x_label)}">{"".join(parts)}</svg>'
    )


def _series(index: int, lines: Sequence[tuple[Line, str]]) -> str:
    """The lines of one name, thin where there are several, and their entry of the legend."""
    first = lines[0][0]
    style = f"stroke:var(--line-{first.colour % NUM_COLOURS})" + f";stroke-dasharray:{first.dash}" * bool(first.dash)
    parts = []
    for _, path in lines:
        if " " in path:
            # The broad line is unseen: it is what a pointer finds.
            parts.append(f'<path class="reach" d="M{path}"/><polyline points="{path}" style="{style}"/>')
        else:
            x, y = path.split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" style="fill:var(--line-{first.colour % NUM_COLOURS})"/>')
    x, y = LEFT + (index % 2) * 225, HEIGHT + 10 + KEY_HEIGHT * (index // 2)
    parts.append(f'<line class="key" x1="{x}" x2="{x + 24}" y1="{y - 4}" y2="{y - 4}" style="{style}"/>')
    parts.append(f'<text x="{x + 30}" y="{y}">{escape(first.name)}</text>')
    several = " several" if len(lines) > 1 else ""
    return f'<g class="series{several}"><title>{escape(first.name)}</title>{"".join(parts)}</g>'


@dataclass(frozen=True)
class Axis:
    """Values to pixels."""

    low: float
    high: float
    log: bool
    start: float  # pixel of low
    end: float  # pixel of high

    @staticmethod
    def around(values: Sequence[float], log: bool, start: float, end: float, upright: bool = False) -> Axis:
        """An axis that holds the values; an upright one leaves some air above and below them."""
        low, high = min(values), max(values)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - abs(low) * 0.1 - 0.1, high + abs(high) * 0.1 + 0.1)
        elif upright and log:
            low, high = low / (high / low) ** 0.04, high * (high / low) ** 0.04
        elif upright:
            margin = 0.04 * (high - low)
            low, high = (0.0 if 0 <= low < margin else low - margin), high + margin
        return Axis(low, high, log, start, end)

    def place(self, value: float) -> float:
        """The pixel of a value."""
        scale = math.log if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """The values that are labelled."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            marks = [m * 10.0**e for e in decades for m in (1, 2, 5)]
            inside = [mark for mark in marks if self.low * 0.999 <= mark <= self.high * 1.001]
            if len(inside) >= 3:
                return inside
        # Even steps; on a logarithmic axis too where it spans too little for the marks above.
        rough = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough)
        first = math.ceil(self.low / step)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axes(x_axis: Axis | None, y_axis: Axis) -> list[str]:
    """The horizontal lines of a chart and its numbers; without an axis of numbers below, None, those of the left."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in y_axis.ticks():
        y = y_axis.place(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{shown(value)}</text>')
    for value, x in [] if x_axis is None else [(tick, x_axis.place(tick)) for tick in x_axis.ticks()]:
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{shown(value)}</text>')
    return [*parts, f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>']


def labels(x_label: str, y_label: str) -> list[str]:
    """The names of the axes."""
    centre, middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="translate(13 {middle}) rotate(-90)"'
    return [
        f'<text class="label" x="{centre}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text class="label" {turned} text-anchor="middle">{escape(y_label)}</text>',
    ]


def _finite(line: Line, log_x: bool, log_y: bool) -> list[tuple[float, float]]:
    points = zip(line.xs, line.ys, strict=True)
    return [
        (x, y)
        for x, y in points
        if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x) and (y > 0 or not log_y)
    ]


def shown(value: float) -> str:
    """A tick's number."""
    return f"{value:g}" if abs(value) < 10000 else f"{value / 1000:g}k"


def interval_bar(mean: float, low: float | None, high: float | None, reach: float) -> str:
    """A difference and its interval around the zero line, as a small SVG; half its width stands for `reach`.

    What lies beyond is cut off, and an arrow stands where the dot would be.
    """

    def place(value: float) -> float:
        return 80 + 76 * max(-1.0, min(1.0, value / reach)) if reach > 0 else 80.0

    bar = ""
    if low is not None and high is not None:
        side = "better" if high < 0 else "worse" if low > 0 else "open"
        bar = f'<line class="{side}" x1="{place(low):.1f}" x2="{place(high):.1f}" y1="9" y2="9"/>'
    zero = '<line class="zero" x1="80" x2="80" y1="0" y2="18"/>'
    mark = f'<circle cx="{place(mean):.1f}" cy="9" r="2.8"/>'
    if abs(mean) > reach:
        tip, back = (1, 8) if mean < 0 else (159, 152)
        mark = f'<polygon points="{tip},9 {back},4 {back},14"/>'
    return f'<svg class="bar" viewBox="0 0 160 18" aria-hidden="true">{zero}{bar}{mark}</svg>'
