"""The report is one file that loads nothing, shows what the tables say and survives odd names."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from evaluation_cases import BoxModel, FakeStore, settings
from PIL import Image
from test_markdown import scaled
from test_tables import assembled, results

from jr_dist.evaluate import charts, gallery, grids, report
from jr_dist.evaluate.charts import Line, interval_bar, line_chart
from jr_dist.evaluate.runs import LoadedRun

VIEWER = (report.HERE / "viewer.js").read_text(encoding="utf-8")
HOSTILE = '<script>alert("x")</script>&'


class Reader(HTMLParser):
    """Collects tags, attributes that load something, and text; complains about tags that don't match."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.policy = ""
        self.scripts: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "xlink:href")]
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        (self.scripts if self.open[-1:] == ["script"] else self.text).append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def items(name: str = "target-1", glb: str = "Z2xURg==", note: str = "") -> list[gallery.Item]:
    uri = gallery.png(np.zeros((4, 4, 4), np.uint8))
    shown = tuple(
        gallery.Picture(title, name, value, uri)
        for title, value in (("source", 3.25), ("deformed", 1.125), ("target", None), ("oracle", 0.75))
    )
    return [gallery.Item(name, "chair", "Ours", 0, "1 of 4 by fit", shown, glb, note)]


@pytest.fixture
def run(tmp_path) -> LoadedRun:
    """A run with a log whose last line was cut short."""
    lines = [
        {"part": "train", "step": s, "fit": 0.1 / (s + 1), "effective_candidates": 9.0 - s / 100} for s in range(600)
    ]
    lines += [{"part": "val", "step": 599, "chamfer_x100": 1.5, "n": 6}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"part": "train", "st'
    (tmp_path / "metrics.jsonl").write_text(text)
    model = BoxModel(settings("d", tmp_path), "hash", (), FakeStore([]))
    return LoadedRun(str(tmp_path), "Ours", 0, None, model)


def test_the_page_loads_nothing(run):
    page = report.to_html(assembled(results()), items(), report.training_charts([run]))
    reader = read(page)
    assert reader.loads and all(load.startswith("data:image/png;base64,") for load in reader.loads)
    assert not {"link", "iframe", "object", "embed"} & set(reader.tags)
    assert not re.search(r"https?:|@import|url\(|//[a-z]", page.replace("http://www.w3.org", ""))
    # The one script is ours and asks for nothing. A browser would not let it: the policy allows inline and data alone.
    assert "".join(reader.scripts).strip() == VIEWER.strip()
    words = ("fetch", "XMLHttpRequest", "import", "Worker", "WebSocket", "EventSource", "sendBeacon", ".src", "eval")
    assert not [word for word in words if word in VIEWER]
    policy = dict(part.strip().split(" ", 1) for part in reader.policy.split(";"))
    assert policy.pop("default-src") == "'none'"
    assert policy == {"style-src": "'unsafe-inline'", "script-src": "'unsafe-inline'", "img-src": "data:"}


def test_a_page_without_shapes_has_no_script():
    assert "script" not in read(report.to_html(assembled(results()), [], [])).tags


def test_an_item_holds_its_meshes_once_or_says_why_not():
    page = report.to_html(assembled(results()), [*items(), *items("target-2", "", "pictures only: 9.1 MiB")], [])
    assert page.count('data-glb="Z2xURg=="') == page.count("data-glb=") == page.count('class="turn"') == 1
    reader = read(page)
    assert [name for name in reader.ids if name.startswith("item-")] == ["item-1", "item-2"]
    assert "pictures only: 9.1 MiB" in " ".join(reader.text)
    assert len(reader.loads) == 8  # the pictures of both


def test_every_protocol_has_a_section_and_a_link_to_it():
    both = [scaled(m, 3.0, protocol="partial-50") for m in results()] + results()
    tables = replace(assembled(both), protocols=("full", "partial-50"))
    reader = read(report.to_html(tables, [], []))
    assert reader.loads == ["#full", "#partial-50"]
    assert {"full", "partial-50"} <= set(reader.ids)
    text = " ".join(" ".join(reader.text).split())
    for row in tables.summary:
        if row.retrieval in ("top-1", "oracle"):
            assert f"{row.chamfer_x100:.3f}" in text
    ours = next(
        row for row in tables.summary if (row.method, row.protocol) == ("Ours", "full") and row.category == "all"
    )
    assert f"Ours fits best: chamfer ×100 {ours.chamfer_x100:.3f}" in text


def test_the_page_shows_both_tables_differences_curves_and_pictures(run):
    tables = assembled(results())
    page = report.to_html(tables, items(), report.training_charts([run]))
    text = " ".join(" ".join(read(page).text).split())
    for row in tables.summary:
        if row.retrieval in ("top-1", "oracle"):
            assert f"{row.chamfer_x100:.3f}" in text
            assert f"[{row.low:.3f}, {row.high:.3f}]" in text
    for words in ("Ours − Uniform Sampling", "−1.000", "512 points a shape", "half-diagonal 1", "1.125", "by fit"):
        assert words in text
    assert "Validation: chamfer" in text and "Effective sources of P_R" in text
    # The retrieval loss was not logged.
    assert "Eq. 2" not in text
    assert page.count('class="best"') == sum(
        cell.best
        for sheet in grids.sheets(tables)
        for grid in (*sheet.grids, *sheet.chosen)
        for _, row in grid.lines
        for cell in row
    )


def test_the_page_works_without_curves_pictures_and_comparisons():
    reader = read(report.to_html(assembled(results(seeds=())), [], []))
    assert "img" not in reader.tags
    assert "no run with train.method ours was given" in " ".join(reader.text)


def test_names_are_escaped():
    page = report.to_html(assembled(results(), failed=[(HOSTILE, 0, HOSTILE)]), items(HOSTILE), [])
    reader = read(page)
    assert len(reader.scripts) == 1 and "alert" not in reader.scripts[0]
    assert HOSTILE in "".join(reader.text)


def test_a_picture_survives_as_a_data_uri():
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 4), np.uint8)
    head, _, data = gallery.png(image).partition(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), image)


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    found = []
    for element in ElementTree.fromstring(svg).iter("polyline"):
        pairs = (pair.split(",") for pair in element.attrib["points"].split())
        found.append([(float(x), float(y)) for x, y in pairs])
    return found


