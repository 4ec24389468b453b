"""The paper's other methods: each trains, goes on to the bit, and leaves what evaluation needs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import arrays_of, settings
from test_trainer import SGD, freeze_batch_norm, validations

from jr_dist.config import Config
from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.data.step_plan import step_plan
from jr_dist.data.streams import local_target_batches
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.errors import InputError
from jr_dist.geometry.chamfer import chamfer, chamfer_matrix
from jr_dist.train.candidates import begin_draw
from jr_dist.train.classical_mds import classical_mds
from jr_dist.train.embedding import refresh_embeddings
from jr_dist.train.group import Group
from jr_dist.train.methods import mds, ours_ido
from jr_dist.train.pairs import Predicted, pair_up, predict, source_geometry
from jr_dist.train.run_directory import BEST, LAST
from jr_dist.train.state import new_state
from jr_dist.train.trained import load_run
from jr_dist.train.trainer import train
from jr_dist.train.update import move

# What belongs to the deformation module, in the names of `arrays_of`.
DEFORMATION = ("networks.deformation", "bank.0.global_code", "bank.0.part_code")
PAPERS = {
    "train__alternate": True, "train__optimizer": "sgd", "train__weight_decay": 5e-4, "bank__lookahead": 1,
    "retrieval__dar_loss": "margin",
}  # fmt: skip


@pytest.fixture(scope="module")
def df_run(tiny_dataset, tmp_path_factory) -> Path:
    """A finished run of DF."""
    run = tmp_path_factory.mktemp("df") / "run"
    train(settings(tiny_dataset, run, train__method="df"))
    return run


def config_of(dataset: Path, run: Path, method: str, teacher: Path, **overrides: object) -> Config:
    named = {"train__teacher": teacher} if method == "dar" else {}
    return settings(dataset, run, train__method=method, train__schedule="constant", **named, **overrides)


def deformation_of(run: Path, which: str) -> dict[str, np.ndarray]:
    slots = (".mean", ".square", ".count", ".momentum")
    arrays = arrays_of(run, which).items()
    return {name: value for name, value in arrays if name.startswith(DEFORMATION) and not name.endswith(slots)}


@pytest.mark.parametrize("method", ["mds", "ae", "dar", "ours_ido", "df"])
@pytest.mark.parametrize("overrides", [{}, PAPERS], ids=["defaults", "in turns"])
def test_a_method_goes_on_to_the_bit(tiny_dataset, tmp_path, df_run, method, overrides):
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    metrics = train(config_of(tiny_dataset, straight, method, df_run, **overrides)).metrics
    assert np.isfinite(metrics["chamfer_x100"])
    train(config_of(tiny_dataset, halves, method, df_run, train__epochs=2, **overrides))
    train(config_of(tiny_dataset, halves, method, df_run, **overrides))
    first, second = arrays_of(straight), arrays_of(halves)
    assert first.keys() == second.keys()
    assert [name for name in first if not np.array_equal(first[name], second[name])] == []


@pytest.mark.parametrize(("method", "loss", "share"), [
    ("mds", "loss_embedding", 0.5), ("ae", "loss_reconstruction", 0.5), ("dar", "loss_embedding", 0.9),
])  # fmt: skip
def test_a_retrieval_loss_falls(tiny_dataset, tmp_path, df_run, method, loss, share):
    long = {"train__epochs": 40, "train__validate_every": 40, "train__checkpoint_every": 40}
    long |= {"retrieval__dar_loss": "margin"}
    train(config_of(tiny_dataset, tmp_path / "run", method, df_run, **long))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    values = [line[loss] for line in lines if line["part"] == "train"]
    assert np.mean(values[-3:]) < share * np.mean(values[:3])


@pytest.mark.parametrize("method", ["mds", "ae"])
@pytest.mark.parametrize("embedding", ["encoder", "code"])
def test_retrieval_alone_is_judged_by_the_undeformed_source(tiny_dataset, tmp_path, df_run, method, embedding):
    run = tmp_path / "run"
    overrides = {"train__epochs": 1, "retrieval__source_embedding": embedding}
    metrics = train(config_of(tiny_dataset, run, method, df_run, **overrides)).metrics
    model = load_run(run)
    assert model.has_retrieval and not model.has_deformation
    dataset = open_dataset(tiny_dataset)
    store = SourceStore.open(dataset)
    points = torch.from_numpy(read_targets(dataset, "val").points[:, :128].copy())
    retrieved = model.retrieval_distances(points).argmin(1)
    undeformed = chamfer_matrix(points, store.clouds(range(len(store)), 128))
    expected = undeformed[torch.arange(len(points)), retrieved].mean() * 100
    assert metrics["chamfer_x100"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_teacher_is_taken_over_and_stays_as_it_was_to_the_bit(tiny_dataset, tmp_path, df_run):
    run, teacher = tmp_path / "run", tmp_path / "teacher"
    shutil.copytree(df_run, teacher, symlinks=True)
    expected = deformation_of(teacher, BEST)
    assert any("running_mean" in name for name in expected)
    train(config_of(tiny_dataset, run, "dar", teacher, train__weight_decay=0.1, train__epochs=2))
    shutil.rmtree(teacher)
    train(config_of(tiny_dataset, run, "dar", teacher, train__weight_decay=0.1))  # a run that goes on needs it no more
    for which in (BEST, LAST):
        found = deformation_of(run, which)
        assert found.keys() == expected.keys()
        assert [name for name in found if not np.array_equal(found[name], expected[name])] == []


def test_a_run_deforms_as_its_teacher(tiny_dataset, tmp_path, df_run):
    train(config_of(tiny_dataset, tmp_path / "run", "dar", df_run, train__epochs=1))
    taught, teacher = load_run(tmp_path / "run"), load_run(df_run)
    assert taught.has_retrieval and taught.has_deformation and not teacher.has_retrieval
    store = SourceStore.open(open_dataset(tiny_dataset))
    points, rows = store.geometry(np.array([0, 3])).points, torch.tensor([[1, 2, 5], [0, 4, 2]])
    for mine, its in zip(taught.deform(points, rows, store), teacher.deform(points, rows, store), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize(("overrides", "said"), [
    ({"train__method": "dar"}, r"train\.teacher is none.*a finished df run"),
    ({"train__method": "dar", "train__teacher": "nowhere"}, r"nowhere holds no trained run"),
    ({"train__method": "ours", "train__teacher": "df"}, r"ours takes nothing over; allowed is none"),
    ({"train__method": "dar", "train__teacher": "df", "model__alpha": 0.2}, r"model\.alpha 0\.1, now it is 0\.2"),
    ({"train__method": "dar", "train__teacher": "df", "data__encoder_points": 32}, r"data\.encoder_points 64, now"),
    ({"train__method": "dar", "train__teacher": "df", "data__categories": "chair"}, r"data\.categories None, now"),
    ({"train__method": "dar", "train__teacher": "df", "bank__block_size": 4}, r"bank\.block_size 256, now it is 4"),
    ({"train__method": "dar", "train__teacher": "df", "retrieval__dar_loss": "margin", "retrieval__num_candidates": 2},
     r"num_candidates is 2.*than 2"),
])  # fmt: skip
def test_what_no_teacher_can_give_is_refused_before_anything_is_written(
    tiny_dataset, tmp_path, df_run, overrides, said
):
    named = {"df": df_run, "nowhere": tmp_path / "nowhere"}
    overrides = {name: named.get(value, value) for name, value in overrides.items()}
    with pytest.raises(InputError, match=said):
        train(settings(tiny_dataset, tmp_path / "run", **overrides))
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_another_method_dataset_or_half_finished_is_refused(
    tiny_dataset, tiny_run, tmp_path, df_run, monkeypatch
):
    with pytest.raises(InputError, match=r"is a run of ours; allowed with train\.method dar is a finished df run"):
        train(config_of(tiny_dataset, tmp_path / "run", "dar", tiny_run))
    with pytest.raises(InputError, match=r"half finished, at step 6 of 12"):
        train(config_of(tiny_dataset, tmp_path / "run", "dar", _interrupted(tiny_dataset, tmp_path, monkeypatch)))
    categories = ("chair", "table", "cabinet")
    synthesize(tmp_path / "other", num_sources=12, num_targets=30, categories=categories, seed=1, num_points=256)
    with pytest.raises(InputError, match="another dataset"):
        train(config_of(tmp_path / "other", tmp_path / "run", "dar", df_run))
    assert not (tmp_path / "run").exists()


def _interrupted(dataset: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of DF that stopped after its first validation."""
    from jr_dist.train import loop

    validate, run = loop.validate, folder / "interrupted"
    seen = []

    def second_fails(*arguments):
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return validate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", second_fails)
        with pytest.raises(KeyboardInterrupt):
            train(settings(dataset, run, train__method="df", train__checkpoint_every=2))
    return run


