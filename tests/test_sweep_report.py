"""A sweep's table and pictures: the paper's values are on every plot, early stops are named, bins are what they say."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from sweep_cases import SIGMA0, SPACE, K, table_of, trial

from jr_dist.evaluate.sweep_charts import parallel_chart, setting_chart
from jr_dist.evaluate.sweep_report import sweep_page
from jr_dist.evaluate.sweep_table import PAPER, bins, to_csv, to_json, to_markdown
from jr_dist.train.sweep_space import Choice, Space, Span
from jr_dist.train.trials import Trial

CODES = ("model.global_code", "model.part_code", "model.target_code")


@pytest.fixture
def table():
    return table_of(
        [
            trial(0, 0.5, 2, 5.0, 4.0, 3.0),
            trial(1, 20.0, 4, 6.0, state="stopped"),
            trial(2, 3.0, 4, 5.5, 4.5, 4.25),
            trial(3, 4.0, 2, state="failed", reason="FloatingPointError: a | b <script>"),
        ],
        SPACE,
        further=(3.5, 4.0),
    )


def marks(svg: str) -> dict[str, float]:
    """Where the paper's values stand, by setting."""
    found = {}
    for group in ElementTree.fromstring(svg).iter("g"):
        if group.get("class") == "paper":
            line = group.find("line")
            found[group.get("data-setting", "")] = float(line.get("x1", "nan")) if line is not None else 0.0
    return found


def test_the_paper_s_values_are_on_every_plot_though_they_were_not_searched(table):
    for name, value in ((SIGMA0, "100"), (K, "10")):
        svg = setting_chart(table, name)
        assert f">paper {value}<" in svg
        dots = [float(x) for x in re.findall(r'class="trial \w+" cx="([\d.]+)"', svg)][:-2]  # two are the legend's
        assert len(dots) == 3 and marks(svg)[name] > max(dots), "they lie beyond the space, and inside the picture"
        assert marks(svg)[name] < 520
    assert marks(parallel_chart(table)).keys() == {SIGMA0, K}


def test_code_sizes_have_the_paper_s_marks_too():
    space: Space = {name: Choice((8, 16)) for name in CODES}
    table = table_of([Trial("000", dict.fromkeys(CODES, 8), 0, state="complete", validations=((1.0, 2.0),))], space)
    for name, value in zip(CODES, (256, 32, 256)):
        assert f">paper {value}<" in setting_chart(table, name)
    assert set(marks(parallel_chart(table))) == set(CODES)


@pytest.mark.parametrize("name", sorted(PAPER))
def test_every_setting_of_the_paper_can_be_drawn_whatever_is_searched(name):
    values: tuple = ("a", "b") if isinstance(PAPER[name], str) else (True, False) if PAPER[name] is True else (2, 3)
    space: Space = {name: Choice(values)}
    table = table_of([Trial("000", {name: values[0]}, 0, state="complete", validations=((1.0, 2.0),))], space)
    assert marks(setting_chart(table, name)).keys() == marks(parallel_chart(table)).keys() == {name}


def test_a_setting_that_the_paper_does_not_name_has_no_mark():
    space: Space = {"model.hidden": Choice(((16,), (32, 16))), "ido.teacher_weight": Span(0.0, 1.0, False, False)}
    values = {"model.hidden": [32, 16], "ido.teacher_weight": 0.5}  # a list, as the record gives it back
    table = table_of([Trial("000", values, 0, state="complete", validations=((1.0, 2.0),))], space)
    for name in space:
        assert "paper" not in setting_chart(table, name)
    assert "<svg" in parallel_chart(table)


def test_early_stops_are_named_and_hollow(table):
    text = to_markdown(table)
    assert "| 001 | 20 | 4 | 6.0000 | stopped by ASHA at epoch 1 |" in text
    assert "failed: FloatingPointError: a \\| b <script>" in text
    order = [line.split("|")[1].strip() for line in text.splitlines() if re.match(r"\| \d{3} \|", line)]
    assert order == ["000", "002", "001", "003", "000"], "complete ones first, then stopped, failed; then the finalist"
    svg = setting_chart(table, SIGMA0)
    assert svg.count('class="trial stopped"') == 2 and svg.count('class="trial complete"') == 3  # and the legend's


def test_bins_hold_every_validated_trial_once_and_compare_at_an_epoch_that_all_have_seen(table):
    assert table.common_epoch == 1.0
    for name in table.space:
        found = bins(table, name)
        assert sum(each.reached.n for each in found if each.reached) == 3
        assert sum(each.common.n for each in found if each.common) == 3
    first = bins(table, SIGMA0)[0]
    assert (first.low, first.reached.mean, first.common.mean) == (0.5, 3.0, 5.0)
    assert bins(table, SIGMA0)[-1].high == 20.0 and bins(table, SIGMA0)[-1].num_stopped == 1
    assert all(each.reached.low is None for each in bins(table, K) if each.reached), "two trials are no interval"


def test_an_interval_holds_its_mean_and_is_drawn():
    trials = [trial(number, 1.0 + number, 2, float(value)) for number, value in enumerate((3, 4, 5, 9, 4, 3))]
    table = table_of(trials, SPACE)
    [two, _] = bins(table, K)
    assert two.reached is not None and two.reached.low is not None and two.reached.high is not None
    assert two.reached.n == 6 and two.reached.low < two.reached.mean < two.reached.high
    assert setting_chart(table, K).count("<rect") == 2  # and the legend's


def test_the_record_says_all_and_is_valid_json(table):
    content = json.loads(to_json(table, {"as": "typed"}))
    assert content["paper"] == {SIGMA0: 100.0, K: 10}
    assert content["best"]["trial"] == "000" and content["best"]["mean_x100"] == 3.5
    [finalist] = content["finalists"]
    assert finalist["chamfers_x100"] == [3.0, 3.5, 4.0] and finalist["mean_of_further_seeds_x100"] == 3.75
    assert [each["state"] for each in content["trials"]] == ["complete", "stopped", "complete", "failed"]


def test_the_csv_has_a_line_for_each_trial(table):
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["state"] for row in rows] == ["complete", "stopped", "complete", "failed"]
    assert [row[SIGMA0] for row in rows] == ["0.5", "20.0", "3.0", "4.0"]
    assert rows[3]["chamfer_x100"] == "" and rows[1]["epochs"] == "1.0"


def test_the_page_is_one_file_that_loads_nothing_and_escapes_what_it_shows(table):
    page = sweep_page(table, "run:\n  path: <here>\n")
    assert "default-src 'none'" in page and "script" not in page.replace("&lt;script&gt;", "")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "&lt;here&gt;" in page and page.count("<svg") == 1 + len(table.space)