def test_lines_of_one_name_are_one_series_with_one_entry_of_the_legend():
    lines = [Line("a", [1, 2], [1, 2]), Line("b", [1, 2], [2, 3], 1, "9 4"), Line("a", [1, 2], [1, 3])]
    first, second = ElementTree.fromstring(line_chart(lines, x_label="x", y_label="y")).iter("g")
    assert (first.attrib["class"], second.attrib["class"]) == ("series several", "series")
    assert [len(list(group.iter("polyline"))) for group in (first, second)] == [2, 1]
    for group, name in ((first, "a"), (second, "b")):
        assert [text.text for text in group.iter("text")] == [name]
        key, *drawn = (e.attrib["style"] for e in group.iter() if e.tag in ("line", "polyline"))
        assert all(style == key for style in drawn) or name == "a"
    assert "stroke-dasharray:9 4" in next(second.iter("polyline")).attrib["style"]


def test_colours_tell_the_retrieval_and_dashes_what_is_done_with_it():
    names = ("R", "R+DF", "R + IDO", "R+DF + IDO", "R+DF, oracle", "Ours", "Ours + IDO", "Ours (paper's letter)", "DAR")
    line = {name: report._line(name, [1], [1]) for name in names}
    assert len({line[name].colour for name in names[:5]}) == len({line[name].colour for name in names[5:8]}) == 1
    assert len({line[name].colour for name in ("R", "Ours", "DAR")}) == 3
    assert line["R"].dash == line["DAR"].dash != ""  # not deformed
    assert line["R+DF"].dash == line["Ours"].dash == line["Ours + IDO"].dash == ""
    assert len({line[name].dash for name in ("R", "R+DF", "R+DF, oracle", "Ours (paper's letter)")}) == 4
    assert len(report._FAMILIES) < charts.NUM_COLOURS, "each has a colour of its own, and one is left for others"


def test_the_page_has_every_colour_in_light_and_dark():
    page = report.to_html(assembled(results()), [], [])
    for i in range(charts.NUM_COLOURS):
        assert len(set(re.findall(rf"--line-{i}: (#[0-9a-f]{{6}});", page))) == 2


