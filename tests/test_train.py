"""Training end to end in this process, on a tiny dataset: learning, resuming, refusing."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from jr_dist.array_files import read_arrays
from jr_dist.config import Config, load_config
from jr_dist.data.dataset import TargetTable, open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.train import trained
from jr_dist.train.candidates import begin_draw
from jr_dist.train.checkpoint import load_checkpoint
from jr_dist.train.group import Group
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.run_directory import BEST, LAST, checkpoint_path
from jr_dist.train.state import new_state
from jr_dist.train.step import joint_step, pair_up
from jr_dist.train.trained import load_run
from jr_dist.train.trainer import train
from jr_dist.train.validate import validation_targets


def settings(dataset: Path, run: Path, **overrides) -> Config:
    small = {
        "data.path": dataset,
        "data.num_points": 128,
        "data.encoder_points": 64,
        "model.encoder_channels": (16, 32),
        "model.global_code": 16,
        "model.part_code": 8,
        "model.target_code": 16,
        "model.hidden": (32, 16),
        "retrieval.embedding": 16,
        "retrieval.num_candidates": 4,
        "train.epochs": 4,
        "train.warmup_epochs": 1,
        "train.batch_size": 8,
        "train.validate_every": 2,
        "train.checkpoint_every": 1,
        "train.num_workers": 0,
        "train.device": "cpu",
        "run.path": run,
    }
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(None, {name: str(v) if isinstance(v, Path) else v for name, v in {**small, **named}.items()})


def arrays_of(run: Path, which: str = LAST) -> dict[str, np.ndarray]:
    checkpoint = load_checkpoint(checkpoint_path(run, which))
    named = {f"networks.{n}": a for n, a in checkpoint.networks.items()}
    named |= {f"optimiser.{n}": a for n, a in checkpoint.optimiser.items()}
    named |= {f"drawn.{n}": a for n, a in checkpoint.drawn.items()}
    blocks = sorted(name for name in checkpoint.hashes if name.startswith("bank-"))
    for number, name in enumerate(blocks):
        arrays = read_arrays(checkpoint.path / name, checkpoint.hashes[name])
        named |= {f"bank.{number}.{n}": a for n, a in arrays.items()}
    return named


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_a_gpu(tiny_dataset, tmp_path, method):
    result = train(settings(tiny_dataset, tmp_path / "run", train__method=method, train__device="cuda"))
    assert np.isfinite(result.metrics["chamfer_x100"])


@pytest.mark.parametrize("method", [method.name for method in METHODS.values() if method.trains_deformation])
def test_a_run_leaves_what_evaluation_needs(tiny_dataset, tmp_path, method):
    config = settings(tiny_dataset, tmp_path / "run", train__method=method)
    result = train(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["part"] for line in lines} == {"train", "val", "end"}
    assert result.metrics["n"] == open_dataset(tiny_dataset).manifest.counts["val"]
    assert load_config(tmp_path / "run" / "config.yaml") == config
    model = load_run(tmp_path / "run")
    store = SourceStore.open(open_dataset(tiny_dataset))
    points = store.geometry(np.array([0, 3])).points
    assert model.retrieval_distances(points).shape == (2, len(store.ids))
    centre, half_extent = model.deform(points, torch.tensor([[1, 2, 5], [0, 4, 2]]), store)
    assert centre.shape == half_extent.shape == (2, 3, store.max_parts, 3)
    assert (half_extent > 0).all()


def test_losses_fall(tiny_dataset, tmp_path):
    train(settings(tiny_dataset, tmp_path / "run", train__epochs=40, train__validate_every=40, retrieval__sigma0=1.0))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["part"] == "train"]
    for name in ("fit", "loss_deformation"):
        first, last = (np.mean([line[name] for line in part]) for part in (steps[:3], steps[-3:]))
        assert last < 0.9 * first, name


@pytest.mark.parametrize("overrides", [
    {},
    {"retrieval__source_embedding": "code"},
    {"train__optimizer": "sgd", "train__alternate": True, "retrieval__loss": "l1", "retrieval__fit_scale": "learned"},
    {"bank__lookahead": 1, "retrieval__refresh_steps": 2, "bank__num_shards": 3, "bank__block_size": 4},
    {"data__observed": "partial"},
], ids=["defaults", "learned embedding", "the paper's letter", "drawn ahead", "seen in part"])  # fmt: skip
def test_resuming_equals_never_having_stopped(tiny_dataset, tmp_path, overrides, capsys):
    straight = settings(tiny_dataset, tmp_path / "straight", train__schedule="constant", **overrides)
    train(straight)
    half = settings(tiny_dataset, tmp_path / "halves", train__schedule="constant", train__epochs=2, **overrides)
    train(half)
    assert "resumed" not in capsys.readouterr().out
    train(settings(tiny_dataset, tmp_path / "halves", train__schedule="constant", **overrides))
    assert "resumed" in capsys.readouterr().out
    first, second = arrays_of(tmp_path / "straight"), arrays_of(tmp_path / "halves")
    assert first.keys() == second.keys()
    for name in first:
        assert np.array_equal(first[name], second[name]), name
    steps = [json.loads(line)["step"] for line in (tmp_path / "halves" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_same_seed_same_run_other_seed_another(tiny_dataset, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(settings(tiny_dataset, tmp_path / name, train__seed=seed, train__epochs=2))
    a, b, c = (arrays_of(tmp_path / name) for name in "abc")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["bank.0.global_code"], c["bank.0.global_code"])


def test_uniform_and_ours_are_the_same_while_warming_up_and_differ_after(tiny_dataset, tmp_path):
    weights = {}
    for method in ("ours", "uniform"):
        config = settings(
            tiny_dataset, tmp_path / method, train__method=method, train__epochs=2, train__validate_every=1
        )
        train(config)
        lines = [json.loads(line) for line in (tmp_path / method / "metrics.jsonl").read_text().splitlines()]
        weights[method] = [line["chamfer_x100"] for line in lines if line["part"] == "val"]
    assert weights["ours"][0] == weights["uniform"][0]
    assert weights["ours"][1] != weights["uniform"][1]


def test_a_retrieval_step_leaves_the_deformation_module_alone(tiny_dataset, tmp_path):
    from jr_dist.data.step_plan import step_plan
    from jr_dist.data.streams import local_target_batches
    from jr_dist.train.methods.plan import StepPlan

    dataset = open_dataset(tiny_dataset)
    config = settings(tiny_dataset, tmp_path / "run")
    state = new_state(config, SourceStore.open(dataset), Group())
    targets = step_plan(
        dataset, "train", None, batch_size=8, num_points=128, encoder_points=64, seed=0, rank=0, world_size=1
    )
    batch = next(iter(local_target_batches(targets, range(1))))
    before = {name: value.clone() for name, value in state.networks.named_parameters()}
    everything = np.arange(len(state.store.ids))
    tables = state.bank.pull(everything).leaves()
    draw = begin_draw(state, batch, soft=False)
    joint_step(state, batch, StepPlan(soft=False, weighted=False, deformation=False, retrieval=True), 1e-2, draw)
    moved = {name for name, value in state.networks.named_parameters() if not torch.equal(value, before[name])}
    after = state.bank.pull(everything).leaves()
    assert moved and all(name.startswith("retrieval_encoder") for name in moved)
    assert torch.equal(after["global_code"], tables["global_code"])
    assert torch.equal(after["part_code"], tables["part_code"])
    assert not torch.equal(after["retrieval_weight"], tables["retrieval_weight"])


def test_a_loss_in_a_frame_of_its_own_counts_in_the_unit_of_the_whole(tiny_dataset, tmp_path):
    """Targets told in frames twice as large and off centre, and all else in the same frames: every loss stays."""
    from jr_dist.data.step_plan import step_plan
    from jr_dist.data.streams import TargetBatch, local_target_batches
    from jr_dist.train.methods.plan import StepPlan

    dataset = open_dataset(tiny_dataset)
    numbers: dict[str, Any] = {
        "batch_size": 8,
        "num_points": 128,
        "encoder_points": 64,
        "seed": 0,
        "rank": 0,
        "world_size": 1,
    }
    batch = next(iter(local_target_batches(step_plan(dataset, "train", None, **numbers), range(1))))
    shift = torch.tensor([0.3, -0.2, 0.1])
    elsewhere = replace(batch, points=batch.points / 2 + shift, scale=torch.full((8,), 2.0), origin=shift.expand(8, 3))
    plan = StepPlan(soft=False, weighted=False, deformation=True, retrieval=False)

    def losses(batch: TargetBatch, alpha: float, move: Callable[[Tensor], Tensor], size: float) -> dict[str, float]:
        config = settings(tiny_dataset, tmp_path / "run", model__alpha=alpha)
        state = new_state(config, SourceStore.open(dataset), Group())

        def geometry(rows: np.ndarray) -> PartGeometry:
            there = state.store.geometry(rows, num_points=128)
            moved = {name: move(getattr(there, name)) for name in ("points", "centre")}
            return replace(there, **moved, half_extent=there.half_extent * size)

        step_state = replace(state, kept_geometry=cast(Any, SimpleNamespace(geometry=geometry)))
        return joint_step(step_state, batch, plan, 1e-3, begin_draw(state, batch, soft=False))

    first, second = losses(batch, 0.1, lambda x: x, 1.0), losses(elsewhere, 0.05, lambda x: x / 2 + shift, 0.5)
    for name in ("fit", "symmetry", "loss_deformation"):
        assert first[name] == pytest.approx(second[name], rel=1e-4), name


def test_validation_cuts_a_target_by_its_id_alone(tiny_dataset):
    """Whatever company it is in; what is validated is the whole, in the frame of what is left."""
    table = read_targets(open_dataset(tiny_dataset), "val")
    data = settings(tiny_dataset, Path("run"), data__observed="partial").data
    shown = validation_targets(table, data)
    backwards = range(len(table))[::-1]
    turned = TargetTable(
        tuple(table.ids[i] for i in backwards), tuple(table.categories[i] for i in backwards),
        table.points[::-1], table.transforms[::-1], table.part_index[::-1],
    )  # fmt: skip
    for name in ("points", "shown", "scale"):
        assert torch.equal(getattr(validation_targets(turned, data), name).flip(0), getattr(shown, name)), name
    whole = validation_targets(table, data.model_copy(update={"observed": "full"}))
    assert torch.equal(whole.scale, torch.ones(len(table)))
    assert torch.equal(whole.shown, whole.points[:, :64])
    assert (shown.scale < 1.001).all() and len(set(shown.scale.tolist())) > 1
    for points, scale, stored in zip(shown.points, shown.scale, whole.points):
        back = (points - points.mean(dim=0)) * scale
        torch.testing.assert_close(back, stored - stored.mean(dim=0), atol=1e-5, rtol=0)


def test_pairs_name_each_source_once():
    pairs = pair_up(np.array([[4, 2], [2, 7]]), torch.device("cpu"))
    assert pairs.rows.tolist() == [2, 4, 7]
    assert pairs.rows[pairs.source_index].tolist() == [4, 2, 2, 7]
    assert pairs.target_index.tolist() == [0, 0, 1, 1]


def test_flat_distributions_are_called_a_failure(tiny_dataset, tmp_path, capsys):
    config = settings(
        tiny_dataset,
        tmp_path / "run",
        retrieval__sigma0=1000.0,
        retrieval__spread_factor=1e-3,
        train__epochs=2,
    )
    assert train(config).metrics["uniform_against_uniform"]
    assert "Uniform Sampling" in capsys.readouterr().out


def test_a_diverging_run_stops_before_it_is_saved(tiny_dataset, tmp_path):
    config = settings(tiny_dataset, tmp_path / "run", train__learning_rate=1e18, train__optimizer="sgd")
    with pytest.raises(FloatingPointError, match="step"):
        train(config)


@pytest.mark.parametrize(("overrides", "said"), [
    ({"retrieval__num_candidates": 13}, "retrieval.num_candidates"),
    ({"data__num_points": 4096, "data__encoder_points": 64}, "data.num_points"),
    ({"train__batch_size": 500}, "train.batch_size"),
    ({"data__categories": ("lamp",)}, "lamp"),
    ({"run__resume": "nowhere"}, "run.resume"),
])  # fmt: skip
def test_wrong_settings_are_refused_before_anything_is_written(tiny_dataset, tmp_path, overrides, said):
    with pytest.raises(InputError, match=said):
        train(settings(tiny_dataset, tmp_path / "run", **overrides))
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten_or_continued_by_other_settings(tiny_dataset, tmp_path):
    run = tmp_path / "run"
    train(settings(tiny_dataset, run, train__epochs=2))
    before = arrays_of(run)
    with pytest.raises(InputError, match="never"):
        train(settings(tiny_dataset, run, train__epochs=2, run__resume="never"))
    with pytest.raises(InputError, match=r"model\.global_code 16, now it is 20"):
        train(settings(tiny_dataset, run, train__epochs=3, model__global_code=20))
    assert all(np.array_equal(before[name], value) for name, value in arrays_of(run).items())


def test_drawing_ahead_looks_at_the_codes_of_the_step_before(tiny_dataset, tmp_path):
    """With codes that hardly move, it draws what is drawn without; with codes that move, something else."""
    drawn = {}
    for rate in (1e-12, 1e-1):
        for ahead in (0, 1):
            run = tmp_path / f"{rate}-{ahead}"
            overrides = {"train__learning_rate": rate, "bank__lookahead": ahead, "retrieval__sigma0": 1.0}
            train(settings(tiny_dataset, run, retrieval__source_embedding="code", **overrides))
            arrays = arrays_of(run)
            drawn[rate, ahead] = np.concatenate(
                [arrays[f"bank.0.{name}.count"] for name in ("global_code", "embedding")]
            )
    assert np.array_equal(drawn[1e-12, 0], drawn[1e-12, 1])
    assert not np.array_equal(drawn[1e-1, 0], drawn[1e-1, 1])


@pytest.mark.parametrize("damage", ["flip", "missing", "no manifest"])
def test_a_damaged_checkpoint_is_named_and_refused(tiny_dataset, tmp_path, damage):
    run = tmp_path / "run"
    train(settings(tiny_dataset, run, train__epochs=2))
    best = checkpoint_path(run, BEST)
    victim = best / ("manifest.json" if damage == "no manifest" else "bank-000000.safetensors")
    if damage == "flip":
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(bytes(content))
    else:
        victim.unlink()
    with pytest.raises(InputError, match="checkpoint"):
        load_run(run)


def test_a_best_that_is_replaced_while_it_is_read_is_read_anew(tiny_dataset, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(settings(tiny_dataset, run, train__epochs=2))
    folder, best = run / "checkpoints", checkpoint_path(run, BEST)
    load = trained.load_checkpoint

    def overtaken(path: Path):
        checkpoint = load(path)
        if not (folder / "newer").exists():  # as the trainer does: the new one, the link, then the old one goes
            shutil.copytree(path, folder / "newer")
            best.unlink()
            best.symlink_to("newer")
            shutil.rmtree(path)
        return checkpoint

    monkeypatch.setattr(trained, "load_checkpoint", overtaken)
    assert load_run(run).step == 6


def test_a_full_disk_while_saving_keeps_the_last_checkpoint(tiny_dataset, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(settings(tiny_dataset, run, train__epochs=2))
    before = arrays_of(run)
    write = Path.write_bytes

    def full(self, content):
        if "bank-" in self.name:
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"no room.*No space.*step 6"):
        train(settings(tiny_dataset, run))
    monkeypatch.undo()
    assert all(np.array_equal(before[name], value) for name, value in arrays_of(run).items())
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert {BEST, LAST} <= left <= {BEST, LAST, *(os.readlink(run / "checkpoints" / name) for name in (BEST, LAST))}


def test_no_checkpoint_is_no_run(tmp_path):
    with pytest.raises(InputError, match="checkpoint"):
        load_run(tmp_path)


def test_a_refused_resume_changes_nothing(tiny_dataset, tmp_path):
    run = tmp_path / "run"
    train(settings(tiny_dataset, run, train__epochs=3))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"model\.alpha"):
        train(settings(tiny_dataset, run, train__epochs=3, model__alpha=0.3))
    with pytest.raises(InputError, match=r"train\.batch_size times train\.num_workers"):
        train(settings(tiny_dataset, run, train__epochs=3, train__num_workers=2))
    with pytest.raises(InputError, match=r"raise train\.epochs"):
        train(settings(tiny_dataset, run, train__epochs=2))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_finished_run_started_again_says_the_same(tiny_dataset, tmp_path):
    config = settings(tiny_dataset, tmp_path / "run", train__epochs=2)
    assert train(config).metrics == train(config).metrics != {}


def test_going_on_from_another_run_leaves_a_whole_run(tiny_dataset, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train(settings(tiny_dataset, first, train__epochs=2))
    with pytest.raises(InputError, match=r"raise train\.epochs"):
        train(settings(tiny_dataset, second, train__epochs=2, run__resume=first))
    train(settings(tiny_dataset, second, train__epochs=4, run__resume=first))
    assert load_run(second).step > load_run(first).step


@pytest.mark.parametrize("epochs", [3, 4])
def test_flat_distributions_are_noticed_when_the_modules_take_turns(tiny_dataset, tmp_path, epochs):
    flat = {"retrieval__sigma0": 1000.0, "retrieval__spread_factor": 1e-3, "train__alternate": True}
    config = settings(tiny_dataset, tmp_path / "run", train__epochs=epochs, train__validate_every=1, **flat)
    assert train(config).metrics["uniform_against_uniform"]
