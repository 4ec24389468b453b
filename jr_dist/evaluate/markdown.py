"""The tables for people: grids of methods by categories, and all of them as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jr_dist.evaluate.methods import ORACLE, ORACLE_METHODS, TOP_1, TOP_1_METHODS, place
from jr_dist.evaluate.tables import ALL, Absent, Comparison, Ranking, Row, Summary, Tables


@dataclass(frozen=True)
class Cell:
    """A number of a printed table, ready to print."""

    text: str  # "1.005" or "–"
    interval: str  # "[0.981, 1.030]" or ""
    best: bool
    reason: str = ""  # why there is no number


@dataclass(frozen=True)
class Grid:
    """A printed table: methods down, categories across."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Cell, ...]], ...]


def grid(tables: Tables, title: str, retrieval: str, expected: Sequence[str]) -> Grid:
    """The summary of one kind of retrieval, the best of each column marked; `expected` methods are always listed."""
    found = {(row.method, row.category): row for row in tables.summary if row.retrieval == retrieval}
    methods = sorted({*expected, *(method for method, _ in found)}, key=place)
    columns = (*tables.categories, ALL)
    least = {
        column: min((row.chamfer_x100 for (_, category), row in found.items() if category == column), default=None)
        for column in columns
    }
    reasons = {(gap.method, gap.category): gap.reason for gap in tables.absent if gap.retrieval == retrieval}
    lines = []
    for method in methods:
        cells = []
        for column in columns:
            row = found.get((method, column))
            reason = reasons.get((method, column), reasons.get((method, ALL), ""))
            best = row is not None and row.chamfer_x100 == least[column]
            cells.append(Cell(number(row.chamfer_x100), interval(row), best) if row else Cell("–", "", False, reason))
        lines.append((method, tuple(cells)))
    return Grid(title, columns, tuple(lines))


def grids(tables: Tables) -> tuple[Grid, ...]:
    """The paper's two tables, and one for each of the other ways to choose among the retrieved."""
    first = grid(tables, "Table 1: retrieve one source and deform it (top-1)", TOP_1, TOP_1_METHODS)
    second = grid(tables, "Table 2: deform all sources, keep the best (oracle retrieval)", ORACLE, ORACLE_METHODS)
    others = sorted({row.retrieval for row in tables.summary} - {TOP_1, ORACLE, "best-of-1"}, key=_by_number)
    return first, second, *(grid(tables, f"Chosen after deformation: {name}", name, ()) for name in others)


def _by_number(name: str) -> tuple[str, int]:
    stem, _, tail = name.rpartition("-")
    return (stem, int(tail)) if tail.isdigit() else (name, 0)


def number(value: float) -> str:
    """A chamfer x100 as printed."""
    return f"{value:.3f}"


def signed(value: float) -> str:
    """A difference of chamfers x100 as printed, with a real minus sign."""
    return f"{value:+.3f}".replace("-", "−")


def interval(row: Row | Summary | Ranking) -> str:
    """The interval as printed, or nothing where there is none."""
    return "" if row.low is None or row.high is None else f"[{number(row.low)}, {number(row.high)}]"


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
    for table in grids(tables):
        head = ["method", *table.columns]
        lines = [[method, *(_cell(cell) for cell in cells)] for method, cells in table.lines]
        parts += [f"## {table.title}", _markdown_table(head, lines)]
    if tables.comparisons:
        parts += ["## Differences on the same targets (below zero: the first is better)", _comparisons(tables)]
    if tables.rankings:
        parts += ["## Retrieval against the oracle of the same deformation", _rankings(tables)]
    if tables.sanity:
        parts += ["## Soundness of the deformations, over all pairs", _sanity(tables)]
    if len({row.seed for row in tables.rows if row.seed is not None}) > 1:
        parts += ["## Seed by seed", _by_seed(tables)]
    if tables.absent:
        parts += ["## Absent", "\n".join(f"- {_absent_name(gap)}: {gap.reason}" for gap in tables.absent)]
    parts += ["## Notes", "\n".join(f"- {note}" for note in tables.notes)]
    return "\n\n".join(parts) + "\n"


def _cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} {cell.interval}".strip()


def _absent_name(gap: Absent) -> str:
    seed = "" if gap.seed is None else f", seed {gap.seed}"
    return f"{gap.method} ({gap.retrieval}, {gap.category}{seed})"


def _comparisons(tables: Tables) -> str:
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
        for row in tables.comparisons
    ]
    return _markdown_table(head, lines)


def seeds_text(row: Comparison) -> str:
    """The seeds of a comparison, each with its own difference."""
    return ", ".join(f"{seed}: {signed(value)}" for seed, value in zip(row.seeds, row.by_seed_x100, strict=True))


def _rankings(tables: Tables) -> str:
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
        for row in tables.rankings
    ]
    return _markdown_table(head, lines)


def _sanity(tables: Tables) -> str:
    head = ["method", "seed", "category", "widest joint gap", "half-extents at the floor"]
    lines = [
        [row.method, str(row.seed), row.category, f"{row.max_joint_gap:.1e}", f"{row.share_at_floor:.2%}"]
        for row in tables.sanity
    ]
    return _markdown_table(head, lines)


def _by_seed(tables: Tables) -> str:
    lines = [
        [row.method, row.retrieval, row.category, str(row.seed), f"{number(row.chamfer_x100)} {interval(row)}"]
        for row in tables.rows
        if row.retrieval in (TOP_1, ORACLE) and row.seed is not None
    ]
    return _markdown_table(["method", "retrieval", "category", "seed", "chamfer"], lines)


def _markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
