"""One HTML file that shows a sweep: charts, finalists, trials, the best settings. It loads nothing."""

from __future__ import annotations

from pathlib import Path, PurePath

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jr_dist.evaluate.sweep_charts import parallel_chart, setting_chart
from jr_dist.evaluate.sweep_table import (
    SweepTable,
    epochs_of,
    headline,
    number,
    outcome,
    ranked,
    short_name,
    statement,
)

HERE = Path(__file__).parent


def sweep_page(table: SweepTable, best_yaml: str) -> str:
    """The page, everything inline; its content security policy forbids it to load or run anything."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "epochs": epochs_of, "outcome": outcome}
    return environment.get_template("sweep.html.j2").render(
        name=PurePath(table.dataset).name or table.dataset,
        table=table,
        headline=headline(table),
        statement=statement(table),
        settings=[short_name(name) for name in table.space],
        parallel=Markup(parallel_chart(table)),
        charts=[(name, Markup(setting_chart(table, name))) for name in table.space],
        ranked=ranked(table),
        best_yaml=best_yaml,
    )
