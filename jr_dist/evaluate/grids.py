"""The summary as grids for people: methods by categories, a set of them for each protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from jr_dist.evaluate.methods import FULL, ORACLE, ORACLE_METHODS, TOP_1, TOP_1_METHODS, best_of_name, has_ido, place
from jr_dist.evaluate.tables import ALL, Comparison, Ranking, Row, Sanity, Summary, Tables


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


@dataclass(frozen=True)
class Sheet:
    """All that was found under one protocol."""

    protocol: str
    title: str
    grids: tuple[Grid, ...]  # Table 1, Table 2, and with IDO at test time where there are such rows
    chosen: tuple[Grid, ...]  # best of k, re-ranked
    comparisons: tuple[Comparison, ...]
    rankings: tuple[Ranking, ...]
    sanity: tuple[Sanity, ...]


def sheets(tables: Tables) -> tuple[Sheet, ...]:
    """One sheet a protocol, the full cloud first; the others as they were asked for."""
    order = sorted(tables.protocols, key=lambda protocol: protocol != FULL)
    # What is missing is listed once: under the others it is missing for the same reason.
    return tuple(_sheet(tables, protocol, lists_missing=i == 0) for i, protocol in enumerate(order))


def _sheet(tables: Tables, protocol: str, *, lists_missing: bool) -> Sheet:
    def own(records: Iterable) -> tuple:
        return tuple(record for record in records if record.protocol == protocol)

    summary = own(tables.summary)
    retrievals = {row.retrieval for row in summary} - {TOP_1, ORACLE, best_of_name(1)}
    chosen = tuple(
        grid(tables, summary, f"Chosen after deformation: {name}", name) for name in sorted(retrievals, key=_by_number)
    )
    parts = own(tables.comparisons), own(tables.rankings), own(tables.sanity)
    return Sheet(protocol, protocol_title(protocol), _first_grids(tables, summary, lists_missing), chosen, *parts)


def _first_grids(tables: Tables, summary: Sequence[Summary], lists_missing: bool) -> tuple[Grid, ...]:
    top, best = (TOP_1_METHODS, ORACLE_METHODS) if lists_missing else ((), ())
    first = grid(tables, summary, "Table 1: retrieve one source and deform it (top-1)", TOP_1, top, _without_ido)
    second = grid(tables, summary, "Table 2: deform all sources, keep the best (oracle retrieval)", ORACLE, best)
    third = grid(tables, summary, "Table 3: with IDO at test time (top-1)", TOP_1, (), has_ido)
    return tuple(table for table in (first, second, third) if table.lines)


def _without_ido(method: str) -> bool:
    return not has_ido(method)


def grid(
    tables: Tables,
    summary: Sequence[Summary],
    title: str,
    retrieval: str,
    expected: Sequence[str] = (),
    belongs: Callable[[str], bool] = lambda method: True,
) -> Grid:
    """The summary of one kind of retrieval and the methods that belong, the best of each column marked.

    `summary` is of one protocol; `expected` methods are listed whether they were measured or not.
    """
    rows = [row for row in summary if row.retrieval == retrieval and belongs(row.method)]
    reasons = {(gap.method, gap.category): gap.reason for gap in tables.absent if gap.retrieval == retrieval}
    found = {(row.method, row.category): row for row in rows}
    return _grid(title, found, (*tables.categories, ALL), expected, reasons)


def _grid(
    title: str,
    found: Mapping[tuple[str, str], Summary],
    columns: Sequence[str],
    expected: Sequence[str] = (),
    reasons: Mapping[tuple[str, str], str] = MappingProxyType({}),
) -> Grid:
    """`found` by method and column; `reasons` for what is not there, by method and category."""
    least = {
        column: min((row.chamfer_x100 for (_, own), row in found.items() if own == column), default=None)
        for column in columns
    }

    def cell(method: str, column: str) -> Cell:
        if row := found.get((method, column)):
            return Cell(number(row.chamfer_x100), interval(row), row.chamfer_x100 == least[column])
        return Cell("–", "", False, reasons.get((method, column), reasons.get((method, ALL), "")))

    methods = sorted({*expected, *(method for method, _ in found)}, key=place)
    return Grid(title, tuple(columns), tuple((method, tuple(cell(method, c) for c in columns)) for method in methods))


def overview(tables: Tables) -> Grid | None:
    """Top-1 over all targets, methods by protocols; None where there is one protocol."""
    order = [sheet.protocol for sheet in sheets(tables)]
    if len(order) < 2:
        return None
    found = {(row.method, row.protocol): row for row in tables.summary if (row.retrieval, row.category) == (TOP_1, ALL)}

    def cell(method: str, protocol: str) -> Cell:
        if row := found.get((method, protocol)):
            least = min(other.chamfer_x100 for (_, other_one), other in found.items() if other_one == protocol)
            return Cell(number(row.chamfer_x100), interval(row), row.chamfer_x100 == least)
        return Cell("–", "", False)

    methods = sorted({method for method, _ in found}, key=place)
    lines = tuple((method, tuple(cell(method, protocol) for protocol in order)) for method in methods)
    return Grid("What is observed of a target: top-1 over all targets", tuple(order), lines)


_PICTURES = {
    "": "One picture of the target, from anywhere",
    "front": "One picture, less than 45 degrees off the front",
    "side": "One picture, 45 to 135 degrees off the front",
    "back": "One picture, more than 135 degrees off the front",
    "unseen": "One picture in materials and lights that training never has",
}


def protocol_title(protocol: str) -> str:
    """What a protocol shows of a target, in words."""
    kind, _, amount = protocol.partition("-")
    words = {
        "full": "The whole target is observed",
        "partial": f"Partial clouds: {amount} % of the target's points cut off by a plane",
        "view": f"Partial clouds: one depth view, {amount} % of the target's points hidden",
        "noise": f"Noise of {amount} % of the half-diagonal on every point",
        "up": "The up axis is unknown",
        "yaw": "The turn about the up axis is unknown",
        "image": _PICTURES.get(amount, ""),
    }
    return f"{words[kind]} ({protocol})" if kind in words else protocol


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
