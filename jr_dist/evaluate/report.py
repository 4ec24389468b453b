"""One HTML file that shows an evaluation: tables, differences, curves, pictures, settings. It loads nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jr_dist.evaluate import markdown
from jr_dist.evaluate.charts import Line, interval_bar, line_chart
from jr_dist.evaluate.gallery import Item
from jr_dist.evaluate.methods import DF, OURS, PAPERS_LETTER, R_DF, UNIFORM
from jr_dist.evaluate.runs import LoadedRun
from jr_dist.evaluate.tables import ALL, Comparison, Ranking, Sanity, Tables

# (part and key of metrics.jsonl, title, label of the axis, logarithmic): drawn where the runs logged them.
_TRAINING = (
    ("val", "chamfer_x100", "Validation: chamfer after retrieval and deformation", "chamfer ×100", False),
    ("train", "fit", "Training: fitting loss of the candidates", "L_fit", True),
    ("train", "loss_embedding", "Training: retrieval loss (Eq. 2)", "L_emb", False),
    ("train", "effective_candidates", "Effective sources of P_R, exp(entropy)", "sources", True),
    ("train", "effective_fit", "Effective candidates of p_fit, exp(entropy)", "candidates", False),
    ("train", "distinct_recent", "Distinct sources retrieved lately", "sources", False),
)
MOST_POINTS = 200  # of a curve

_Row = TypeVar("_Row", Ranking, Sanity)


@dataclass(frozen=True)
class Chart:
    """A titled SVG."""

    title: str
    svg: Markup


def to_html(tables: Tables, items: Sequence[Item], charts: Sequence[Chart]) -> str:
    """The page. Everything is inline: styles, SVG, PNG as data URIs."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": markdown.number,
        "signed": markdown.signed,
        "interval": markdown.interval,
        "difference_interval": markdown.difference_interval,
        "seeds_text": markdown.seeds_text,
        "yaml": _yaml,
        "code_spans": _code_spans,
        "interval_bar": _interval_bar,
        "leading": _leading,
        "others": lambda rows: [row for row in rows if row not in _leading(rows)],
    }
    return environment.get_template("template.html.j2").render(
        tables=tables,
        name=PurePath(tables.dataset).name or tables.dataset,
        grids=markdown.grids(tables),
        statement=markdown.statement(tables),
        headline=headline(tables),
        reach=max((abs(end) for row in tables.comparisons for end in _ends(row)), default=1.0),
        items=items,
        charts=[*_best_of_chart(tables), *charts],
    )


def headline(tables: Tables) -> str:
    """What the tables say first: the best method under top-1, over all targets."""
    rows = [row for row in tables.summary if row.retrieval == "top-1" and row.category == "all"]
    if not rows:
        return ""
    best = min(rows, key=lambda row: row.chamfer_x100)
    shown = f"{markdown.number(best.chamfer_x100)} {markdown.interval(best)}".strip()
    return f"With one retrieved source, {best.method} fits best: chamfer ×100 {shown} over {best.n} targets"


def _best_of_chart(tables: Tables) -> list[Chart]:
    lines = [
        Line(curve.method, range(1, len(curve.chamfer_x100) + 1), curve.chamfer_x100, _colour(curve.method))
        for curve in tables.curves
    ]
    svg = line_chart(lines, x_label="k, sources deformed (best kept)", y_label="chamfer ×100", log_x=True)
    return [Chart("Chamfer of the best of the first k retrieved", Markup(svg))] if svg else []


def training_charts(runs: Sequence[LoadedRun]) -> list[Chart]:
    """Curves from the runs' metrics.jsonl, a chart for each quantity that any of them logged."""
    logged = [(run.name, read_metrics(Path(run.path) / "metrics.jsonl")) for run in runs]
    charts = []
    for part, key, title, label, log_y in _TRAINING:
        lines = [Line(name, *_series(entries, part, key), _colour(name)) for name, entries in logged]
        if svg := line_chart(lines, x_label="step", y_label=label, log_y=log_y):
            charts.append(Chart(title, Markup(svg)))
    return charts


def read_metrics(path: Path) -> list[Mapping[str, Any]]:
    """The lines of a metrics.jsonl; none where the file is absent. A line cut short by a crash is skipped."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def _colour(method: str) -> int:
    """A method's colour, the same in every chart; DF lends its own to R+DF."""
    order = (OURS, UNIFORM, DF, PAPERS_LETTER)
    name = DF if method == R_DF else method
    return order.index(name) if name in order else len(order)


def _series(entries: Sequence[Mapping[str, Any]], part: str, key: str) -> tuple[list[float], list[float]]:
    """(steps, values) thinned to `MOST_POINTS` means of neighbouring entries."""
    found = [
        (float(entry["step"]), float(entry[key]))
        for entry in entries
        if entry.get("part") == part and isinstance(entry.get(key), int | float) and "step" in entry
    ]
    size = -(-len(found) // MOST_POINTS)
    groups = [found[i : i + size] for i in range(0, len(found), size)] if found else []
    means = [tuple(sum(values) / len(values) for values in zip(*group, strict=True)) for group in groups]
    return [step for step, _ in means], [value for _, value in means]


def _yaml(settings: Mapping[str, Any]) -> str:
    tree: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        section, _, key = name.partition(".")
        tree.setdefault(section, {})[key] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _leading(rows: Sequence[_Row]) -> list[_Row]:
    """The rows over all categories, and those of a method and seed that has none."""
    whole = {(row.method, row.seed) for row in rows if row.category == ALL}
    return [row for row in rows if row.category == ALL or (row.method, row.seed) not in whole]


def _ends(row: Comparison) -> tuple[float, ...]:
    return tuple(end for end in (row.difference_x100, row.low, row.high) if end is not None)


def _interval_bar(row: Comparison, reach: float) -> Markup:
    return Markup(interval_bar(row.difference_x100, row.low, row.high, reach))


def _code_spans(text: str) -> Markup:
    """Text with `code` between backquotes, the rest escaped."""
    pieces = text.split("`")
    return Markup().join(
        Markup("<code>{}</code>").format(piece) if i % 2 else Markup("{}").format(piece)
        for i, piece in enumerate(pieces)
    )
