"""One HTML file that shows an evaluation: tables, differences, curves, shapes to turn, settings. It loads nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jr_dist.evaluate import grids, markdown
from jr_dist.evaluate.charts import Line, interval_bar, line_chart
from jr_dist.evaluate.gallery import Item
from jr_dist.evaluate.methods import CHECKED, FIT_AWARE, FULL, LETTER, ORDER, has_ido, with_df, with_ido
from jr_dist.evaluate.runs import LoadedRun
from jr_dist.evaluate.sizes import oracle_name
from jr_dist.evaluate.tables import ALL, Comparison, Ranking, Sanity, Tables
from jr_dist.locations import AnyPath, as_path

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
HERE = Path(__file__).parent

_Row = TypeVar("_Row", Ranking, Sanity, Comparison)


@dataclass(frozen=True)
class Chart:
    """A titled SVG."""

    title: str
    svg: Markup


def to_html(tables: Tables, items: Sequence[Item], charts: Sequence[Chart]) -> str:
    """The page. Everything is inline: styles, the viewer, SVG, PNG as data URIs, meshes as base64 GLB.

    Its content security policy forbids it to load anything, so a browser will not, whatever stands in the page.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": grids.number,
        "signed": grids.signed,
        "interval": grids.interval,
        "difference_interval": markdown.difference_interval,
        "seeds_text": markdown.seeds_text,
        "yaml": _yaml,
        "code_spans": _code_spans,
        "interval_bar": _interval_bar,
        "reach": _reach,
        "seed": lambda seed: "" if seed is None else seed,
        "leading": _leading,
        "others": lambda rows: [row for row in rows if row not in _leading(rows)],
    }
    sheets = grids.sheets(tables)
    return environment.get_template("template.html.j2").render(
        tables=tables,
        name=as_path(tables.dataset).name or tables.dataset,
        sheets=sheets,
        overview=grids.overview(tables),
        statement=markdown.statement(tables),
        headline=headline(tables),
        items=items,
        charts={sheet.protocol: _curve_charts(tables, sheet.protocol) for sheet in sheets},
        training=charts,
        viewer=Markup((HERE / "viewer.js").read_text(encoding="utf-8")),
    )


def headline(tables: Tables) -> str:
    """What the tables say first: the best method under top-1, over all targets, of the first protocol."""
    first = grids.sheets(tables)[0].protocol
    rows = [row for row in tables.summary if (row.retrieval, row.category, row.protocol) == ("top-1", ALL, first)]
    if not rows:
        return ""
    best = min(rows, key=lambda row: row.chamfer_x100)
    shown = f"{grids.number(best.chamfer_x100)} {grids.interval(best)}".strip()
    seen = "" if first == FULL else f" ({first})"
    return f"With one retrieved source, {best.method} fits best{seen}: chamfer ×100 {shown} over {best.n} targets"


def _curve_charts(tables: Tables, protocol: str) -> list[Chart]:
    """Chamfer against k and against the size of the database; rows with IDO at test time in charts of their own."""
    of_k = [
        _line(curve.method, range(1, len(curve.chamfer_x100) + 1), curve.chamfer_x100)
        for curve in tables.curves
        if curve.protocol == protocol
    ]
    of_size = [
        _line(curve.method, curve.sizes, curve.chamfer_x100) for curve in tables.sizes if curve.protocol == protocol
    ]
    kinds = (
        ("Chamfer of the best of the first k retrieved", "k, sources deformed (best kept)", of_k),
        (
            "Expected top-1 chamfer against the size of the database",
            "sources in the database, drawn at random",
            of_size,
        ),
    )
    charts = []
    for (title, x_label, lines), ido in product(kinds, (False, True)):
        own = [line for line in lines if has_ido(_bare(line.name)) == ido]
        if svg := line_chart(own, x_label=x_label, y_label="chamfer ×100", log_x=True, log_y=True):
            charts.append(Chart(title + ", with IDO at test time" * ido, Markup(svg)))
    return charts


def training_charts(runs: Sequence[LoadedRun]) -> list[Chart]:
    """Curves from the runs' metrics.jsonl, a chart for each quantity that any of them logged."""
    logged = [(run.name, read_metrics(as_path(run.path) / "metrics.jsonl")) for run in runs]
    charts = []
    for part, key, title, label, log_y in _TRAINING:
        lines = [_line(name, *_series(entries, part, key)) for name, entries in logged]
        if svg := line_chart(lines, x_label="step", y_label=label, log_y=log_y):
            charts.append(Chart(title, Markup(svg)))
    return charts


def read_metrics(path: AnyPath) -> list[Mapping[str, Any]]:
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


def _line(method: str, xs: Sequence[float], ys: Sequence[float]) -> Line:
    """A method's line: a colour for the retrieval, dashes for what is done with it, the same in every chart."""
    family = _family(method)
    colour = _FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES)
    return Line(method, xs, ys, colour, _dash(method))


def _bare(method: str) -> str:
    """A method's name without that of its oracle (sizes.oracle_name)."""
    return method.removesuffix(oracle_name(""))


def _family(method: str) -> str:
    """How the sources are retrieved, whatever then happens to them: of R+DF + IDO, R."""
    base = _bare(method).removesuffix(with_ido(""))
    return FIT_AWARE if base == CHECKED else base.removesuffix(LETTER).removesuffix(with_df(""))


def _dash(method: str) -> str:
    """Whole: deformed. Dots: not deformed, by a network that others deform after. Dashes: the oracle, a variant."""
    base = _bare(method).removesuffix(with_ido(""))
    if method != _bare(method):
        return "9 4"
    if base.endswith(LETTER) or base == CHECKED:
        return "9 3 2 3"
    return "2 3" if with_df(base) in ORDER else ""


_FAMILIES = tuple(dict.fromkeys(map(_family, ORDER)))


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
    """The rows over all categories, and those of what has none."""
    whole = {_kind(row) for row in rows if row.category == ALL}
    return [row for row in rows if row.category == ALL or _kind(row) not in whole]


def _kind(row: Ranking | Sanity | Comparison) -> tuple:
    if isinstance(row, Comparison):
        return row.method, row.against, row.retrieval
    return row.method, row.seed


def _reach(rows: Sequence[Comparison]) -> float:
    """How far bars of differences reach: a few large ones may not hide all others, and are cut off with an arrow."""
    ends = [max(abs(end) for end in _ends(row)) for row in rows]
    return min(max(ends), 3 * median(ends))


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