def test_mds_places_sources_and_targets_by_their_chamfer(tiny_dataset, tmp_path, monkeypatch):
    """With all sources as landmarks, or some of them; the sources stay there when embeddings are made anew."""
    dataset = open_dataset(tiny_dataset)
    config = settings(tiny_dataset, tmp_path / "run", train__method="mds")

    def placed() -> tuple[torch.Tensor, torch.Tensor]:
        state = new_state(config, SourceStore.open(dataset), Group())
        mds.prepare(state, dataset)
        refresh_embeddings(state)
        assert state.of_targets is not None
        return state.of_targets, state.bank.squared_distances(state.of_targets)

    places, distances = placed()
    store = SourceStore.open(dataset)
    sources = store.clouds(range(len(store)), 128)
    targets = torch.from_numpy(read_targets(dataset, "train").points[:, :128].copy())
    space = classical_mds(chamfer_matrix(sources, sources).numpy(), 16)
    scale = 1 / np.sqrt(np.square(space.coordinates).mean())
    expected = scale * space.place(chamfer_matrix(targets, sources).double().numpy())
    np.testing.assert_allclose(places.numpy(), expected, rtol=1e-4, atol=1e-4)
    between = ((expected[:, None] - scale * space.coordinates) ** 2).sum(-1) / 4  # the metric weight is 1/2
    np.testing.assert_allclose(distances.numpy(), between, rtol=1e-3, atol=1e-3)

    monkeypatch.setattr(mds, "MAX_LANDMARKS", 6)
    rows = mds.landmark_rows(len(store), config.train.seed)
    assert len(rows) == 6 and (np.diff(rows) > 0).all()
    fewer, _ = placed()
    space = classical_mds(chamfer_matrix(sources[rows], sources[rows]).numpy(), 16)
    expected = mds.unit_scale(space.coordinates) * space.place(chamfer_matrix(targets, sources[rows]).double().numpy())
    np.testing.assert_allclose(fewer.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_the_supervision_of_ido_draws_the_network_to_what_ido_found(tiny_dataset, tmp_path):
    """By that loss alone, on one batch: what IDO finds fits better, and the network comes nearer to it."""
    dataset = open_dataset(tiny_dataset)
    config = settings(tiny_dataset, tmp_path / "run", train__method="ours_ido", model__alpha=1.0)
    state = new_state(config, SourceStore.open(dataset), Group())
    targets = step_plan(
        dataset, "train", None, batch_size=4, num_points=128, encoder_points=64, seed=0, rank=0, world_size=1
    )
    batch = next(iter(local_target_batches(targets, range(1))))
    pairs = pair_up(begin_draw(state, batch, soft=False).candidates().rows, state.device)
    geometry, weights = source_geometry(state, pairs.rows), torch.full(pairs.shape, 0.25)
    losses = []
    for _ in range(12):
        codes = state.bank.pull(pairs.rows)
        predicted = predict(state, codes, geometry, batch.shown, pairs)
        loss, logged = ours_ido.supervision(state, predicted, batch.points, pairs, weights)
        fitting = chamfer(predicted.points(), batch.points, y_index=pairs.target_index).mean()
        assert float(logged["fit_inner"]) < 0.9 * fitting.item()
        move(state, codes, loss, 1e-2, num_targets=4)
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_the_distance_between_deformed_points_by_hand(tiny_dataset):
    """All parts moved by d and scaled by 1 + a: a point at canonical coordinates q is |d + a s q| away."""
    sources = SourceStore.open(open_dataset(tiny_dataset)).geometry(np.array([3]))
    predicted = Predicted(sources, sources.centre.clone().requires_grad_(), sources.half_extent.clone())
    move_by = torch.tensor([0.1, 0.0, -0.2])
    found = sources.centre + move_by, 1.5 * sources.half_extent
    of_part = sources.part_index[0].long()
    away = move_by + 0.5 * sources.half_extent[0, of_part] * sources.canonical[0]
    distance = ours_ido.point_distance(predicted, *found)
    assert distance.item() == pytest.approx(away.square().sum(-1).mean().item(), rel=1e-4)
    distance.backward()
    assert predicted.centre.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mds", "dar"], ids=["places shared", "teacher in shards"])
def test_two_workers_give_what_one_gives_with_batches_twice_as_large(
    ray_cluster, tiny_dataset, tmp_path, monkeypatch, method
):
    freeze_batch_norm(monkeypatch)
    teacher = tmp_path / "df"
    if method == "dar":
        train(settings(tiny_dataset, teacher, train__method="df", bank__block_size=2))
    common = {"train__epochs": 3, "train__validate_every": 1, "bank__block_size": 2, **SGD}
    train(config_of(tiny_dataset, tmp_path / "one", method, teacher, train__batch_size=8, **common))
    common |= {"train__batch_size": 4, "train__num_workers": 2, "bank__num_shards": 3}
    train(config_of(tiny_dataset, tmp_path / "two", method, teacher, **common))
    first, second = arrays_of(tmp_path / "one"), arrays_of(tmp_path / "two")
    assert first.keys() == second.keys()
    for name in first:
        assert np.allclose(first[name], second[name], rtol=1e-4, atol=1e-4), name
    assert np.allclose(validations(tmp_path / "one"), validations(tmp_path / "two"), rtol=1e-3)
