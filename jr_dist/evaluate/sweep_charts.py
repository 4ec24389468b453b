"""A sweep as inline SVG: chamfer against each setting with intervals, and all settings as parallel coordinates.

The paper's value is marked on every axis of a setting that the paper names, also where it was not searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from jr_dist.evaluate.charts import BOTTOM, HEIGHT, KEY_HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, axes, labels, shown
from jr_dist.evaluate.intervals import Interval
from jr_dist.evaluate.sweep_table import PAPER, SweepTable, bins, epochs_of, number, short_name
from jr_dist.train.sweep_space import Choice, Domain
from jr_dist.train.trials import Trial

#: pixels from the frame to the first and the last value of a setting
_AIR = 26
_WIDE, _TALL = 1080, 380  # of the parallel coordinates
#: whole numbers that differ by this factor or more stand by their logarithms
_LOG_FROM = 8


@dataclass(frozen=True)
class _Scale:
    """Where the values of a setting stand along an axis, from 0 to 1, and which are labelled."""

    share: Callable[[Any], float]
    ticks: tuple[Any, ...]


def setting_chart(table: SweepTable, name: str) -> str:
    """The least chamfer of each trial against its value of a setting, and the mean of each bin with its interval."""
    trials = [trial for trial in table.trials if trial.chamfer_x100 is not None]
    if not trials:
        return ""
    found = [(each, each.reached) for each in bins(table, name) if each.reached is not None]
    heights = [trial.chamfer_x100 or 0.0 for trial in trials]
    heights += [value for each in table.finalists for value in each.chamfers_x100]
    heights += [end for _, interval in found for end in (interval.low, interval.high) if end is not None]
    y_axis = Axis.around(heights, max(heights) > 4 * min(heights), HEIGHT - BOTTOM, TOP + 14, upright=True)
    scale = _scale(name, table.space[name])

    def across(value: Any) -> float:
        return LEFT + _AIR + scale.share(value) * (WIDTH - RIGHT - LEFT - 2 * _AIR)

    parts = axes(None, y_axis)
    parts += [_tick(across(value), number(value)) for value in scale.ticks]
    parts += labels(name, "validation chamfer ×100")
    parts += _papers_line(name, across)
    for each, interval in found:
        left, right = across(each.low), across(each.high)
        left, right = (left - 12, right + 12) if right == left else (left + 2, right - 2)
        parts.append(_band(each.label, left, right, interval, each.num_stopped, y_axis))
    for trial in trials:
        parts.append(_dot(trial, table, across(trial.values[name]) + _aside(trial, table, name), y_axis.place))
    for rank, each in enumerate(table.finalists):
        x = across(each.trial.values[name]) + _aside(each.trial, table, name)
        parts.append(_seeds(each.chamfers_x100, x, y_axis.place, winner=rank == 0, name=each.trial.name))
    return _svg(WIDTH, HEIGHT + 2 * KEY_HEIGHT, f"chamfer against {name}", [*parts, *_legend(HEIGHT + 10)])


def parallel_chart(table: SweepTable) -> str:
    """Each trial a line over all settings to its chamfer; the darker, the better; early stops are dashed."""
    winner = table.best.trial.name
    trials = [trial for trial in table.trials if trial.chamfer_x100 is not None]
    trials.sort(key=lambda trial: (trial.name == winner, -(trial.chamfer_x100 or 0.0)))  # the last lies on top
    if not trials:
        return ""
    values = [trial.chamfer_x100 or 0.0 for trial in trials]
    top, bottom, right = 44, _TALL - 40, _WIDE - 90
    # Up is worse in the other charts, and here as well.
    last = Axis.around(values, max(values) > 4 * min(values), bottom, top, upright=True)
    names = list(table.space)
    columns = [70 + place * (right - 70) / len(names) for place in range(len(names))]
    scales = [_scale(name, table.space[name]) for name in names]

    def up(share: float) -> float:
        return bottom - 12 - share * (bottom - top - 24)

    parts = []
    for rank, trial in enumerate(trials):
        points = [(x, up(scale.share(trial.values[name]))) for x, scale, name in zip(columns, scales, names)]
        points.append((right, last.place(trial.chamfer_x100 or 0.0)))
        better = (rank + 1) / len(trials)
        dash = ";stroke-dasharray:4 4" * (trial.state == "stopped")
        colour, width = (2, 2.5) if trial.name == winner else (7, 1.3)
        style = f"stroke:var(--line-{colour});stroke-width:{width}"
        style += f";opacity:{0.25 + 0.75 * better:.2f}{dash}"
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<g class="series"><title>{escape(_told(trial, table))}</title><path class="reach" d="M{path}"/>'
            f'<polyline points="{path}" style="{style}"/></g>'
        )
    for x, scale, name in zip(columns, scales, names):
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="label" x="{x:.1f}" y="20" text-anchor="middle">{escape(short_name(name))}</text>')
        for value in scale.ticks:
            y, text = up(scale.share(value)) + 4, escape(number(value))
            parts.append(f'<text class="on" x="{x - 6:.1f}" y="{y:.1f}" text-anchor="end">{text}</text>')
        if name in PAPER:
            y = up(scale.share(PAPER[name]))
            parts.append(
                f'<g class="paper" data-setting="{escape(name)}"><path d="M{x:.1f},{y - 6:.1f} l6,6 l-6,6 l-6,-6 z"/>'
                f'<text class="on" x="{x + 9:.1f}" y="{y - 5:.1f}">paper {escape(number(PAPER[name]))}</text></g>'
            )
    parts.append(f'<line class="axis" x1="{right}" x2="{right}" y1="{top}" y2="{bottom}"/>')
    parts.append(f'<text class="label" x="{right}" y="20" text-anchor="middle">chamfer ×100</text>')
    parts += [f'<text x="{right + 8}" y="{last.place(value) + 4:.1f}">{shown(value)}</text>' for value in last.ticks()]
    keys = [("the winner", 2, ""), ("a trial; stronger = better", 7, ""), ("stopped early", 7, "4 4")]
    for place, (text, colour, dash) in enumerate(keys):
        x, y = 70 + 220 * place, _TALL - 8
        style = f"stroke:var(--line-{colour});stroke-dasharray:{dash or 'none'}"
        parts.append(f'<line class="key" x1="{x}" x2="{x + 24}" y1="{y - 4}" y2="{y - 4}" style="{style}"/>')
        parts.append(f'<text x="{x + 30}" y="{y}">{text}</text>')
    return _svg(_WIDE, _TALL, "all settings of each trial", parts)


def _scale(name: str, domain: Domain) -> _Scale:
    """The values of a setting, and the paper's, wherever that is."""
    papers = [PAPER[name]] if name in PAPER else []
    values = list(domain.values) if isinstance(domain, Choice) else [domain.low, domain.high]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (*values, *papers)):
        known = [repr(value) for value in values]
        values += [value for value in papers if repr(value) not in known]
        places = {repr(value): (place + 0.5) / len(values) for place, value in enumerate(values)}
        return _Scale(lambda value: places[repr(tuple(value) if isinstance(value, list) else value)], tuple(values))
    low, high = min(*values, *papers), max(*values, *papers)
    log = low > 0 and (high >= _LOG_FROM * low if isinstance(domain, Choice) else domain.log)
    axis = Axis(low, high, log, 0.0, 1.0)
    ticks = values if isinstance(domain, Choice) else [tick for tick in axis.ticks() if low <= tick <= high]
    return _Scale(axis.place, tuple(ticks))


