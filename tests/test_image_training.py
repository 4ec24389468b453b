"""Training on pictures: it learns, goes on to the bit, and every way to place the sources does what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from image_cases import image_settings
from safetensors.torch import save_file
from test_train import arrays_of
from test_trainer import as_many_threads_as_a_worker
from torchvision import models

from jr_dist.bank.client import BankClient
from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.pictures import open_pictures, picture_settings
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.train import checks, loop
from jr_dist.train.dry_run import plan_training
from jr_dist.train.embedding import embed, refresh_embeddings
from jr_dist.train.group import Group
from jr_dist.train.run_directory import BEST, LAST, checkpoint_path
from jr_dist.train.state import new_state
from jr_dist.train.trained import load_run
from jr_dist.train.trainer import train


def metrics_of(run: Path, part: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["part"] == part]


@pytest.fixture(scope="module")
def image_run(pictured_dataset, tmp_path_factory) -> Path:
    """A run of `ours` whose sources are placed by their points; two epochs."""
    run = tmp_path_factory.mktemp("images") / "run"
    train(image_settings(pictured_dataset, run))
    return run


@pytest.mark.slow
def test_a_run_that_goes_on_is_one_that_never_stopped(image_run, pictured_dataset, tmp_path, monkeypatch):
    """Interrupted between its two epochs: augmentation, views and candidates are those of the whole run.

    Not so with other pictures than it began with, which are refused.
    """
    saves, save = [], BankClient.save

    def interrupted(bank: BankClient, folder: Path) -> dict[str, str]:
        saves.append(folder)
        if len(saves) == 2:
            raise KeyboardInterrupt
        return save(bank, folder)

    config = image_settings(pictured_dataset, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(BankClient, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    with monkeypatch.context() as patch:
        others = partial(lambda how, *given: replace(how(*given), identity="of others"), checks.open_pictures)
        patch.setattr(checks, "open_pictures", others)
        with pytest.raises(InputError, match="other pictures"):
            train(config)
    train(config)
    whole, resumed = arrays_of(image_run), arrays_of(tmp_path / "run")
    assert whole.keys() == resumed.keys()
    for name, values in whole.items():
        assert np.array_equal(values, resumed[name]), name


@pytest.mark.slow
def test_a_loaded_run_takes_pictures_and_finds_what_validation_found(image_run, pictured_dataset):
    model, dataset = load_run(image_run), open_dataset(pictured_dataset)
    store, table = SourceStore.open(dataset), read_targets(dataset, "val")
    how = picture_settings(model.config.data)
    assert model.takes_pictures and how is not None
    shown = torch.from_numpy(open_pictures(dataset, "val", None, how).fixed(table.ids))
    rows = model.retrieval_distances(shown).argmin(dim=1)
    centre, half_extent = model.deform(shown, rows[:, None], store)
    assert centre.shape == half_extent.shape == (len(table), 1, store.max_parts, 3)
    best = min(metrics_of(image_run, "val"), key=lambda line: line["chamfer_x100"])
    assert len(rows.unique()) == best["distinct"]
    for ask in (model.retrieval_distances, lambda points: model.deform(points, rows[:, None], store)):
        with pytest.raises(InputError, match=r"trained on pictures, but it is given points") as refused:
            ask(torch.from_numpy(table.points.copy()))
        assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("embedding", ["encoder", "renders", "code"])
def test_it_learns_to_fit_and_to_retrieve(pictured_dataset, tmp_path, monkeypatch, embedding):
    """On plain pictures of a few shapes both losses fall, whichever way sources are placed."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    config = image_settings(
        pictured_dataset, tmp_path / "run", data__augment="none", retrieval__source_embedding=embedding,
        retrieval__source_views=2, retrieval__sigma0=1.0, retrieval__num_candidates=8, train__epochs=16,
        train__warmup_epochs=15, train__validate_every=16, train__checkpoint_every=16, train__optimizer="adam",
        model__alpha=1.0,
    )  # fmt: skip
    train(config)
    losses = metrics_of(tmp_path / "run", "train")
    assert len(losses) == 48
    for name in ("fit", "loss_embedding"):
        first, last = (np.mean([line[name] for line in some]) for some in (losses[:6], losses[-9:-3]))
        assert last < 0.85 * first, name


@pytest.mark.parametrize("embedding", ["encoder", "renders"])
def test_the_cache_is_what_the_source_s_encoder_says(pictured_dataset, tmp_path, embedding):
    config = image_settings(
        pictured_dataset, tmp_path / "run", retrieval__source_embedding=embedding, retrieval__source_views=3
    )
    state = new_state(config, SourceStore.open(open_dataset(pictured_dataset)), Group())
    refresh_embeddings(state)
    rows = np.array([7, 2])
    queries = torch.zeros(1, 16)
    found = state.bank.squared_distances(queries)[0, rows]
    if embedding == "renders":
        assert state.pictures is not None and state.networks.source_encoder is None
        views = [embed(state, state.pictures.take(rows, view)) for view in range(3)]
        expected = sum(views) / 3
        assert (views[0] - views[1]).abs().max() > 1e-4
    else:
        own = state.networks.source_encoder
        assert own is not None and state.pictures is None
        expected = own.eval()(state.store.clouds(rows, 64)).detach()
    everything = state.bank.pull(np.arange(len(state.store)))
    weight = torch.sigmoid(everything.retrieval_weight[rows]) + 1e-6
    torch.testing.assert_close(found, (weight * expected).square().sum(-1).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["uniform", "df", "mds", "ours_ido", "dar", "fit_aware"])
