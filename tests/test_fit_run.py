"""`fit` with a trained run: it brings its dataset, retrieves what it finds nearest, and keeps joints closed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fit_cases import (
    NUM_POINTS,
    open_store,
    write_sources,
)

from jr_dist.config import Config, load_config
from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.part_mesh import concatenated, from_glb
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.geometry.frames import apply_transform, invert_transform
from jr_dist.serve import database as databases
from jr_dist.serve.fit import fit
from jr_dist.train.trained import load_run
from jr_dist.train.trainer import train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("fit"))


@pytest.fixture(scope="module")
def store(dataset: Path) -> SourceStore:
    return open_store(dataset)


@dataclass(frozen=True)
class FakeRun:
    """What `open_database` reads of a trained run."""

    config: Config
    dataset_hash: str
    source_ids: tuple[str, ...]
    method: str = "ours"
    has_retrieval: bool = True
    has_deformation: bool = True
    takes_pictures: bool = False


def fake_run(store: SourceStore, path: Path, **changes) -> FakeRun:
    config = load_config(None, {"data.path": str(path), "run.path": "run", "model.connectivity": "false"})
    return replace(FakeRun(config, open_dataset(path).hash, tuple(store.ids)), **changes)


def test_run_brings_its_dataset(store: SourceStore, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "load_run", lambda path: fake_run(store, dataset))
    database = databases.open_database("run", category="table", num_points=99999, top_k=2)
    assert [database.store.ids[row] for row in database.rows] == ["table-a", "table-b"]
    assert database.num_points == NUM_POINTS  # no more than are stored
    assert not database.connectivity


def test_moved_dataset_is_named(store: SourceStore, dataset: Path, tmp_path: Path, monkeypatch) -> None:
    run = fake_run(store, dataset)
    gone = load_config(None, {"data.path": str(tmp_path / "gone"), "run.path": "run"})
    monkeypatch.setattr(databases, "load_run", lambda path: replace(run, config=gone))
    with pytest.raises(InputError, match=r"dataset of run RUN: .*gone.*--data"):
        databases.open_database("RUN")
    assert len(databases.open_database("RUN", data=dataset).rows) == 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset_hash": "0" * 64}, "is not the one that run RUN was trained on"),
        ({"method": "df", "has_retrieval": False}, "method df, which learns no retrieval; one of ours, .*, mds"),
        ({"method": "mds", "has_deformation": False}, "method mds, which learns no deformation; .* add --refine"),
    ],
)
def test_runs_that_cannot_fit_are_refused(store, dataset, monkeypatch, changes: dict, expected: str) -> None:
    monkeypatch.setattr(databases, "load_run", lambda path: fake_run(store, dataset, **changes))
    with pytest.raises(InputError, match=expected):
        databases.open_database("RUN")


def test_a_run_that_retrieves_alone_is_refined(store, dataset, monkeypatch) -> None:
    run = fake_run(store, dataset, method="mds", has_deformation=False)
    monkeypatch.setattr(databases, "load_run", lambda path: run)
    database = databases.open_database("RUN", refine=True)
    assert not database.deforms and not database.trained_on_parts
    assert database.ido == run.config.ido


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs with small networks."""
    path = tmp_path_factory.mktemp("trained") / "run"
    model = {"encoder_channels": [16, 32], "global_code": 16, "part_code": 8, "target_code": 16, "hidden": [32, 16]}
    settings = {
        "data": {"path": str(tiny_dataset), "num_points": 128, "encoder_points": 64},
        "model": model,
        "retrieval": {"num_candidates": 2, "embedding": 8},
        "train": {"epochs": 2, "warmup_epochs": 1, "batch_size": 8, "num_workers": 0, "device": "cpu"},
        "run": {"path": str(path)},
    }
    train(Config.model_validate(settings))
    return path


@pytest.mark.slow
def test_trained_run_fits_a_scan(trained: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    table = read_targets(open_dataset(tiny_dataset), "test")
    cloud = apply_transform(table.transforms[0], table.points[0].astype(float)) * 100.0 + 7.0
    np.save(tmp_path / "scan.npy", cloud)
    (plain,), (refined,) = (
        fit(trained, [tmp_path / "scan.npy"], out=tmp_path / str(refine), top_k=3, num_points=256, refine=refine)
        for refine in (False, True)
    )

    model = load_run(trained)
    points = apply_transform(invert_transform(plain.transform), cloud).astype(np.float32)
    distances = model.retrieval_distances(torch.from_numpy(points)[None])[0].numpy()
    nearest = [model.source_ids[row] for row in np.argsort(distances)[:3]]
    by_rank = sorted(plain.candidates, key=lambda candidate: candidate.retrieval_rank)
    assert [candidate.source for candidate in by_rank] == nearest
    for result in (plain, refined):
        for candidate in result.candidates:
            assert candidate.joints.joints_max_gap < 1e-4
            found = from_glb((result.path / candidate.glb).read_bytes())
            assert found.names == tuple(part.name for part in candidate.parts)
            low, high = (f(concatenated(found)[0], axis=0) for f in (np.min, np.max))
            reach = np.ptp(cloud, axis=0)
            assert (low > cloud.min(0) - reach.max()).all() and (high < cloud.max(0) + reach.max()).all()
    before = {candidate.source: candidate.chamfer_after_x100 for candidate in plain.candidates}
    assert all(x.chamfer_after_x100 <= before[x.source] for x in refined.candidates)
    assert refined.candidates[0].chamfer_after_x100 < plain.candidates[0].chamfer_after_x100
