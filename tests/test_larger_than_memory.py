"""Databases that do not fit in memory: the bits are those of one that does, and what is read does not stay."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_SETTINGS
from evaluation_cases import NUM_POINTS, BoxModel, FakeStore, settings, sources, targets
from test_train import arrays_of

from jr_dist.blocks import run_jobs
from jr_dist.config import load_config
from jr_dist.data import nearest_source, recent_projections, source_store, step_plan
from jr_dist.data.dataset import open_dataset, read_targets, write_dataset
from jr_dist.data.nearest_source import nearest_by_chamfer
from jr_dist.data.records import SourceModel
from jr_dist.data.source_store import SourceStore
from jr_dist.evaluate import protocol, work
from jr_dist.evaluate.measure import Rules
from jr_dist.evaluate.methods import DF, NEAREST_DF, OURS
from jr_dist.evaluate.protocol import evaluate
from jr_dist.evaluate.runs import Ground, LoadedRun, Scope, entrants
from jr_dist.geometry.chamfer import chamfer_matrix
from jr_dist.serve.fit import fit
from jr_dist.train.trainer import train


@pytest.fixture
def larger_than_memory(monkeypatch, tmp_path) -> Path:
    """Nothing is small enough to be kept; the folder of the mapped files."""
    scratch = tmp_path / "scratch"
    monkeypatch.setattr(source_store, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(step_plan, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(step_plan, "_tables", {})
    monkeypatch.setattr(recent_projections, "MAX_BYTES", 20_000)
    monkeypatch.setattr(nearest_source, "CHUNK", 5)
    monkeypatch.setenv("JR_SCRATCH", str(scratch))
    return scratch


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def in_memory(tiny_dataset, tiny_run, tmp_path_factory) -> Path:
    """What training, evaluation and fit leave on `tiny_dataset` as it is."""
    folder = tmp_path_factory.mktemp("in memory")
    np.save(folder / "cloud.npy", read_targets(open_dataset(tiny_dataset), "test").points[0])
    use(tiny_dataset, tiny_run, folder / "cloud.npy", folder)
    return folder


def use(dataset: Path, run: Path, cloud: Path, folder: Path) -> None:
    """Train a method with retrieval and one without for an epoch, evaluate and fit."""
    for method in ("ours", "df"):
        changes = {
            "train.method": method,
            "train.epochs": 1,
            "train.warmup_epochs": 0,
            "run.path": str(folder / method),
        }
        train(load_config(None, {**TINY_SETTINGS, "data.path": str(dataset), **changes}))
    evaluate([run], out=folder / "tables", num_points=256, resamples=200, gallery=2, progress=io.StringIO())
    fit(run, [cloud], out=folder / "fit", num_points=256)


@pytest.mark.slow
def test_training_evaluation_and_fit_give_the_bits_of_memory(
    tiny_dataset, tiny_run, in_memory, larger_than_memory, tmp_path
):
    mapped = tmp_path / "mapped"
    use(tiny_dataset, tiny_run, in_memory / "cloud.npy", mapped)
    assert {path.name for path in larger_than_memory.rglob("*.npy")} == {
        "sources-points.npy",
        "sources-part_index.npy",
        "train-points.npy",
    }
    for method in ("ours", "df"):
        first, second = arrays_of(in_memory / method), arrays_of(mapped / method)
        assert first.keys() == second.keys()
        for name in first:
            assert np.array_equal(first[name], second[name]), (method, name)
    for made in ("tables", "fit"):
        assert contents(in_memory / made) == contents(mapped / made)
        assert contents(mapped / made)


@pytest.mark.parametrize("max_cells", [1, 16, 24, 1 << 23])
def test_as_many_targets_at_a_time_as_memory_allows(monkeypatch, tmp_path, max_cells):
    """A run that fails on a later target fills no row; the others score what they score on all targets together."""

    class FailsOnTheLast(BoxModel):
        def deform(self, points, rows, store):
            centre, half_extent = super().deform(points, rows, store)
            return centre * torch.where((points == clouds[-1]).all(2).all(1), torch.nan, 1.0)[
                :, None, None, None
            ], half_extent

    store = FakeStore(sources(8))
    clouds = torch.from_numpy(np.stack([target.points for target in targets(5)]))

    def run(method: str, seed: int, kind: type[BoxModel]) -> LoadedRun:
        config = settings("data", f"{method}-{seed}", train__method={OURS: "ours", DF: "df"}[method])
        model = kind(config, "hash", store.ids, store, ranks_by="first")
        return LoadedRun(f"{method}-{seed}", method, seed, None, model)

    def measured(runs: tuple[LoadedRun, ...]) -> protocol.Found:
        names = tuple(f"target-{i}" for i in range(5))
        scope = Scope(("chair", "table"), runs)
        ground = Ground(scope, store, np.arange(5), clouds, names, entrants(runs))
        rules = Rules(num_points=NUM_POINTS, ido=False, iterations=1, prior_weight=0.1, mirror=False)
        jobs = work.jobs_of([ground], ["full"], rules, {})
        models = {run.path: run.model for run in runs}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        run_jobs(work.make_measurer, ([ground], rules, models.get, 0), jobs, folder, advance=lambda _: None)
        return protocol.collect([ground], jobs, folder, 5)

    runs = (run(OURS, 0, BoxModel), run(DF, 0, BoxModel), run(OURS, 1, FailsOnTheLast), run(DF, 1, FailsOnTheLast))
    together = measured(runs[:2]).results
    monkeypatch.setattr(work, "MAX_CELLS", max_cells)
    found = measured(runs)
    assert [(each.methods, each.seed) for each in found.failures] == [((OURS,), 1), ((NEAREST_DF, DF), 1)]
    assert [x.key for x in found.results] == [x.key for x in together]
    for one, other in zip(found.results, together, strict=True):
        for name, values in {**vars(one), **one.fits}.items():
            if isinstance(values, np.ndarray):
                np.testing.assert_array_equal(values, {**vars(other), **other.fits}[name])


def test_the_nearest_source_is_found_a_chunk_at_a_time(tiny_dataset, larger_than_memory):
    store = SourceStore.open(open_dataset(tiny_dataset))
    points = torch.from_numpy(read_targets(open_dataset(tiny_dataset), "train").points[:, :200].copy())
    expected = chamfer_matrix(points, store.clouds(np.arange(12), 200)).argmin(1).numpy()
    np.testing.assert_array_equal(nearest_by_chamfer(store, points, 200), expected)
    sources = store.clouds(np.arange(12), 200)
    np.testing.assert_array_equal(nearest_by_chamfer(store, sources, 200), np.arange(12))


def test_of_equally_near_sources_the_first_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(nearest_source, "CHUNK", 2)
    same = [replace(sources(1)[0], id=str(index)) for index in range(5)]
    write_dataset(tmp_path / "d", same, {}, how={})
    store = SourceStore.open(open_dataset(tmp_path / "d"))
    assert nearest_by_chamfer(store, store.clouds([3]) + 0.1, NUM_POINTS).tolist() == [0]


# Prints how many bytes of anonymous memory it takes at its highest to open a database and read every source once:
# mapped, then in memory.
READ_ONCE = r"""
import re, sys
import numpy as np
from jr_dist.data import source_store
from jr_dist.data.dataset import open_dataset

