"""From results on targets to records, and records to JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from evaluation_cases import measure_nearest, measure_oracle, measure_ranked

from jr_dist.errors import InputError
from jr_dist.evaluate import markdown, rows, tables
from jr_dist.evaluate.methods import Measured, spread
from jr_dist.evaluate.sizes import size_curves

TARGETS = rows.Targets(
    ids=np.array([f"t{i}" for i in range(6)]),
    categories=np.array(["chair"] * 4 + ["table"] * 2),
    names=("chair", "table"),
)
BOOTSTRAP = rows.Bootstrap(resamples=200)
SOURCES = [f"s{i}" for i in range(12)]


def results(seeds=(0, 1)) -> list[Measured]:
    """R, R+DF, DF, Uniform Sampling and Ours on 6 targets; Ours is better by exactly 0.01 than Uniform Sampling."""
    found = [measure_nearest(SOURCES, np.random.default_rng(100).random((6, 12)) + 1)]
    for seed in seeds:
        rng = np.random.default_rng(seed)
        fit, distances = rng.random((6, 12)) + 0.1, rng.random((6, 12))
        found += [
            measure_oracle("DF", seed, SOURCES, fit + 0.05),
            measure_ranked("R+DF", seed, SOURCES, distances, fit + 0.05, oracle=False),
            measure_ranked("Uniform Sampling", seed, SOURCES, distances, fit + 0.01, oracle=True),
            measure_ranked("Ours", seed, SOURCES, distances, fit, oracle=True),
        ]
    return found


def assembled(measured: list[Measured], failed=()) -> tables.Tables:
    return tables.Tables(
        dataset="data/small",
        dataset_hash="0123456789abcdef0123",
        split="test",
        num_points=512,
        frame=tables.FRAME,
        chamfer=tables.CHAMFER,
        bootstrap={"kind": "BCa", "unit": "target", "level": 0.95, "resamples": 200, "seed": 0},
        categories=TARGETS.names,
        protocols=("full",),
        rows=rows.result_rows(measured, TARGETS, BOOTSTRAP),
        summary=rows.summary_rows(measured, TARGETS, BOOTSTRAP),
        comparisons=rows.comparison_rows(measured, TARGETS, BOOTSTRAP),
        rankings=rows.ranking_rows(measured, TARGETS, np.full(6, 12), BOOTSTRAP),
        sanity=rows.sanity_rows(measured, TARGETS),
        curves=rows.curves(measured),
        sizes=size_curves(measured, np.full(6, 12)),
        databases=(tables.Database(("chair", "table"), 12, 5.5, 4.5, 1.0),),
        absent=rows.absent_rows(measured, TARGETS, failed),
        runs=(
            tables.RunInfo(
                "runs/ours", "Ours", 0, ("chair", "table"), 1.5, {"train.epochs": 3, "model.hidden": [4, 2]}
            ),
        ),
        notes=("a note with `code` and a | bar",),
    )


def find(records, **wanted):
    (found,) = (r for r in records if all(getattr(r, name) == value for name, value in wanted.items()))
    return found


def test_a_row_is_the_mean_over_its_category_times_100():
    measured = results()
    ours = measured[4]
    row = find(
        rows.result_rows(measured, TARGETS, BOOTSTRAP), method="Ours", retrieval="top-1", category="chair", seed=0
    )
    assert row.chamfer_x100 == pytest.approx(100 * ours.fits["top-1"][:4].mean())
    assert (row.n, row.protocol) == (4, "full")
    assert row.low is not None and row.high is not None and row.low <= row.chamfer_x100 <= row.high


def test_every_target_counts_in_every_row():
    for row in rows.result_rows(results(), TARGETS, BOOTSTRAP):
        assert row.n == {"chair": 4, "table": 2, "all": 6}[row.category]


def test_keys_of_the_json_are_those_others_rely_on():
    tree = json.loads(tables.to_json(assembled(results())))
    assert {"dataset", "split", "num_points", "frame", "rows", "comparisons"} <= tree.keys()
    keys = {"method", "retrieval", "protocol", "category", "chamfer_x100", "low", "high", "n", "seed"}
    assert all(row.keys() == keys for row in tree["rows"])


def test_tables_survive_json():
    whole = assembled(results(), failed=[("Ours", 7, "no checkpoint")])
    assert tables.from_json(tables.to_json(whole)) == whole


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{"method": 1}]}'])
def test_other_json_is_refused_in_a_line(text):
    with pytest.raises(InputError, match="tables"):
        tables.from_json(text)


def test_seeds_are_averaged_for_each_target_before_resampling():
    measured = results()
    row = find(rows.summary_rows(measured, TARGETS, BOOTSTRAP), method="Ours", retrieval="top-1", category="all")
    pooled = np.mean([measured[4].fits["top-1"], measured[8].fits["top-1"]], axis=0)
    assert row.chamfer_x100 == pytest.approx(100 * pooled.mean())
    assert (row.low, row.high) == (BOOTSTRAP.of(pooled).low, BOOTSTRAP.of(pooled).high)
    assert row.seeds == (0, 1)
    means = [100 * measured[i].fits["top-1"].mean() for i in (4, 8)]
    assert row.between_seeds == pytest.approx(np.std(means, ddof=1))


def test_a_method_without_seeds_stands_in_the_summary_once():
    row = find(rows.summary_rows(results(), TARGETS, BOOTSTRAP), method="R", category="all")
    assert (row.seeds, row.between_seeds) == ((), None)


def test_comparisons_are_paired_and_pool_seeds():
    found = rows.comparison_rows(results(), TARGETS, BOOTSTRAP)
    uniform = find(found, against="Uniform Sampling", retrieval="top-1", category="all")
    # The difference is the same on every target, so its interval has no width however much the targets differ.
    assert uniform.difference_x100 == pytest.approx(-1.0)
    assert uniform.low == pytest.approx(-1.0) and uniform.high == pytest.approx(-1.0)
    assert uniform.clear and uniform.share_better == 1.0
    assert uniform.seeds == (0, 1) and uniform.by_seed_x100 == pytest.approx((-1.0, -1.0))
    assert {(row.against, row.retrieval) for row in found} == {
        ("Uniform Sampling", "top-1"),
        ("R+DF", "top-1"),
        ("R", "top-1"),
        ("Uniform Sampling", "oracle"),
        ("DF", "oracle"),
    }


def test_comparisons_use_the_seeds_that_both_have():
    measured = [m for m in results(seeds=(0, 1, 2)) if not (m.method == "Uniform Sampling" and m.seed == 1)]
    found = rows.comparison_rows(measured, TARGETS, BOOTSTRAP)
    uniform = find(found, against="Uniform Sampling", retrieval="top-1", category="all")
    assert uniform.seeds == (0, 2)
    assert uniform.difference_x100 == pytest.approx(-1.0)


def test_against_a_method_without_seeds_each_seed_has_its_own_difference():
    measured = results()
    row = find(rows.comparison_rows(measured, TARGETS, BOOTSTRAP), against="R", retrieval="top-1", category="table")
    by_hand = [100 * (measured[i].fits["top-1"] - measured[0].fits["top-1"])[4:].mean() for i in (4, 8)]
    assert row.by_seed_x100 == pytest.approx(by_hand)
    assert row.difference_x100 == pytest.approx(np.mean(by_hand))


def test_rankings_by_hand():
    order = np.tile(np.arange(12.0), (6, 1))
    fit = np.ones((6, 12))
    fit[np.arange(6), [0, 0, 3, 4, 9, 11]] = 0.5  # the oracle's places in the ranking
    measured = [measure_ranked("Ours", 0, SOURCES, order, fit, oracle=True)]
    row = find(rows.ranking_rows(measured, TARGETS, np.full(6, 12), BOOTSTRAP), category="all")
    assert (row.recall_at_1, row.recall_at_5, row.recall_at_10) == pytest.approx((2 / 6, 4 / 6, 5 / 6))
    assert row.mean_oracle_rank == pytest.approx((1 + 1 + 4 + 5 + 10 + 12) / 6)
    assert (row.distinct_sources, row.num_sources) == (1, 12)
    assert row.regret_x100 == pytest.approx(100 * 4 * 0.5 / 6)


def test_curves_fall_from_top_1_to_the_oracle():
    measured = results(seeds=(0,))
    curve = find(rows.curves(measured), method="Ours")
    assert len(curve.chamfer_x100) == 12
    assert list(curve.chamfer_x100) == sorted(curve.chamfer_x100, reverse=True)
    assert curve.chamfer_x100[-1] == pytest.approx(100 * measured[4].fits["oracle"].mean())


def test_what_was_not_given_is_absent_with_its_reason():
    gaps = rows.absent_rows(results(seeds=())[:1], TARGETS, [("Ours", 4, "run x has no checkpoint")])
    assert find(gaps, method="R+DF").reason == "no run with train.method mds (and one with df) was given"
    assert find(gaps, method="DAR").reason == "no run with train.method dar was given"
    assert find(gaps, method="DF").retrieval == "oracle"
    assert {(gap.retrieval, gap.seed, gap.reason) for gap in gaps if gap.method == "Ours"} == {
        ("top-1", 4, "run x has no checkpoint"),
        ("oracle", 4, "run x has no checkpoint"),
    }


def test_a_run_of_one_category_fills_that_column_alone():
    chairs = np.arange(4)
    part = measure_ranked("Ours", 0, SOURCES, np.random.default_rng(0).random((4, 12)), np.ones((4, 12)), oracle=True)
    measured = [*results(seeds=())[:1], spread(part, chairs, 6)]
    found = [row.category for row in rows.result_rows(measured, TARGETS, BOOTSTRAP) if row.retrieval == "oracle"]
    assert found == ["chair"]
    gap = find(rows.absent_rows(measured, TARGETS, []), method="Ours", retrieval="top-1", category="all")
    assert gap.reason == "no run of it covers table"
    text = markdown.to_markdown(assembled(measured))
    assert "| Ours | **100.000** [100.000, 100.000] | – | – |" in text


def test_the_best_of_each_column_is_bold_in_markdown():
    whole = assembled(results())
    lines = markdown.to_markdown(whole).splitlines()
    first = lines.index("## Table 1: retrieve one source and deform it (top-1)")
    table = dict(line.strip("| ").split(" | ", 1) for line in lines[first + 4 : first + 12])
    assert list(table) == ["Box", "R", "R+DF", "DAR", "DAR+DF", "Uniform Sampling", "Ours", "Ours w/ IDO"]
    assert table["Ours"].count("**") == 6 and "**" not in table["Uniform Sampling"]
    assert table["Box"] == "– | – | –"


def test_every_output_says_what_its_numbers_are():
    whole = assembled(results())
    for text in (tables.to_json(whole), markdown.to_markdown(whole), tables.to_csv(whole)):
        assert "512" in text
        assert "half-diagonal 1" in text
        assert "squared, mean over points, both directions added" in text


def test_csv_has_a_line_a_row():
    whole = assembled(results())
    lines = list(csv.DictReader(io.StringIO(tables.to_csv(whole))))
    assert len(lines) == len(whole.rows)
    assert float(lines[0]["chamfer_x100"]) == whole.rows[0].chamfer_x100
    assert {line["num_points"] for line in lines} == {"512"}


def test_one_target_leaves_the_interval_open():
    lone = rows.Targets(np.array(["t"]), np.array(["chair"]), ("chair",))
    measured = [measure_nearest(SOURCES, np.ones((1, 12)))]
    (row, _) = rows.result_rows(measured, lone, BOOTSTRAP)
    assert (row.low, row.high, row.n) == (None, None, 1)
    assert markdown.interval(row) == ""
