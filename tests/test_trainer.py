"""Training under Ray Train on a real local cluster: the same numbers as without it, and data-parallel workers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import ray
import torch
from test_train import arrays_of, settings

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


@pytest.mark.slow
def test_two_workers_share_the_batches_and_keep_one_bank(ray_cluster, tiny_dataset, tmp_path):
    """Two workers of B = 4 against one of B = 8. Batch norm sees other batches, so codes differ a little once
    candidates are drawn from P_R; which rows were touched says whether targets and candidates were the same."""
    two = settings(
        tiny_dataset,
        tmp_path / "two",
        train__num_workers=2,
        train__batch_size=4,
        train__epochs=2,
        train__validate_every=1,
        retrieval__source_embedding="code",
    )
    metrics = train(two).metrics
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(metrics["chamfer_x100"])
    assert [line["step"] for line in lines if line["part"] == "val"] == [2, 5]
    one = settings(
        tiny_dataset, tmp_path / "one", train__batch_size=8, train__epochs=2, retrieval__source_embedding="code"
    )
    train(one)
    first, second = arrays_of(tmp_path / "one"), arrays_of(tmp_path / "two")
    touched = [
        (first[f"bank.0.{name}.count"] > 0) == (second[f"bank.0.{name}.count"] > 0)
        for name in ("global_code", "part_code")
    ]
    assert all(same.mean() > 0.9 for same in touched), "the ranks' candidates are those of one large batch"