def test_curves_against_k_and_against_the_size_of_the_database_are_drawn():
    page = report.to_html(assembled(results()), [], [])
    text = " ".join(read(page).text)
    assert "best of the first k retrieved" in text and "against the size of the database" in text
    assert page.count('class="chart"') == 2
    ido = [replace(m, method="Ours + IDO") for m in results() if m.method == "Ours"]
    assert report.to_html(assembled([*results(), *ido]), [], []).count('class="chart"') == 4


def test_a_chart_keeps_order_and_stays_inside():
    svg = line_chart(
        [Line("a", [1, 2, 3], [1.0, 4.0, 2.0]), Line("b<", [1, 3], [0.5, 5.0], 1)], x_label="x", y_label="y"
    )
    first, second = points_of(svg)
    assert first[0][0] < first[1][0] < first[2][0]
    assert first[1][1] < first[2][1] < first[0][1]  # pixels grow downwards
    for x, y in first + second:
        assert charts.LEFT <= x <= charts.WIDTH - charts.RIGHT
        assert charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM
    assert first[0][0] == second[0][0] and first[2][0] == second[1][0]


def test_equal_ratios_are_equal_steps_on_a_logarithmic_axis():
    ((a, b, c),) = points_of(line_chart([Line("a", [1, 10, 100], [1, 2, 3])], x_label="k", y_label="y", log_x=True))
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.2)


@pytest.mark.parametrize("ys", [[2.0, 2.0], [0.0, 0.0], [-3.0, -3.0], [1e-9, 1e9], [-1.0, 1.0]])
@pytest.mark.parametrize("log", [False, True])
def test_charts_of_awkward_values_are_well_formed(ys, log):
    svg = line_chart([Line("a", [0, 1], ys)], x_label="x", y_label="y", log_y=log)
    if svg:
        ElementTree.fromstring(svg)
        assert "nan" not in svg
    else:
        assert log and max(ys) <= 0


@pytest.mark.parametrize("ys", [[0.05, 0.12], [41.0, 96.0], [0.9, 1.1], [1.0, 20000.0], [3.0, 3.0]])
def test_a_logarithmic_axis_has_marks_whatever_it_spans(ys):
    svg = line_chart([Line("a", [0, 1], ys)], x_label="x", y_label="y", log_y=True)
    assert svg.count('class="grid"') >= 3


def test_values_that_are_not_finite_are_left_out_of_a_chart():
    ((a, b),) = points_of(line_chart([Line("a", [1, 2, 3], [1, float("nan"), 2])], x_label="x", y_label="y"))
    assert a[0] < b[0]
    assert line_chart([Line("a", [1], [float("inf")])], x_label="x", y_label="y") == ""


def test_an_interval_bar_leaves_zero_on_the_right_side():
    def ends(svg: str) -> list[float]:
        (bar,) = (e for e in ElementTree.fromstring(svg).iter("line") if e.attrib["class"] != "zero")
        return [float(bar.attrib["x1"]), float(bar.attrib["x2"])]

    assert max(ends(interval_bar(-1.0, -2.0, -0.5, 2.0))) < 80
    assert min(ends(interval_bar(1.0, 0.5, 2.0, 2.0))) > 80
    low, high = ends(interval_bar(0.0, -1.0, 1.0, 2.0))
    assert low < 80 < high


def test_an_interval_bar_that_is_cut_off_ends_in_an_arrow():
    for mean, side in ((-5.0, min), (5.0, max)):
        tags = ElementTree.fromstring(interval_bar(mean, mean - 1, mean + 1, 2.0))
        (arrow,) = tags.iter("polygon")
        xs = [float(point.split(",")[0]) for point in arrow.attrib["points"].split()]
        assert xs[0] == side(xs) and (xs[0] < 80) == (mean < 0)
        assert not list(tags.iter("circle"))


def test_long_logs_are_thinned_to_their_means(run):
    entries = report.read_metrics(report.Path(run.path) / "metrics.jsonl")
    assert len(entries) == 601  # the line cut short is skipped
    steps, values = report._series(entries, "train", "effective_candidates")
    assert len(steps) == report.MOST_POINTS
    assert np.mean(values) == pytest.approx(np.mean([9.0 - s / 100 for s in range(600)]))


def test_a_run_without_a_log_has_no_curves(tmp_path):
    assert report.read_metrics(tmp_path / "metrics.jsonl") == []