def _papers_line(name: str, across: Callable[[Any], float]) -> list[str]:
    if name not in PAPER:
        return []
    x = across(PAPER[name])
    anchor, shift = ("end", -5) if x > (LEFT + WIDTH) / 2 else ("start", 5)
    return [
        f'<g class="paper" data-setting="{escape(name)}"><line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" '
        f'y2="{HEIGHT - BOTTOM}"/><text x="{x + shift:.1f}" y="{TOP + 6}" text-anchor="{anchor}">'
        f"paper {escape(number(PAPER[name]))}</text></g>"
    ]


def _tick(x: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(text)}</text>'


def _band(label: str, left: float, right: float, interval: Interval, num_stopped: int, y_axis: Axis) -> str:
    """The mean of a bin as a line, its interval as a field; a bin of few trials has none."""
    y = y_axis.place(interval.mean)
    field, told = "", "too few for an interval"
    if interval.low is not None and interval.high is not None:
        low, high = y_axis.place(interval.low), y_axis.place(interval.high)
        field = f'<rect x="{left:.1f}" y="{high:.1f}" width="{right - left:.1f}" height="{max(low - high, 1):.1f}"/>'
        told = f"95 % interval {interval.low:.3f} to {interval.high:.3f}"
    text = f"{label}: mean of {interval.n} trials {interval.mean:.3f}, {told}, {num_stopped} of them stopped early"
    line = f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'<g class="band"><title>{escape(text)}</title>{field}{line}</g>'


