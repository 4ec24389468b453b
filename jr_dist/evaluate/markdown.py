"""The tables for people as Markdown, a part of the page for each protocol."""

from __future__ import annotations

from collections.abc import Sequence

from jr_dist.evaluate.grids import Cell, Grid, interval, number, overview, sheets, signed
from jr_dist.evaluate.methods import ORACLE, TOP_1
from jr_dist.evaluate.tables import ALL, Absent, Comparison, Ranking, Row, RunInfo, Sanity, Tables


def difference_interval(row: Comparison) -> str:
    """The interval of a difference as printed, or nothing where there is none."""
    return "" if row.low is None or row.high is None else f"[{signed(row.low)}, {signed(row.high)}]"


def counts(tables: Tables) -> str:
    """How many targets each column stands on."""
    number_of = {row.category: row.n for row in tables.summary}
    each = ", ".join(f"{number_of[name]} {name}" for name in tables.categories if name in number_of)
    return f"{number_of.get(ALL, sum(number_of.values()))} targets ({each})"


def statement(tables: Tables) -> str:
    """What every number means, in one sentence."""
    return (
        f"Chamfer distance: {tables.chamfer.replace('x100', '×100')}; {tables.num_points} points a shape; frame "
        f"{tables.frame}. Split {tables.split}: {counts(tables)}. Brackets: "
        f"{tables.bootstrap['level']:.0%} bootstrap interval over targets ({tables.bootstrap['resamples']} resamples)."
    )


def to_markdown(tables: Tables) -> str:
    """All tables for people; the best of each column in bold."""
    parts = [f"# {tables.dataset}: retrieval and deformation", statement(tables)]
    pages = sheets(tables)
    if table := overview(tables):
        parts += [f"## {table.title}", _grid(table)]
    for sheet in pages:
        # The headings of one protocol alone need not say which.
        suffix = f" ({sheet.protocol})" if len(pages) > 1 else ""
        if suffix:
            parts.append(f"# {sheet.title}")
        for table in (*sheet.grids, *sheet.chosen):
            parts += [f"## {table.title}{suffix}", _grid(table)]
        if sheet.comparisons:
            title = "Differences on the same targets (below zero: the first is better)"
            parts += [f"## {title}{suffix}", _comparisons(sheet.comparisons)]
        if sheet.rankings:
            title = "Retrieval against the oracle of the same deformation"
            parts += [f"## {title}{suffix}", _rankings(sheet.rankings)]
        if sheet.sanity:
            parts += [f"## Soundness of the deformations{suffix}", _sanity(sheet.sanity)]
        if len({row.seed for row in tables.rows if row.seed is not None}) > 1:
            own = [row for row in tables.rows if row.protocol == sheet.protocol]
            parts += [f"## Seed by seed{suffix}", _by_seed(own)]
    timed = [run for run in tables.runs if run.minutes is not None]
    if timed:
        parts += ["## Training", _minutes(timed)]
    if tables.absent:
        parts += ["## Absent", "\n".join(f"- {_absent_name(gap)}: {gap.reason}" for gap in tables.absent)]
    parts += ["## Notes", "\n".join(f"- {note}" for note in tables.notes)]
    return "\n\n".join(parts) + "\n"


def _grid(table: Grid) -> str:
    head = ["method", *table.columns]
    return _markdown_table(head, [[method, *(_cell(cell) for cell in cells)] for method, cells in table.lines])


def _cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} {cell.interval}".strip()


def _absent_name(gap: Absent) -> str:
    seed = "" if gap.seed is None else f", seed {gap.seed}"
    return f"{gap.method} ({gap.retrieval}, {gap.category}{seed})"


def _comparisons(rows: Sequence[Comparison]) -> str:
    head = ["difference", "retrieval", "category", "Δ", "interval", "clear of zero", "better on", "n", "seeds"]
    lines = [
        [
            f"{row.method} − {row.against}",
            row.retrieval,
            row.category,
            signed(row.difference_x100),
            difference_interval(row),
            "yes" if row.clear else "no",
            f"{row.share_better:.0%}",
            str(row.n),
            seeds_text(row),
        ]
        for row in rows
    ]
    return _markdown_table(head, lines)


def seeds_text(row: Comparison) -> str:
    """The seeds of a comparison, each with its own difference."""
    return ", ".join(f"{seed}: {signed(value)}" for seed, value in zip(row.seeds, row.by_seed_x100, strict=True))


def _rankings(rows: Sequence[Ranking]) -> str:
    head = ["method", "seed", "category", "recall@1", "@5", "@10", "oracle's rank", "distinct", "sources", "regret", ""]
    lines = [
        [
            row.method,
            str(row.seed),
            row.category,
            f"{row.recall_at_1:.2f}",
            f"{row.recall_at_5:.2f}",
            f"{row.recall_at_10:.2f}",
            f"{row.mean_oracle_rank:.1f}",
            str(row.distinct_sources),
            str(row.num_sources),
            number(row.regret_x100),
            interval(row),
        ]
        for row in rows
    ]
    return _markdown_table(head, lines)


def _sanity(rows: Sequence[Sanity]) -> str:
    head = ["method", "seed", "category", "widest joint gap", "half-extents at the floor"]
    lines = [
        [row.method, str(row.seed), row.category, f"{row.max_joint_gap:.1e}", f"{row.share_at_floor:.2%}"]
        for row in rows
    ]
    return _markdown_table(head, lines)


def _by_seed(rows: Sequence[Row]) -> str:
    lines = [
        [row.method, row.retrieval, row.category, str(row.seed), f"{number(row.chamfer_x100)} {interval(row)}"]
        for row in rows
        if row.retrieval in (TOP_1, ORACLE) and row.seed is not None
    ]
    return _markdown_table(["method", "retrieval", "category", "seed", "chamfer"], lines)


def _minutes(runs: Sequence[RunInfo]) -> str:
    head = ["method", "seed", "categories", "minutes of training"]
    lines = [[run.method, str(run.seed), ", ".join(run.categories), f"{run.minutes:.1f}"] for run in runs]
    return _markdown_table(head, lines)


def _markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
