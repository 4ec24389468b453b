"""Tables for people: a sheet a protocol, IDO at test time in a table of its own, the best of each column marked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_tables import TARGETS, assembled, results

from jr_dist.evaluate import grids, markdown
from jr_dist.evaluate.methods import COARSE_IDO, Measured, with_ido
from jr_dist.evaluate.tables import Tables

PROTOCOLS = ("partial-50", "full")


def scaled(measured: Measured, factor: float, **changes) -> Measured:
    """The same with every fit so many times as large."""
    return replace(measured, fits={name: factor * fit for name, fit in measured.fits.items()}, **changes)


def with_test_time_ido(measured: list[Measured]) -> list[Measured]:
    """Each top-1 of the first seed again with IDO, half as far off, and coarse IDO on all sources."""
    top = [replace(m, fits={"top-1": m.fits["top-1"]}) for m in measured if "top-1" in m.fits and m.seed in (None, 0)]
    refined = [scaled(m, 0.5, method=with_ido(m.method), rank=None, ordered=None) for m in top]
    return [*measured, *refined, scaled(refined[0], 0.1, method=COARSE_IDO, seed=None)]


@pytest.fixture(scope="module")
def whole() -> Tables:
    """Two protocols, the partial one asked for first; each fit three times as far off under it."""
    full = with_test_time_ido(results())
    both = [scaled(m, 3.0, protocol="partial-50") for m in full] + full
    return replace(assembled(both), protocols=PROTOCOLS)


def table_under(text: str, heading: str) -> dict[str, list[str]]:
    """The cells below a heading of the Markdown, by what stands in the first column."""
    block = text.split(f"\n{heading}\n\n")[1].split("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in block.splitlines()]
    return {row[0]: row[1:] for row in (rows[0], *rows[2:])}


def test_a_sheet_holds_one_protocol_and_the_full_cloud_comes_first(whole):
    first, second = grids.sheets(whole)
    assert (first.protocol, second.protocol) == ("full", "partial-50")
    for sheet in (first, second):
        for records in (sheet.comparisons, sheet.rankings):
            assert records and {record.protocol for record in records} == {sheet.protocol}
    for ours, theirs in zip(first.grids, second.grids, strict=True):
        numbers = [{m: [c.text for c in cells] for m, cells in grid.lines} for grid in (ours, theirs)]
        for method, cells in numbers[1].items():
            pairs = zip(numbers[0][method], cells, strict=True)
            assert all(float(far) == pytest.approx(3 * float(near), abs=2e-3) for near, far in pairs if far != "–")


def test_rows_with_ido_at_test_time_have_a_table_of_their_own(whole):
    first, second, third = grids.sheets(whole)[0].grids
    methods = [{method for method, _ in grid.lines} for grid in (first, second, third)]
    assert methods[2] == {"R + IDO", "R+DF + IDO", "Uniform Sampling + IDO", "Ours + IDO", COARSE_IDO}
    assert not any(" + IDO" in method for method in methods[0] | methods[1])
    # Best is best of its own table: the rows with IDO don't take the mark from those without.
    for grid in (first, third):
        cells = [cell for _, line in grid.lines for cell in line]
        assert sum(cell.best for cell in cells) == len(grid.columns)


def test_without_such_rows_there_are_the_paper_s_two_tables():
    (sheet,) = grids.sheets(assembled(results()))
    assert [grid.title.split(":")[0] for grid in sheet.grids] == ["Table 1", "Table 2"]
    assert grids.overview(assembled(results())) is None


def test_what_was_not_given_is_listed_once(whole):
    first, second = grids.sheets(whole)
    assert "Box" in dict(first.grids[0].lines) and "Box" not in dict(second.grids[0].lines)
    (cell, *_) = dict(first.grids[0].lines)["Box"]
    assert (cell.text, cell.interval, cell.best) == ("–", "", False)


def test_the_overview_sets_methods_against_protocols(whole):
    table = grids.overview(whole)
    assert table is not None and table.columns == ("full", "partial-50")
    top = {
        (row.method, row.protocol): row for row in whole.summary if (row.retrieval, row.category) == ("top-1", "all")
    }
    assert {method for method, _ in table.lines} == {method for method, _ in top}
    for method, cells in table.lines:
        expected = [f"{top[method, protocol].chamfer_x100:.3f}" for protocol in table.columns]
        assert [cell.text for cell in cells] == expected
        assert all(cell.best == (method == COARSE_IDO) for cell in cells)


def test_markdown_has_every_table_of_every_protocol(whole):
    text = markdown.to_markdown(whole)
    for sheet in grids.sheets(whole):
        assert f"\n# {sheet.title}\n" in text
        for grid in (*sheet.grids, *sheet.chosen):
            table = table_under(text, f"## {grid.title} ({sheet.protocol})")
            assert table.pop("method") == [*TARGETS.names, "all"]
            for method, cells in grid.lines:
                assert [cell.split(" ")[0].strip("*") for cell in table.pop(method)] == [cell.text for cell in cells]
            assert table == {}
    assert text.index("(full)") < text.index("(partial-50)")


def test_one_protocol_alone_is_not_named_in_headings():
    text = markdown.to_markdown(assembled(results()))
    assert "(full)" not in text and "What is observed" not in text


def test_minutes_of_training_are_printed(whole):
    (run,) = whole.runs
    text = markdown.to_markdown(replace(whole, runs=(replace(run, minutes=2.26), replace(run, minutes=None, seed=1))))
    assert table_under(text, "## Training") == {
        "method": ["seed", "categories", "minutes of training"],
        "Ours": ["0", "chair, table", "2.3"],
    }


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("full", "whole"),
        ("partial-25", "25 %"),
        ("view-75", "75 %"),
        ("noise-3", "3 %"),
        ("up", "up axis"),
        ("x-1", "x-1"),
    ],
)
def test_a_protocol_is_named_in_words(protocol, words):
    title = grids.protocol_title(protocol)
    assert words in title and protocol in title
