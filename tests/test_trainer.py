"""Training under Ray Train on a real local cluster: the same numbers as without it, and data-parallel workers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from test_train import arrays_of, settings

from jr_dist.errors import InputError
from jr_dist.train import trainer
from jr_dist.train.trainer import threads_of_a_worker, train, train_side_by_side


@contextmanager
def as_many_threads_as_a_worker(side_by_side: int) -> Iterator[None]:
    """Sums are split over threads, so equal bits need equally many."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads_of_a_worker(ray.cluster_resources()["CPU"], 1, side_by_side))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_workers_share_the_processors():
    assert threads_of_a_worker(2, 1, 1) == 2
    assert threads_of_a_worker(2, 1, 3) == threads_of_a_worker(1, 2, 1) == 1
    assert threads_of_a_worker(16, 2, 2) == 4


@pytest.mark.slow
def test_a_worker_of_ray_train_gives_the_bits_of_this_process(ray_cluster, tiny_dataset, tmp_path):
    here = settings(tiny_dataset, tmp_path / "here", train__epochs=2)
    there = settings(tiny_dataset, tmp_path / "there", train__epochs=2, train__num_workers=1)
    with as_many_threads_as_a_worker(side_by_side=1):
        train(here)
    result = train(there)
    first, second = arrays_of(tmp_path / "here"), arrays_of(tmp_path / "there")
    assert result.metrics["n"] > 0
    for name in first:
        assert np.array_equal(first[name], second[name]), name


@pytest.mark.slow
def test_runs_side_by_side_give_the_bits_of_runs_alone(ray_cluster, tiny_dataset, tmp_path):
    configs = [
        settings(tiny_dataset, tmp_path / method, train__method=method, train__epochs=2, train__num_workers=1)
        for method in ("uniform", "df")
    ]
    results = train_side_by_side(configs)
    assert [result.path.name for result in results] == ["uniform", "df"]
    with as_many_threads_as_a_worker(side_by_side=2):
        train(settings(tiny_dataset, tmp_path / "alone", train__method="df", train__epochs=2))
    first, second = arrays_of(tmp_path / "df"), arrays_of(tmp_path / "alone")
    assert all(np.array_equal(first[name], second[name]) for name in first)


def freeze_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm by its running statistics, in this process and in the workers, so that no batch sees its company.

    The functions are defined in here so that Ray sends them by value.
    """
    worker = trainer._worker
    never = property(lambda norm: False, lambda norm, mode: None)

    def frozen_worker(settings):
        torch.nn.BatchNorm1d.training = never
        return worker(settings)

    monkeypatch.setattr(torch.nn.BatchNorm1d, "training", never, raising=False)
    monkeypatch.setattr(trainer, "_worker", frozen_worker)


# SGD, because Adam divides a gradient that is nothing but rounding by its own size.
SGD = {"train__optimizer": "sgd", "train__learning_rate": 0.05}
LETTER = {"train__alternate": True, "retrieval__loss": "l1", "retrieval__fit_scale": "learned"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [{"bank__lookahead": 1}, {"retrieval__source_embedding": "code", "retrieval__fit_scale": "entropy"}, LETTER],
    ids=["drawn ahead", "learned embedding", "the paper's letter"],
)
def test_two_workers_give_what_one_gives_with_batches_twice_as_large(
    ray_cluster, tiny_dataset, tmp_path, monkeypatch, overrides
):
    freeze_batch_norm(monkeypatch)
    common = {
        "train__epochs": 3, "train__validate_every": 1, "retrieval__sigma0": 1.0, "bank__block_size": 2, **SGD,
        **overrides,
    }  # fmt: skip
    train(settings(tiny_dataset, tmp_path / "one", train__batch_size=8, **common))
    two = settings(
        tiny_dataset, tmp_path / "two", train__batch_size=4, train__num_workers=2, bank__num_shards=3, **common
    )
    train(two)
    first, second = arrays_of(tmp_path / "one"), arrays_of(tmp_path / "two")
    assert first.keys() == second.keys()
    for name in first:
        assert np.allclose(first[name], second[name], rtol=1e-5, atol=1e-5), name
        if name.endswith(".momentum"):
            assert np.array_equal(first[name] != 0, second[name] != 0), f"{name}: the same rows are touched"
    of_one, of_two = validations(tmp_path / "one"), validations(tmp_path / "two")
    assert len(of_one) == 3
    assert np.allclose(of_one, of_two, rtol=1e-4)


def validations(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["chamfer_x100"] for line in lines if line["part"] == "val"]


@pytest.mark.slow
@pytest.mark.parametrize("lookahead", [0, 1])
def test_shards_in_other_processes_change_no_bit(ray_cluster, tiny_dataset, tmp_path, lookahead):
    common = {
        "train__epochs": 3, "retrieval__sigma0": 1.0, "bank__block_size": 2, "bank__lookahead": lookahead,
        "retrieval__refresh_steps": 2,
    }  # fmt: skip
    torch.set_num_threads(1)
    train(settings(tiny_dataset, tmp_path / "here", **common))
    expected = arrays_of(tmp_path / "here")
    for num_shards in (2, 5):
        run = tmp_path / f"{num_shards}-shards"
        train(settings(tiny_dataset, run, train__num_workers=1, bank__num_shards=num_shards, **common))
        arrays = arrays_of(run)
        assert arrays.keys() == expected.keys()
        # The entropy that is logged joins the shards' sums: equal up to the order of summation.
        assert np.allclose(arrays.pop("drawn.effective", 0), expected.get("drawn.effective", 0), rtol=1e-5)
        for name in arrays:
            assert np.array_equal(arrays[name], expected[name]), (num_shards, name)


def test_more_workers_and_shards_than_processors_are_refused(ray_cluster, tiny_dataset, tmp_path):
    config = settings(
        tiny_dataset,
        tmp_path / "run",
        train__num_workers=4,
        train__batch_size=2,
        bank__num_shards=6,
        bank__block_size=2,
    )
    with pytest.raises(InputError, match=r"ask for 5 processors.*allowed is 4"):
        train(config)


@pytest.mark.slow
def test_a_database_that_outgrows_memory_is_encoded_through_ray_data(ray_cluster, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("JR_SCRATCH", str(tmp_path))
    worker, scratch = trainer._worker, str(tmp_path)

    def worker_without_memory(settings):
        import os

        from jr_dist.data import source_store
        from jr_dist.train import trainer

        streamed, stream = [], trainer.source_batches

        def counted(*arguments, **options):
            streamed.append(arguments)
            return stream(*arguments, **options)

        os.environ["JR_SCRATCH"] = scratch
        source_store.IN_MEMORY_BYTES, trainer.source_batches = 0, counted
        metrics = worker(settings)
        assert len(streamed) == 2, "an encoding for each validation"
        return metrics

    common = {
        "train__epochs": 2, "train__validate_every": 1, "retrieval__sigma0": 1.0, "bank__num_shards": 2,
        "bank__block_size": 4,
    }  # fmt: skip
    torch.set_num_threads(1)
    train(settings(tiny_dataset, tmp_path / "in-memory", **common))
    monkeypatch.setattr(trainer, "_worker", worker_without_memory)
    train(settings(tiny_dataset, tmp_path / "mapped", train__num_workers=1, **common))
    first, second = arrays_of(tmp_path / "in-memory"), arrays_of(tmp_path / "mapped")
    for name in first:
        assert np.array_equal(first[name], second[name]), name


def test_a_job_names_its_run_absolutely(tiny_dataset, monkeypatch):
    config = settings(tiny_dataset, Path("runs/here"))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(InputError, match=r"run\.path is runs/here"):
        train(config)