def anonymous():
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", file.read())[1])

def read_once(limit):
    source_store.IN_MEMORY_BYTES = limit
    before = most = anonymous()
    store = source_store.SourceStore.open(open_dataset(sys.argv[1]))
    for rows in np.array_split(np.arange(len(store)), len(store) // 64):
        store.geometry(rows)
        most = max(most, anonymous())
    return most - before

print(read_once(0), read_once(1 << 40))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_a_mapped_database_is_read_without_holding_it(tmp_path):
    num_sources, num_points = 6000, 2048
    size = num_sources * num_points * 14
    write_dataset(tmp_path / "d", many_sources(num_sources, num_points), {}, how={})
    done = subprocess.run(
        [sys.executable, "-c", READ_ONCE, tmp_path / "d"],
        capture_output=True, text=True, check=True, env={**os.environ, "JR_SCRATCH": str(tmp_path / "scratch")},
    )  # fmt: skip
    mapped, in_memory = map(int, done.stdout.split())
    assert mapped < size / 2
    assert in_memory > 0.9 * size, "the measure sees what is held"


def many_sources(count: int, num_points: int) -> Iterator[SourceModel]:
    """One box with as many points, again and again."""
    rng = np.random.default_rng(0)
    one = replace(
        sources(1)[0],
        points=rng.uniform(-0.5, 0.5, (num_points, 3)).astype(np.float32),
        part_index=np.zeros(num_points, np.int16),
    )
    return (replace(one, id=str(index)) for index in range(count))
