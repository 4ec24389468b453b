"""Fit-aware retrieval: its loss by hand, the sources a step compares, training, going on, and the teacher it keeps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import arrays_of, settings

from jr_dist.bank.client import BankClient
from jr_dist.config import Config
from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.evaluate.measure import Contender, Rules, measure
from jr_dist.evaluate.methods import CHECKED, FIT_AWARE, with_ido
from jr_dist.evaluate.oracle import Cases
from jr_dist.train.label_loss import label_loss, label_probability, spread_of_best, step_columns
from jr_dist.train.labels import Labels, open_labels
from jr_dist.train.run_directory import BEST
from jr_dist.train.trained import load_run
from jr_dist.train.trainer import train

NAN = math.nan


def softmax(values):
    terms = [math.exp(v) for v in values]
    return [t / sum(terms) for t in terms]


def test_the_loss_by_hand():
    squared = [[4.0, 1.0, 2.0, 9.0], [0.5, 3.0, 1.0, 2.0]]
    label = [[0.02, 0.01, NAN, 0.05], [0.03, 0.02, 0.01, 0.04]]
    sigma, scale, expected = 1.5, 80.0, 0.0
    for d, fits in zip(squared, label, strict=True):
        known = [k for k, fit in enumerate(fits) if not math.isnan(fit)]
        wanted = softmax([-scale * fits[k] for k in known])
        found = softmax([-d[k] / sigma**2 for k in known])
        regret = [scale * (fits[k] - min(fits[k] for k in known)) for k in known]
        expected -= sum(p * math.log(q) for p, q in zip(wanted, found, strict=True)) / 2
        expected += sum(q * r for q, r in zip(found, regret, strict=True)) / 2
    loss = label_loss(torch.tensor(squared), torch.tensor(label), sigma=sigma, scale=scale)
    assert math.isclose(float(loss), expected, rel_tol=1e-6)


def test_what_has_no_label_pulls_at_nothing():
    squared = torch.tensor([[4.0, 1.0, 2.0], [1.0, 2.0, 3.0]], requires_grad=True)
    label = torch.tensor([[0.02, NAN, 0.01], [NAN, NAN, NAN]])
    probability = label_probability(label, 90.0)
    assert probability[0, 1] == 0 and math.isclose(float(probability[0].sum()), 1, rel_tol=1e-6)
    assert (probability[1] == 0).all()
    loss = label_loss(squared, label, sigma=2.0, scale=90.0)
    loss.backward()
    assert torch.isfinite(loss) and squared.grad is not None
    assert squared.grad[0, 1] == 0 and (squared.grad[1] == 0).all() and (squared.grad[0, [0, 2]] != 0).all()


def some_labels(num_targets: int, num_sources: int, num_labelled: int) -> Labels:
    rng = np.random.default_rng(0)
    values = rng.random((num_targets, num_labelled)).astype(np.float32)
    if num_labelled == num_sources:
        return Labels(values, None, num_sources)
    columns = np.stack([np.sort(rng.permutation(num_sources)[:num_labelled]) for _ in range(num_targets)])
    return Labels(values, columns.astype(np.int32), num_sources)


def test_the_spread_is_that_of_the_best_labels():
    labels = some_labels(3000, 20, 8)
    expected = np.sort(labels.values, axis=1)[:, :5].std(axis=1).mean()
    assert math.isclose(spread_of_best(labels, 5), expected, rel_tol=1e-5)
    assert math.isclose(spread_of_best(labels, 50), labels.values.std(axis=1).mean(), rel_tol=1e-5)
    assert spread_of_best(Labels(np.full((2, 3), 0.5, np.float32), None, 3), 3) > 0


@pytest.mark.parametrize("num_labelled", [40, 12])
def test_a_step_compares_the_best_sources_of_its_targets_and_some_others(num_labelled):
    labels, rows, limit = some_labels(30, 40, num_labelled), np.array([3, 17, 5, 22]), 16
    columns = step_columns(labels, rows, limit, seed=1, step=7)
    assert len(columns) == limit and (np.diff(columns) > 0).all()
    assert np.isin(columns, labels.sources(rows)).all(), "others than labelled ones are of no use"
    for row in rows:  # two of each target make half of the columns
        best = labels.sources(np.array([row]))[0][labels.values[row].argsort()[:2]]
        assert np.isin(best, columns).all()
    again = step_columns(labels, np.array([22, 5, 3, 17, 3]), limit, seed=1, step=7)
    assert np.array_equal(columns, again), "whichever rank has which target"
    others = [step_columns(labels, rows, limit, seed=seed, step=step) for seed, step in ((1, 8), (2, 7))]
    assert not any(np.array_equal(columns, other) for other in others)
    drawn = {int(c) for step in range(60) for c in step_columns(labels, rows, limit, seed=1, step=step)}
    assert drawn == set(np.unique(labels.sources(rows)).tolist()), "each is drawn some time"


def test_a_step_compares_all_sources_where_they_are_few():
    labels = some_labels(30, 40, 12)
    assert np.array_equal(step_columns(labels, np.array([3]), 40, seed=1, step=7), np.arange(40))


# ---- whole runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tiny_dataset, tmp_path_factory) -> Path:
    """A finished run of `ours`."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    train(settings(tiny_dataset, run, bank__block_size=4))
    return run