def _dot(trial: Trial, table: SweepTable, x: float, place: Callable[[float], float]) -> str:
    kind = "stopped" if trial.state == "stopped" else "complete"
    return (
        f'<circle class="trial {kind}" cx="{x:.1f}" cy="{place(trial.chamfer_x100 or 0.0):.1f}" r="4">'
        f"<title>{escape(_told(trial, table))}</title></circle>"
    )


def _seeds(chamfers: Sequence[float], x: float, place: Callable[[float], float], *, winner: bool, name: str) -> str:
    """From the least to the largest chamfer over the seeds of a finalist, and their mean."""
    mean = sum(chamfers) / len(chamfers)
    low, high = place(min(chamfers)), place(max(chamfers))
    told = f"trial {name}: mean {mean:.4f} of {len(chamfers)} seeds, {min(chamfers):.4f} to {max(chamfers):.4f}"
    return (
        f'<g class="seeds{" winner" if winner else ""}"><title>{escape(told)}</title>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        f'<line x1="{x - 6:.1f}" x2="{x + 6:.1f}" y1="{place(mean):.1f}" y2="{place(mean):.1f}"/></g>'
    )


def _aside(trial: Trial, table: SweepTable, name: str) -> float:
    """Pixels by which trials of one choice stand beside one another."""
    if not isinstance(table.space[name], Choice):
        return 0.0
    alike = [each.name for each in table.trials if each.values[name] == trial.values[name]]
    return 0.0 if len(alike) < 2 else 20 * (alike.index(trial.name) / (len(alike) - 1) - 0.5)


def _told(trial: Trial, table: SweepTable) -> str:
    values = ", ".join(f"{short_name(name)} {number(trial.values[name])}" for name in table.space)
    how = f"stopped by ASHA at epoch {epochs_of(trial):g}" if trial.state == "stopped" else trial.state
    return f"trial {trial.name}: {trial.chamfer_x100:.4f}, {how}; {values}"


def _legend(y: float) -> list[str]:
    x, right = LEFT, LEFT + 225
    entries = [
        (f'<circle class="trial complete" cx="{x + 12}" cy="{y - 4}" r="4"/>', x, y, "a trial, to its end"),
        (
            f'<circle class="trial stopped" cx="{right + 12}" cy="{y - 4}" r="4"/>',
            right,
            y,
            "stopped by ASHA before it",
        ),
    ]
    y += KEY_HEIGHT
    entries += [
        (
            f'<g class="band"><rect x="{x}" y="{y - 9}" width="24" height="10"/>'
            f'<line x1="{x}" x2="{x + 24}" y1="{y - 4}" y2="{y - 4}"/></g>',
            *(x, y, "mean of a bin, 95 % interval"),
        ),
        (
            f'<g class="seeds"><line x1="{right + 12}" x2="{right + 12}" y1="{y - 10}" y2="{y + 2}"/>'
            f'<line x1="{right + 6}" x2="{right + 18}" y1="{y - 4}" y2="{y - 4}"/></g>',
            *(right, y, "repeated: mean, least, largest"),
        ),
    ]
    return [f'{mark}<text x="{left + 30}" y="{height}">{text}</text>' for mark, left, height, text in entries]


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    frame = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}"'
    return f'<svg class="chart" {frame}>{"".join(parts)}</svg>'
