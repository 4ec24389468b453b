"""Every method under one budget: what is planned, that it goes on where it stopped, and what a failed run leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import TINY_SETTINGS

from jr_dist.cli import main
from jr_dist.compare import EVALUATION, PAPERS_LETTER, compare, plan_comparison
from jr_dist.config import Config, load_config
from jr_dist.errors import InputError
from jr_dist.evaluate.tables import Tables
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.run_directory import prepare, write_settings

ROOT = Path(__file__).parent.parent


def settings(dataset: Path, path: Path, **overrides: object) -> Config:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    small = {
        "evaluate.num_points": 128,
        "labels.num_points": 64,
        "labels.iterations": 2,
        "labels.copies": 1,
        "ido.iterations": 2,
    }
    return load_config(None, {**TINY_SETTINGS, **small, "data.path": str(dataset), "run.path": str(path), **named})


def means(tables: Tables, retrieval: str = "top-1") -> dict[str, float]:
    rows = (row for row in tables.summary if (row.retrieval, row.category) == (retrieval, "all"))
    return {row.method: row.chamfer_x100 for row in rows}


def test_all_methods_have_one_budget(tiny_dataset, tmp_path):
    config = settings(tiny_dataset, tmp_path, compare__methods=("fit_aware", "dar", "mds", "ae", "uniform", "ours_ido"))
    runs = plan_comparison(config)
    budgets = {run.config.train.method: run.budget() for run in runs}
    steps = {run.num_steps for run in runs}
    assert len(steps) == 1
    for method, budget in budgets.items():
        assert budget["retrieval"] == max(steps) * METHODS[method].trains_retrieval
        assert budget["deformation"] == max(steps) * METHODS[method].trains_deformation
    assert len({budget["pairs"] for budget in budgets.values() if budget["pairs"]}) == 1
    # Teachers are there although they were not named, and before their pupils.
    order = [run.config.train.method for run in runs]
    assert order.index("df") < order.index("dar") and order.index("ours") < order.index("fit_aware")


def test_taking_turns_halves_the_updates_of_all_alike(tiny_dataset, tmp_path):
    runs = plan_comparison(settings(tiny_dataset, tmp_path, compare__methods=("df", "uniform"), train__alternate=True))
    df, uniform = (run.budget() for run in runs)
    assert df["deformation"] == uniform["deformation"] < runs[0].num_steps
    assert df["pairs"] == uniform["pairs"]


def test_the_letter_is_that_of_the_file_we_ship():
    shipped = yaml.safe_load((ROOT / "configs" / "paper.yaml").read_text())
    for section, values in PAPERS_LETTER.items():
        for name, value in values.items():
            assert shipped[section][name] == value, name


def test_one_run_a_category_where_asked_for(tiny_dataset, tmp_path):
    config = settings(
        tiny_dataset, tmp_path, compare__methods=("df", "dar"), compare__per_category=True, train__batch_size=4
    )
    runs = plan_comparison(config)
    assert [run.config.data.categories for run in runs] == [("cabinet",), ("chair",), ("table",)] * 2
    teachers = {run.config.data.categories: run.config.train.teacher for run in runs[3:]}
    assert teachers == {run.config.data.categories: run.config.run.path for run in runs[:3]}


@pytest.mark.slow
def test_it_fills_the_tables_and_goes_on_where_it_stopped(tiny_dataset, tmp_path, monkeypatch, capsys):
    config = settings(
        tiny_dataset,
        tmp_path / "all",
        compare__methods=("mds", "ae", "dar", "uniform", "ours", "ours_ido", "fit_aware", "letter"),
    )
    tables = compare(config)
    assert tables.absent == ()
    top, best = means(tables), means(tables, "oracle")
    rows = {"R", "R+DF", "AE", "AE+DF", "DAR", "DAR+DF", "Uniform Sampling", "Ours", "Ours w/ IDO", "Box"}
    assert rows | {"Ours + fit-aware retrieval", "Ours (paper's letter)", "Nearest chamfer"} <= set(top)
    assert {f"{name} + IDO" for name in ("R", "DAR", "Ours", "Nearest chamfer")} | {"Coarse IDO on all sources"} <= set(
        top
    )
    assert set(best) == {"DF", "Uniform Sampling", "Ours", "Ours w/ IDO", "Ours (paper's letter)"}
    assert all(run.minutes is not None for run in tables.runs)
    files = {path.name: path.read_bytes() for path in (tmp_path / "all" / EVALUATION).glob("tables.*")}

    def must_not_train(*_, **__):
        raise AssertionError("everything is trained and measured already")

    monkeypatch.setattr("jr_dist.train.trainer.train", must_not_train)
    monkeypatch.setattr("jr_dist.evaluate.work.measure", must_not_train)
    compare(config)
    assert {path.name: path.read_bytes() for path in (tmp_path / "all" / EVALUATION).glob("tables.*")} == files


@pytest.mark.slow
def test_a_run_that_fails_leaves_its_rows_absent_with_the_reason(tiny_dataset, tmp_path, monkeypatch):
    from jr_dist.train import trainer

    def diverges(config, **options):
        if config.train.method == "uniform":
            prepare(config)
            write_settings(config)
            raise FloatingPointError("step 3: loss not finite")
        return train(config, **options)

    train = trainer.train
    monkeypatch.setattr(trainer, "train", diverges)
    config = settings(tiny_dataset, tmp_path / "c", compare__methods=("df", "uniform"), evaluate__ido=False)
    with pytest.raises(RuntimeError, match=r"1 of 2 runs failed.*uniform-0: step 3: loss not finite"):
        compare(config)
    text = (tmp_path / "c" / EVALUATION / "tables.md").read_text()
    assert "DF" in text and "Uniform Sampling (top-1, all, seed 0)" in text


@pytest.mark.slow
def test_runs_beside_one_another_give_the_same_numbers(tiny_dataset, tmp_path, ray_cluster):
    tables = []
    for at_once in (1, 2):
        config = settings(
            tiny_dataset,
            tmp_path / str(at_once),
            compare__methods=("df", "ours"),
            compare__side_by_side=at_once,
            evaluate__ido=False,
            evaluate__num_workers=at_once - 1,
        )
        tables.append(compare(config))
    # Other numbers of threads add in another order, in training and in the encoders.
    for one, other in zip(tables[0].rows, tables[1].rows, strict=True):
        assert (one.method, one.retrieval, one.category) == (other.method, other.retrieval, other.category)
        assert one.chamfer_x100 == pytest.approx(other.chamfer_x100, rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"compare__methods": ("ours", "theirs")}, ("compare.methods", "'theirs'", "allowed are", "letter")),
        ({"evaluate__protocols": ("ful",)}, ("'ful'", "allowed are", "partial-50")),
        ({"data__categories": ("boat",)}, ("boat", "chair")),
    ],
)
def test_wrong_settings_are_one_line(tiny_dataset, tmp_path, overrides, words):
    with pytest.raises(InputError) as refused:
        plan_comparison(settings(tiny_dataset, tmp_path, **overrides))
    assert "\n" not in str(refused.value) and all(word in str(refused.value) for word in words)


def test_a_dry_run_lists_the_runs_and_writes_nothing(tiny_dataset, tmp_path, capsys):
    words = [f"--{name}={value}" for name, value in TINY_SETTINGS.items() if not isinstance(value, tuple)]
    path = tmp_path / "runs"
    done = main(["compare", *words, f"--data.path={tiny_dataset}", f"--run.path={path}", "--dry-run"])
    shown = capsys.readouterr().out
    assert done == 0 and "fit_aware-0" in shown and "to train" in shown
    assert not path.exists()
