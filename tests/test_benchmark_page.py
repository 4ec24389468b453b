"""Records of benchmarks as CSV, and the page that is made of them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import page
import records
import time_quickstart
from goals import GOALS, Goal, goal_of
from harness import compared
from limits import distances_a_second, search_seconds
from page_picture import Bar, digest, draw, drawn_in
from records import Origin, Record, Row

ROOT = Path(__file__).parent.parent
CSV = ROOT / "docs" / "results" / "benchmarks"
FILES = sorted(CSV.glob("*.csv"))
HERE = Origin(
    "0123456789ab", False, "a processor, 2 cores, 1 thread used", "2026-01-01 12:00", "python benchmarks/x.py"
)


def row(name: str, value: float = 1.0, unit: str = "ms", **more) -> Row:
    return Row(Record(name, value, unit, **more), HERE)


# ---- what is committed -------------------------------------------------------------------------


def test_the_page_is_what_its_files_make():
    assert page.PAGE.read_text() == page.page(page.RESULTS), "python benchmarks/page.py makes it anew"


def test_the_picture_is_drawn_from_the_same_files():
    assert drawn_in(page.PICTURE) == digest(page.bars(page.read_all(CSV))), "python benchmarks/page.py draws it anew"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_record_says_where_it_comes_from(path):
    rows = records.read_rows(path)
    assert rows
    for found in rows:
        assert re.fullmatch("[0-9a-f]{12}", found.origin.commit), found.record.name
        for part in ("cores", "GiB", "Python", "torch", "numba", "ray"):
            assert part in found.origin.hardware, found.record.name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", found.origin.date), found.record.name
        assert re.match(r"python benchmarks/\w+\.py", found.origin.command), found.record.name
        assert str(ROOT) not in found.origin.command


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_as_it_is_written(path, tmp_path):
    records.write_rows(tmp_path / "again.csv", records.read_rows(path))
    assert (tmp_path / "again.csv").read_text() == path.read_text(), "columns, goals and numbers are those of today"


def test_no_record_stands_in_two_files():
    names = [found.record.name for found in page.read_all(CSV)]
    assert len(names) == len(set(names))


def test_make_bench_measures_what_exists():
    names = re.findall(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    measured = {path.stem for path in FILES} - {"quickstart"}
    assert measured >= set(names), "the page has what `make bench` measures"
    for name in names:
        text = (ROOT / "benchmarks" / f"{name}.py").read_text()
        assert "parser(__doc__)" in text and re.search(r"finish\(.*options\.csv|finish\(.*arguments\.csv", text), name


# ---- the files ---------------------------------------------------------------------------------


def test_rows_are_replaced_by_name_and_new_ones_come_last(tmp_path):
    path = tmp_path / "folder" / "some.csv"
    full = row("a.b", 1.5, peer="torch, with, commas", ratio=2.0, low=1.0, high=3.0, rounds=3, limit=0.5, limit_is="x")
    records.write_rows(path, [full, row("c", unit="")])
    records.write_rows(path, [replace(row("c", 7.0), origin=replace(HERE, dirty=True)), row("d")])
    assert records.read_rows(path) == [full, replace(row("c", 7.0), origin=replace(HERE, dirty=True)), row("d")]
    assert [entry.name for entry in path.parent.iterdir()] == ["some.csv"], "nothing is left aside"


def test_a_record_takes_its_goal_along(tmp_path):
    records.write_rows(tmp_path / "some.csv", [row("ido.vs_sgd", ratio=30.0), row("ido.other")])
    lines = (tmp_path / "some.csv").read_text().splitlines()
    at = records.COLUMNS.index("goal")
    assert [line.split(",")[at] for line in lines] == ["goal", "ratio >= 25", ""]


def test_a_command_is_told_without_places():
    told = records.command(
        ["/a/clone/benchmarks/step.py", "--quick", "--csv", "/a/b.csv", "--json=/c", "--threads", "2"]
    )
    assert told == "python benchmarks/step.py --quick --threads 2"


def test_commit_is_unknown_outside_a_clone(tmp_path):
    assert records.commit_of(tmp_path) == ("unknown", True)


def test_results_make_no_clone_dirty_and_code_does(tmp_path):
    def git(*words: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        return subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    for folder in ("benchmarks", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "benchmarks" / "x.py").touch()
    git("add", ".")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()[:12]
    (tmp_path / "docs" / "new.csv").touch()
    assert records.commit_of(tmp_path) == (commit, False)
    (tmp_path / "benchmarks" / "y.py").touch()
    assert records.commit_of(tmp_path) == (commit, True)
    assert records.commit_of(tmp_path / "docs") == ("unknown", True), "a folder inside of a clone is none"


# ---- the page ----------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """A folder for results with one file, and the page that it makes."""

    def made(*rows: Row) -> str:
        records.write_rows(tmp_path / "benchmarks" / "some.csv", rows)
        return page.page(tmp_path)

    return made


def line_of(text: str, name: str) -> list[str]:
    """The cells of the first line of a table that names the record."""
    found = next(line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line)
    return [cell.strip() for cell in found.strip("|").split("|")]


@pytest.mark.parametrize(("ratio", "verdict"), [(200.0, "met"), (199.9, "**not met**")])
def test_a_goal_is_met_or_not(results, ratio, verdict):
    cells = line_of(results(row("chamfer.vs_cdist", ratio=ratio, limit=0.25, limit_is="needed")), "chamfer.vs_cdist")
    assert cells[2] == "ratio >= 200" and cells[4] == verdict
    assert "25% of its limit (needed)" in cells[5]


@pytest.mark.parametrize(("value", "verdict"), [(1e-6, "met"), (1.1e-6, "**not met**")])
def test_an_error_is_to_be_small(results, value, verdict):
    assert line_of(results(row("chamfer.loss_error", value, unit="")), "chamfer.loss_error")[4] == verdict


def test_what_needs_a_gpu_is_said_not_to_be_measured(results):
    text = results(row("chamfer.vs_cdist", ratio=300.0))
    for goal in GOALS:
        if "_gpu." in goal.name:
            assert line_of(text, goal.name)[4] == "not measured: no GPU"
    assert line_of(text, "ido.vs_sgd")[4] == "not measured"
    text = results(row("chamfer_gpu.vs_two_pass", ratio=3.5))
    assert line_of(text, "chamfer_gpu.vs_two_pass")[4] == "met"


def test_theirs_and_shares_of_limits_follow_from_the_unit(results):
    text = results(
        row("chamfer.x", 2.0, "ms", peer="p", ratio=4.0, limit=0.5, limit_is="l"),
        row("render.x", 2.0, "/s", peer="p", ratio=4.0, limit=8.0, limit_is="l"),
        row("fit.stage.a", 1.0), row("fit.stage.b", 3.0), row("unheard.of", 1.0),
    )  # fmt: skip
    for name, theirs in (("chamfer.x", "8"), ("render.x", "0.5")):
        cells = line_of(text, name)
        assert theirs in cells and "25%" in cells, cells
    assert "25%" in line_of(text, "fit.stage.a") and "75%" in line_of(text, "fit.stage.b")
    assert line_of(text, "unheard.of"), "no record is lost"
    assert f"`{HERE.command}` at `{HERE.commit}`, {HERE.date} UTC" in " ".join(text.split())


def test_the_quickstart_is_compared_stage_by_stage(results):
    text = results(row("quickstart.before.total", 120.0, "s"), row("quickstart.after.total", 60.0, "s"))
    assert "| total | 120.0 | 60.0 | 2.00 |" in text


def test_every_goal_has_a_topic_and_one_name():
    names = [goal.name for goal in GOALS]
    assert len(names) == len(set(names))
    for name in names:
        assert sum(name.startswith(topic.prefixes) for topic in page.TOPICS) == 1, name
    assert goal_of("nothing") is None
    assert Goal("x", "x", 2).met_by(2) and not Goal("x", "x", 2, at_most=True).met_by(2.1)


def test_a_picture_knows_what_it_was_drawn_from(tmp_path):
    shown = [Bar("one", "one.a", 100.0, 50.0), Bar("one", "one.b", 0.2, None), Bar("two", "two.c", 3.0, None)]
    draw(tmp_path / "x.png", shown)
    assert drawn_in(tmp_path / "x.png") == digest(shown)
    assert digest(shown) != digest([*shown[:2], replace(shown[2], ratio=3.1)])


# ---- measuring ---------------------------------------------------------------------------------


def test_ratios_are_taken_round_by_round():
    found = compared("x.y", "ms", "p", [1.0, 2.0, 4.0], [10.0, 10.0, 10.0], limit=0.5, limit_is="l")
    assert found == Record("x.y", 2.0, "ms", "p", 5.0, low=2.5, high=10.0, rounds=3, limit=0.5, limit_is="l")


# ---- limits and stages -------------------------------------------------------------------------


def test_a_search_needs_the_boxes_that_are_near():
    centres = torch.arange(4)[:, None, None] * 10.0
    noise = 0.1 * torch.rand(2, 4, 16, 3, generator=torch.Generator().manual_seed(0))
    x, y = ((centres + part).reshape(1, 64, 3) for part in noise)
    both_ways = 2 * 4 * 16 * 16  # each of four packets meets its own box alone, from both sides
    assert search_seconds(x, y) == pytest.approx(both_ways / distances_a_second(), rel=1e-12)


def test_stages_end_in_their_order(monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 15.0])
    monkeypatch.setattr(time_quickstart.time, "perf_counter", lambda: next(clock))
    said = [
        "== synthesize\n",
        "something else\n",
        "== synthesize: 0:02\n",
        "== train ours, df\n",
        "== train ours, df: 0:05",
    ]
    assert time_quickstart.stages(said) == {"synthesize": 2.0, "train": 5.0}