@pytest.fixture(scope="module")
def labels_path(tmp_path_factory) -> Path:
    """Labels that the runs of this file share."""
    return tmp_path_factory.mktemp("labels")


def pupil(dataset: Path, run: Path, teacher: Path, labels_path: Path, **overrides) -> Config:
    fixed = {"train__method": "fit_aware", "train__teacher": teacher, "labels__path": labels_path}
    fixed |= {"labels__num_points": 64, "labels__iterations": 2, "labels__copies": 1, "bank__block_size": 4}
    return settings(dataset, run, **{**fixed, **overrides})


def logged(run: Path, name: str, part: str = "train") -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line["part"] == part]


@pytest.mark.slow
def test_retrieval_learns_what_fits_after_ido(tiny_dataset, tmp_path, teacher, labels_path):
    config = pupil(
        tiny_dataset,
        tmp_path / "run",
        teacher,
        labels_path,
        train__epochs=40,
        train__validate_every=40,
        train__learning_rate=1e-2,
    )
    train(config)
    losses = logged(tmp_path / "run", "loss_embedding")
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    dataset = open_dataset(tiny_dataset)
    labels = open_labels(config, dataset).values[:: 1 + config.labels.copies]
    points = torch.from_numpy(read_targets(dataset, "train").points)
    model = load_run(tmp_path / "run")
    found = model.retrieval_distances(points).argmin(dim=1).numpy()
    fit = labels[np.arange(len(labels)), found]
    chance, best = labels.mean(), labels.min(axis=1).mean()
    assert fit.mean() < chance - 0.3 * (chance - best), "by a third nearer to the best than a draw at random"
    assert (labels < fit[:, None]).sum(axis=1).mean() < 0.7 * (labels.shape[1] - 1) / 2, "few would have fitted better"