def test_every_method_that_makes_sense_for_pictures_trains(image_run, pictured_dataset, tmp_path, method):
    named = {}
    if method == "fit_aware":
        named = {"train__teacher": image_run, "labels__num_points": 64}
    if method == "dar":
        train(image_settings(pictured_dataset, tmp_path / "df", train__method="df"))
        named = {"train__teacher": tmp_path / "df"}
    config = image_settings(pictured_dataset, tmp_path / method, train__method=method, **named)
    result = train(config)
    assert np.isfinite(result.metrics["chamfer_x100"]) and result.metrics["n"] == 3
    arrays = arrays_of(tmp_path / method)
    if named:
        teacher = arrays_of(Path(str(named["train__teacher"])), BEST)
        kept = [name for name in teacher if name.startswith("networks.deformation")]
        assert kept and all(np.array_equal(arrays[name], teacher[name]) for name in kept)
    plan, files = plan_training(config), list(checkpoint_path(tmp_path / method, LAST).iterdir())
    assert plan.checkpoint_bytes == pytest.approx(sum(file.stat().st_size for file in files), rel=0.03)


@pytest.mark.slow
def test_weights_are_read_at_the_start_and_never_again(pictured_dataset, tmp_path):
    torch.manual_seed(0)
    theirs, file = models.resnet18().state_dict(), tmp_path / "resnet.safetensors"
    save_file(theirs, file)
    given = {"model__encoder_weights": file, "model__encoder_layers": "head", "model__freeze_batch_norm": True}
    train(image_settings(pictured_dataset, tmp_path / "run", train__epochs=2, **given))
    file.unlink()
    train(image_settings(pictured_dataset, tmp_path / "run", train__epochs=3, **given))
    arrays = arrays_of(tmp_path / "run")
    for encoder in ("deformation_encoder", "retrieval_encoder"):
        for name, value in theirs.items():
            if not name.startswith("fc.") and "num_batches" not in name:
                assert np.array_equal(arrays[f"networks.{encoder}.resnet.{name}"], value.numpy()), name
    with pytest.raises(InputError, match=r"model\.encoder_weights .* can't be read"):
        train(image_settings(pictured_dataset, tmp_path / "other", **given))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("changes", "said"), [
    ({"model__encoder": "pointnet"}, "model.encoder is pointnet, which sees points, but data.images is files"),
    ({"data__images": "none", "data__augment": "none"}, "model.encoder is resnet18, which sees pictures"),
    ({"data__images": "none", "model__encoder": "pointnet"}, "data.augment is photo, but data.images is none"),
    ({"data__images": "none", "model__encoder": "pointnet", "data__augment": "none",
      "retrieval__source_embedding": "renders"}, "source_embedding is renders, but data.images is none"),
    ({"data__observed": "partial"}, "data.observed is partial, but data.images is files; allowed is full"),
    ({"train__method": "ae"}, "train.method is ae, which decodes the points"),
    ({"model__encoder_layers": "head"}, "model.encoder_layers is head, but model.encoder_weights is none"),
    ({"model__freeze_batch_norm": True}, "model.freeze_batch_norm is true, but model.encoder_weights is none"),
    ({"data__image_size": 16}, "data.image_size is 16"),
])  # fmt: skip
def test_settings_that_disagree_are_refused_in_a_line(changes, said):
    with pytest.raises(InputError, match=said) as refused:
        image_settings(Path("data/x"), Path("runs/x"), **changes)
    assert "\n" not in str(refused.value) and "allowed" in str(refused.value)


def test_a_run_without_its_pictures_is_refused_before_anything_is_written(
    tiny_dataset, pictured_dataset, image_run, tmp_path
):
    for dataset, changes, said in [
        (tiny_dataset, {}, "jr-dist render"),
        (pictured_dataset, {"retrieval__source_embedding": "renders"}, "source_views is 4, but there are 3 pictures"),
        (pictured_dataset, {"train__method": "fit_aware", "train__teacher": image_run, "labels__num_points": 64,
          "model__encoder": "resnet34"}, "was trained with model.encoder resnet18, now it is resnet34"),
        (pictured_dataset, {"train__method": "fit_aware", "train__teacher": image_run, "labels__num_points": 64,
          "data__image_size": 40}, "was trained with data.image_size 32, now it is 40"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=said) as refused:
            train(image_settings(dataset, tmp_path / "run", **changes))
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_worker_of_ray_train_gives_the_bits_of_this_process(ray_cluster, pictured_dataset, tmp_path):
    with as_many_threads_as_a_worker(side_by_side=1):
        train(image_settings(pictured_dataset, tmp_path / "here"))
    train(image_settings(pictured_dataset, tmp_path / "there", train__num_workers=1))
    first, second = arrays_of(tmp_path / "here"), arrays_of(tmp_path / "there")
    for name in first:
        assert np.array_equal(first[name], second[name]), name


@pytest.mark.slow
def test_two_workers_agree_with_each_other_and_keep_frozen_bits(ray_cluster, pictured_dataset, tmp_path):
    """What is frozen is not even averaged: 1/3 of three times a number is another number."""
    theirs, file = models.resnet18().state_dict(), tmp_path / "resnet.safetensors"
    save_file(theirs, file)
    config = image_settings(
        pictured_dataset, tmp_path / "run", model__encoder_weights=file, model__encoder_layers="head",
        model__freeze_batch_norm=True, train__num_workers=2, train__batch_size=4, train__epochs=2,
    )  # fmt: skip
    train(config)
    arrays = arrays_of(tmp_path / "run")
    for name, value in theirs.items():
        if not name.startswith("fc.") and "num_batches" not in name:
            assert np.array_equal(arrays[f"networks.retrieval_encoder.resnet.{name}"], value.numpy()), name
