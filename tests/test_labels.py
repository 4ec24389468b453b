"""Labels of pairs: what they are, which pairs have one, and what a second start finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jr_dist.config import Config, load_config
from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.models.refine import Refinement, refine
from jr_dist.train import labels
from jr_dist.train.labels import Labels, chosen_sources, labels_folder, make_labels, open_labels
from jr_dist.train.stretch import LARGEST_STRETCH, stretch_factors, stretched


def settings(dataset: Path, folder: Path, **overrides) -> Config:
    small = {"data.path": str(dataset), "run.path": str(folder / "run"), "labels.num_points": 64, "labels.copies": 0}
    small |= {"labels.iterations": 2, "train.method": "fit_aware", "labels.path": str(folder / "labels")}
    return load_config(None, small | {name.replace("__", "."): value for name, value in overrides.items()})


def made(config: Config) -> Labels:
    make_labels(config)
    return open_labels(config, open_dataset(config.data.path))


def direct(config: Config) -> np.ndarray:
    """[T V, S] by one call of IDO a version of a target."""
    dataset, n = open_dataset(config.data.path), config.labels.num_points
    store = SourceStore.open(dataset, config.data.categories)
    points = torch.from_numpy(read_targets(dataset, "train", config.data.categories).points[:, :n].copy())
    points = stretched(points, stretch_factors(range(len(points)), 1 + config.labels.copies)).flatten(0, 1)
    geometry, same = store.geometry(np.arange(len(store)), num_points=n), torch.zeros(len(store), dtype=torch.int64)
    how = Refinement(iterations=config.labels.iterations)
    fits = [refine(geometry, each[None], same, None, how) for each in points]
    return torch.stack([fit.loss for fit in fits]).numpy()


def files_of(config: Config) -> dict[str, bytes]:
    folder = labels_folder(config, open_dataset(config.data.path))
    return {path.name: path.read_bytes() for path in sorted(Path(str(folder)).iterdir())}


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(labels, "BLOCK_PAIRS", 60)
    monkeypatch.setattr(labels, "_PAIRS_AT_ONCE", {"cpu": 17})  # cuts targets apart


@pytest.mark.parametrize("categories", [None, ("chair",), ("table", "chair")])
def test_all_pairs_are_the_fits_of_ido(tiny_dataset, tmp_path, small_blocks, categories):
    config = settings(tiny_dataset, tmp_path, data__categories=categories)
    table, expected = made(config), direct(config)
    assert table.columns is None and table.values.dtype == np.float32
    assert np.array_equal(table.values, expected)
    rows, columns = np.array([3, 0, 3]), np.array([0, 2])
    assert np.array_equal(table.take(rows, columns), expected[[3, 0, 3]][:, [0, 2]])
    assert np.array_equal(table.sources(rows), np.tile(np.arange(expected.shape[1]), (3, 1)))


def test_stretched_versions_are_labelled_too(tiny_dataset, tmp_path, small_blocks):
    plain, config = settings(tiny_dataset, tmp_path), settings(tiny_dataset, tmp_path, labels__copies=2)
    table, expected = made(config), direct(config)
    assert table.num_versions == 3 and np.array_equal(table.values, expected)
    assert np.array_equal(table.versions(np.array([4, 1])), [12, 13, 14, 3, 4, 5])
    assert np.array_equal(table.values[::3], made(plain).values), "the first version is the target as it is"
    differ = np.abs(table.values[1::3] - table.values[::3]).mean()
    assert differ > 0.05 * table.values.mean(), "a stretched target fits other sources"
    sampled = made(settings(tiny_dataset, tmp_path, labels__copies=2, labels__sources=5))
    rows = np.arange(len(expected))
    dense = sampled.take(rows, np.arange(expected.shape[1]))
    assert np.array_equal(dense[np.isfinite(dense)], expected[np.isfinite(dense)])


def test_a_stretched_cloud_is_centred_and_as_large():
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(-1, 1, (3, 500, 3)) * rng.uniform(0.2, 1, (3, 1, 3)))
    points = points / points.abs().amax(dim=1, keepdim=True).norm(dim=-1, keepdim=True)
    factors = stretch_factors([7, 0, 2], 4)
    assert torch.equal(stretch_factors([2, 7], 3)[1], factors[0, :3]), "of the row and the version alone"
    assert (factors[:, 0] == 1).all() and (factors[:, 1:].log().abs() <= LARGEST_STRETCH).all()
    assert len(factors[:, 1:].unique()) == 27
    found = stretched(points, factors)
    assert torch.equal(found[:, 0], points)
    half = found.abs().amax(dim=2)
    assert torch.allclose(half.norm(dim=-1), torch.ones(3, 4, dtype=half.dtype), atol=1e-12)
    ratio = half / points.abs().amax(dim=1)[:, None] / factors
    assert torch.allclose(ratio, ratio[..., :1].expand_as(ratio))


def test_sampled_pairs_are_the_same_fits_and_the_others_have_none(tiny_dataset, tmp_path, small_blocks):
    config = settings(tiny_dataset, tmp_path, labels__sources=5)
    table, expected = made(config), direct(config)
    num_targets, num_sources = expected.shape
    assert table.values.shape == (num_targets, 5)
    dense = table.take(np.arange(num_targets), np.arange(num_sources))
    labelled = np.isfinite(dense)
    assert np.array_equal(dense[labelled], expected[labelled])
    assert (labelled.sum(1) == 5).all()
    assert np.array_equal(np.nonzero(labelled)[1].reshape(-1, 5), table.sources(np.arange(num_targets)))
    some = np.array([1, 4, 5, 11])
    assert np.array_equal(table.take(np.array([7, 2]), some), dense[[7, 2]][:, some], equal_nan=True)


def test_half_of_the_sources_are_near_and_half_drawn_by_the_target_alone(tiny_dataset):
    dataset = open_dataset(tiny_dataset)
    store = SourceStore.open(dataset)
    sources = store.clouds(np.arange(len(store)))
    # Each target is a source, stretched: in its own box it is that source.
    points = sources[:6] * torch.tensor([0.5, 1.0, 2.0])
    chosen = chosen_sources(store, points, range(10, 16), 5)
    assert (chosen == np.arange(6)[:, None]).any(axis=1).all(), "the nearest is among them"
    assert (np.diff(chosen, axis=1) > 0).all()
    alone = [chosen_sources(store, points[i : i + 1], range(10 + i, 11 + i), 5)[0] for i in range(6)]
    assert np.array_equal(chosen, alone)
    other = chosen_sources(store, points, range(20, 26), 5)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(chosen, other, strict=True)]
    assert min(shared) >= 3 and not np.array_equal(chosen, other), "the near ones are the same, the others drawn anew"
    everything = chosen_sources(store, points, range(6), len(store))
    assert np.array_equal(everything, np.tile(np.arange(len(store)), (6, 1)))


def test_a_second_start_computes_only_what_is_missing(tiny_dataset, tmp_path, small_blocks, monkeypatch):
    config = settings(tiny_dataset, tmp_path)
    made(config)
    written, fitted = files_of(config), []
    assert len(written) > 3
    victim = labels_folder(config, open_dataset(tiny_dataset)) / sorted(written)[1]

    def counted(geometry, *arguments, **options):
        fitted.append(len(geometry.points))
        return refine(geometry, *arguments, **options)

    monkeypatch.setattr(labels, "refine", counted)
    made(config)
    assert not fitted
    victim.unlink()
    with pytest.raises(InputError, match="can't be used"):
        open_labels(config, open_dataset(tiny_dataset))
    made(config)
    assert sum(fitted) == 60
    assert files_of(config) == written
    # What does not change a label shares the table; another run finds it whole.
    fitted.clear()
    made(settings(tiny_dataset, tmp_path, train__seed=3, run__path=str(tmp_path / "other"), labels__num_workers=2))
    assert not fitted


@pytest.mark.parametrize(
    "other",
    [
        {"labels__iterations": 1},
        {"labels__num_points": 32},
        {"labels__sources": 6},
        {"labels__copies": 1},
        {"data__categories": ("chair",)},
        {"model__connectivity": False},
    ],
)
def test_a_table_of_other_settings_is_never_taken(tiny_dataset, tmp_path, other):
    config = settings(tiny_dataset, tmp_path)
    dataset, changed = open_dataset(tiny_dataset), settings(tiny_dataset, tmp_path, **other)
    make_labels(config)
    assert labels_folder(changed, dataset) != labels_folder(config, dataset)
    with pytest.raises(InputError, match="can't be used"):
        open_labels(changed, dataset)


def test_a_table_of_another_dataset_is_never_taken(tiny_dataset, tmp_path):
    from jr_dist.data.synthesize.generate import synthesize

    other = tmp_path / "other"
    synthesize(other, num_sources=12, num_targets=30, categories=("chair", "table", "cabinet"), seed=1, num_points=256)
    config = settings(tiny_dataset, tmp_path)
    make_labels(config)
    with pytest.raises(InputError, match="can't be used"):
        open_labels(settings(other, tmp_path), open_dataset(other))


@pytest.mark.parametrize("sources", [None, 5])
def test_a_large_table_is_mapped_and_the_same(tiny_dataset, tmp_path, small_blocks, monkeypatch, sources):
    monkeypatch.setenv("JR_SCRATCH", str(tmp_path / "scratch"))
    config = settings(tiny_dataset, tmp_path, labels__sources=sources)
    in_memory = made(config)
    monkeypatch.setattr(labels, "IN_MEMORY_BYTES", 100)
    mapped = open_labels(config, open_dataset(tiny_dataset))
    assert isinstance(mapped.values, np.memmap)
    rows, columns = np.array([5, 1, 9]), np.array([0, 3, 7, 8])
    assert np.array_equal(mapped.take(rows, columns), in_memory.take(rows, columns), equal_nan=True)
    assert np.array_equal(mapped.sources(rows), in_memory.sources(rows))


def test_more_points_than_are_stored_are_refused(tiny_dataset, tmp_path):
    with pytest.raises(InputError, match=r"labels\.num_points is 512, but .* stores 256 points a shape; allowed is"):
        make_labels(settings(tiny_dataset, tmp_path, labels__num_points=512))


@pytest.mark.slow
def test_actors_leave_the_same_files(tiny_dataset, tmp_path, small_blocks, ray_cluster):
    here = settings(tiny_dataset, tmp_path / "here", labels__sources=5)
    there = settings(tiny_dataset, tmp_path / "there", labels__sources=5, labels__num_workers=2)
    make_labels(here)
    make_labels(there)
    assert files_of(there) == files_of(here)