def test_the_deformation_is_the_teachers_to_the_bit(tiny_dataset, tmp_path, teacher, labels_path):
    train(pupil(tiny_dataset, tmp_path / "run", teacher, labels_path))
    model, of_teacher = load_run(tmp_path / "run"), load_run(teacher)
    assert model.method == "fit_aware" and model.has_retrieval and model.has_deformation
    store = SourceStore.open(open_dataset(tiny_dataset))
    points, rows = store.clouds(np.arange(4)), torch.arange(len(store)).expand(4, -1)
    for ours, theirs in zip(model.deform(points, rows, store), of_teacher.deform(points, rows, store), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(model.retrieval_distances(points), of_teacher.retrieval_distances(points))


@pytest.mark.parametrize("sampled", [{}, {"labels__sources": 6, "labels__step_sources": 7}])
def test_an_interrupted_run_goes_on_to_the_bit(tiny_dataset, tmp_path, teacher, labels_path, monkeypatch, sampled):
    configs = [pupil(tiny_dataset, tmp_path / name, teacher, labels_path, **sampled) for name in ("whole", "broken")]
    train(configs[0])
    save, saves = BankClient.save, []

    def interrupted(bank: BankClient, folder: Path) -> dict[str, str]:
        saves.append(folder)
        if len(saves) == 3:
            raise KeyboardInterrupt
        return save(bank, folder)

    with monkeypatch.context() as patch:
        patch.setattr(BankClient, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(configs[1])
    train(configs[1])
    for which in ("last", BEST):
        whole, broken = (arrays_of(Path(config.run.path), which) for config in configs)
        assert whole.keys() == broken.keys()
        assert all(np.array_equal(values, broken[name]) for name, values in whole.items())


def test_the_best_is_chosen_by_the_fit_after_ido(tiny_dataset, tmp_path, teacher, labels_path):
    config = pupil(tiny_dataset, tmp_path / "run", teacher, labels_path, train__validate_every=1)
    train(config)
    values = logged(tmp_path / "run", "chamfer_x100", "val")
    deformed = logged(teacher, "chamfer_x100", "val")
    assert min(values) < min(deformed), "IDO fits closer than a network of a few steps"


def test_checked_the_first_ten_stand_in_the_order_of_their_labels(tiny_dataset, tmp_path, teacher, labels_path):
    config = pupil(tiny_dataset, tmp_path / "run", teacher, labels_path)
    train(config)
    model, store = load_run(tmp_path / "run"), SourceStore.open(open_dataset(tiny_dataset))
    points = torch.from_numpy(read_targets(open_dataset(tiny_dataset), "train").points)
    views, rules = [Cases(points, points, np.ones(len(points)))], Rules(256, True, 4, 0.01, True)
    rows = {row.method: row for row in measure(store, Contender(FIT_AWARE, 0, model, model), views, "full", rules)}
    checked, plain = rows[with_ido(CHECKED)], rows[with_ido(FIT_AWARE)]
    # Labels are there already: those of training, of the targets as they are.
    labels = open_labels(config, open_dataset(tiny_dataset)).values[::2]
    ten = model.retrieval_distances(points).argsort(dim=1, stable=True)[:, :10].numpy()
    best = np.take_along_axis(labels, ten, 1).argmin(axis=1)
    assert (checked.retrieved == np.asarray(store.ids)[ten[np.arange(len(ten)), best]]).all()
    assert (plain.retrieved == np.asarray(store.ids)[ten[:, 0]]).all()
    assert np.array_equal(checked.fits["reranked"], plain.fits["reranked"]), "the same ten, refined alike"
    partial = measure(store, Contender(FIT_AWARE, 0, model, model), views, "partial-50", rules)
    assert with_ido(CHECKED) not in {row.method for row in partial}, "a label is a fit to the whole"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"labels__num_points": 512}, r"labels\.num_points is 512, but .* stores 256 points a shape"),
        ({"train__teacher": None}, r"train\.teacher is none, but train\.method fit_aware takes over"),
    ],
)
def test_a_run_that_can_not_be_is_refused_before_anything_is_written(
    tiny_dataset, tmp_path, teacher, labels_path, overrides, message
):
    with pytest.raises(InputError, match=message):
        train(pupil(tiny_dataset, tmp_path / "run", teacher, labels_path, **overrides))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_several_workers_learn_as_well(tiny_dataset, tmp_path, teacher, labels_path, ray_cluster):
    overrides = {"train__num_workers": 2, "train__batch_size": 4, "bank__num_shards": 2}
    few = {"labels__step_sources": 8, "train__epochs": 20, "retrieval__sigma0": 2.0}
    train(pupil(tiny_dataset, tmp_path / "run", teacher, labels_path, **overrides, **few))
    found = logged(tmp_path / "run", "chamfer_x100", "val")  # a step's loss says little: each compares other sources
    assert min(found) < 0.9 * found[0]
