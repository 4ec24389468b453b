"""What is known of a sweep before it starts: its space, its errors, how many trials fit, its record."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from sweep_cases import SIGMA0, K, settings, trial

from jr_dist.cli import main
from jr_dist.errors import InputError
from jr_dist.placement import Node, of_trial, sets_at_once
from jr_dist.sweep import describe_plan, plan_sweep
from jr_dist.train.sweep_space import Choice, Span, key, read_space, size, untried, with_values
from jr_dist.train.trials import RECORD, Record, Trial, finalists, means, repeat_trials, trial_config


def test_a_space_takes_spans_whole_numbers_and_choices_of_any_kind(tiny_dataset, tmp_path):
    spec = {
        SIGMA0: {"log": ["5e-1", 200]},  # YAML reads 5e-1 as text
        "train.batch_size": {"range": [2, 8]},
        "train.weight_decay": {"range": [0, 0.1]},
        "model.hidden": {"choice": [[16], [32, 16]]},
        "retrieval.loss": {"choice": ["l1", "cross_entropy"]},
        "model.connectivity": {"choice": [True, False]},
    }
    space = read_space(settings(tiny_dataset, tmp_path, sweep__space=spec))
    assert space == {
        SIGMA0: Span(0.5, 200.0, log=True, whole=False),
        "train.batch_size": Span(2, 8, log=False, whole=True),
        "train.weight_decay": Span(0.0, 0.1, log=False, whole=False),
        "model.hidden": Choice(((16,), (32, 16))),
        "retrieval.loss": Choice(("l1", "cross_entropy")),
        "model.connectivity": Choice((True, False)),
    }
    assert size(space) == float("inf")
    assert size({"train.batch_size": space["train.batch_size"], "retrieval.loss": space["retrieval.loss"]}) == 14


def test_the_default_space_is_the_three_of_the_paper():
    from jr_dist.config import load_config
    from jr_dist.evaluate.sweep_table import PAPER

    config = load_config(None, {"data.path": "-", "run.path": "-"})
    named = {SIGMA0: 100.0, K: 10, "model.global_code": 256, "model.part_code": 32, "model.target_code": 256}
    assert set(read_space(config)) == set(named)
    assert {name: PAPER[name] for name in named} == named


@pytest.mark.parametrize(
    ("name", "spec", "said"),
    [
        ("retrieval.sigma", {"log": [1, 2]}, "unknown setting retrieval.sigma in sweep.space.*did you mean"),
        ("nonsense", {"log": [1, 2]}, "unknown setting nonsense"),
        (SIGMA0, {"log": [0, 2]}, r"retrieval\.sigma0 may not be 0"),
        (SIGMA0, {"range": [2, 1]}, "the lower one first"),
        (SIGMA0, {"choice": [1, "many"]}, "may not be many"),
        (SIGMA0, {"choice": [1]}, "two or more"),
        (SIGMA0, {"choice": [1, 1.0]}, "a choice twice"),
        (SIGMA0, {"chioce": [1, 2]}, "allowed is one of choice"),
        (SIGMA0, {"log": [1, 2], "choice": [1, 2]}, "allowed is one of choice"),
        (K, {"range": [2.5, 4]}, r"num_candidates may not be 2\.5"),
        (K, {"choice": [1, 4]}, r"allows .*num_candidates 1.*allowed is 2 or more"),
        (K, {"choice": [2, 400]}, "num_candidates is 400"),  # more than there are sources
        ("train.weight_decay", {"log": [0, 1]}, "begins at 0"),
        ("train.method", {"range": ["ours", "uniform"]}, "is no number"),
        ("train.seed", {"choice": [0, 1]}, "all trials must have the same"),
        ("data.num_points", {"choice": [64, 128]}, "all trials must have the same"),
        ("run.path", {"choice": ["a", "b"]}, "all trials must have the same"),
        ("train.warmup_epochs", {"choice": [1, 2]}, "warmup_epochs is 2"),  # of 2 epochs: refused with others only
    ],
)
def test_what_is_wrong_is_said_in_a_line_before_anything_starts(tiny_dataset, tmp_path, name, spec, said, capsys):
    with pytest.raises(InputError, match=said) as caught:
        plan_sweep(settings(tiny_dataset, tmp_path / "run", sweep__space={name: spec}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["{", "retrieval.sigma0", "{retrieval.sigma0: 3}"])
def test_a_space_typed_wrongly_is_a_wrong_input(tiny_dataset, tmp_path, text, capsys):
    words = ["--data.path", str(tiny_dataset), "--run.path", str(tmp_path / "run"), "--sweep.space", text]
    assert main(["sweep", *words]) == 2
    assert "sweep.space" in capsys.readouterr().err


def test_a_combination_that_is_refused_is_found_though_each_value_alone_is_allowed(tiny_dataset, tmp_path):
    space = {K: {"choice": [2, 4]}, "retrieval.fit_scale": {"choice": ["spread", "entropy"]}}
    with pytest.raises(InputError, match=r"num_candidates 2, retrieval\.fit_scale entropy.*effective_candidates is 3"):
        read_space(settings(tiny_dataset, tmp_path, sweep__space=space))


def test_untried_gives_each_configuration_once_then_none():
    space = {"a": Choice(((1,), (2, 3))), "b": Span(1, 3, log=False, whole=True)}
    rng, tried = np.random.default_rng(0), []
    while (values := untried(space, {key(each) for each in tried}, rng)) is not None:
        tried.append(json.loads(json.dumps(values)))  # as the record gives them back
    assert len(tried) == len({key(each) for each in tried}) == 6


@pytest.mark.parametrize(
    ("nodes", "settings_", "most", "expected"),
    [
        ([Node(2)], {"train.num_workers": 0}, 9, 2),
        ([Node(8)], {"train.num_workers": 0}, 3, 3),
        # a worker and no shard actor: its driver waits, its codes are in it
        ([Node(2)], {"train.num_workers": 1}, 9, 3),
        # two workers and four shards: three processors and a driver
        ([Node(8)], {"train.num_workers": 2, "bank.num_shards": 4}, 9, 2),
        # GPUs run out before processors; shards take none
        ([Node(64, 4)], {"train.num_workers": 1, "bank.num_shards": 2, "train.device": "cuda"}, 9, 4),
        ([Node(64, 3), Node(64, 1)], {"train.num_workers": 2, "train.device": "cuda"}, 9, 2),
        # a processor that no machine has whole
        ([Node(0.5), Node(0.5)], {"train.num_workers": 0}, 9, 0),
        ([Node(1.5), Node(1.5)], {"train.num_workers": 0}, 9, 2),
    ],
)
def test_as_many_trials_as_fit_whole(tiny_dataset, tmp_path, nodes, settings_, most, expected):
    overrides = {name.replace(".", "__"): value for name, value in settings_.items()}
    config = settings(tiny_dataset, tmp_path, **overrides)
    assert sets_at_once(nodes, of_trial(config, gpus="train.device" in settings_), most) == expected


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = Record(tmp_path / RECORD)
    for each in (trial(0, 1.5, 2, 0.1 + 0.2), trial(1, 2.0, 4, 9.0, 8.5, state="stopped", tries=2)):
        record.note(each)
    record.change("001", reason="two\nlines")
    again = Record.read(record.path)
    assert list(again) == list(record)
    assert again["000"].chamfer_x100 == 0.1 + 0.2


@pytest.mark.parametrize("text", ["{", "{}", '{"name": "000", "validations": 3}', '{"nme": 1, "validations": []}'])
def test_a_damaged_record_is_no_traceback(tmp_path, text):
    (tmp_path / RECORD).write_text(text + "\n")
    with pytest.raises(InputError, match="is no record of a sweep"):
        Record.read(tmp_path / RECORD)


def test_the_winner_is_of_the_best_mean_among_those_trained_to_their_end(tmp_path):
    record = Record(tmp_path / RECORD)
    found = [
        trial(0, 1.0, 2, 3.0),
        trial(1, 2.0, 2, 1.0, state="stopped"),
        trial(2, 3.0, 4, 2.0),
        trial(3, 4.0, 4, 9.0),
    ]
    for each in found:
        record.note(each)
    chosen = finalists(record, 2)
    assert [each.name for each in chosen] == ["002", "000"]
    repeats = repeat_trials(chosen, 2)
    assert [(each.name, each.seed, each.repeats) for each in repeats] == [
        *(("002-seed-1", 1, "002"), ("002-seed-2", 2, "002"), ("000-seed-1", 1, "000"), ("000-seed-2", 2, "000"))
    ]
    # The best of the search is unlucky in its further seeds; one of them failed.
    for each, value in zip(repeats, (6.0, 7.0, 3.2, None)):
        validations = () if value is None else ((1.0, value),)
        record.note(dataclasses.replace(each, state="failed" if value is None else "complete", validations=validations))
    assert [(each.name, values) for each, values in means(record, chosen)] == [
        ("000", [3.0, 3.2]),
        ("002", [2.0, 6.0, 7.0]),
    ]


def test_a_trial_is_the_sweep_s_configuration_with_its_own_values(tiny_dataset, tmp_path):
    config = settings(tiny_dataset, tmp_path)
    own = trial_config(config, Trial("004-seed-7", {SIGMA0: 3.5, K: 2}, 7))
    assert own.run.path == f"{tmp_path}/trials/004-seed-7"
    back = with_values(own, {SIGMA0: config.retrieval.sigma0, K: config.retrieval.num_candidates, "train.seed": 0})
    assert back.model_copy(update={"run": config.run}) == config
    assert (own.retrieval.sigma0, own.retrieval.num_candidates, own.train.seed) == (3.5, 2, 7)


def test_a_dry_run_says_space_trials_and_why_no_more_at_once(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = settings(tiny_dataset, tmp_path / "run", cluster__num_cpus=3, sweep__trials=8, sweep__repeats=2)
    text = describe_plan(plan_sweep(config))
    assert "0.5 to 200, evenly by the logarithm" in text
    assert "at the same time           3: 1 machine of 3 CPUs, 1 CPU in 1 process a trial" in text
    assert "the best 1, 2 further seeds each" in text
    assert not (tmp_path / "run").exists()
    finite = settings(tiny_dataset, tmp_path / "run", sweep__space={K: {"choice": [2, 4]}}, sweep__trials=8)
    assert "2, all that there are of 8 asked for" in describe_plan(plan_sweep(finite))


def test_a_sweep_goes_on_with_more_trials_but_not_with_other_settings(tiny_dataset, tmp_path):
    from jr_dist.train.run_directory import write_settings

    config = settings(tiny_dataset, tmp_path)
    write_settings(plan_sweep(config).config)
    Record(tmp_path / RECORD).note(trial(0, 1.0, 2, 3.0))
    assert plan_sweep(settings(tiny_dataset, tmp_path, sweep__trials=9)).num_trials == 9
    with pytest.raises(InputError, match=r"holds a sweep with train\.epochs 2, now it is 3"):
        plan_sweep(settings(tiny_dataset, tmp_path, train__epochs=3))


def test_a_trained_run_is_not_taken_for_a_sweep(tiny_dataset, tiny_run):
    with pytest.raises(InputError, match="holds a trained run"):
        plan_sweep(settings(tiny_dataset, tiny_run))
