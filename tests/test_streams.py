"""Streams of target batches: what `order` says, the same through Ray Data as without it, on any number of workers."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_dataset import random_source, random_target

from jr_dist.data import ray_stream, source_rows, step_plan, streams
from jr_dist.data.dataset import Dataset, open_dataset, read_targets, write_dataset
from jr_dist.data.order import batch_indices, steps_per_epoch
from jr_dist.data.schema import tensor
from jr_dist.data.source_store import SourceStore, local_source_batches
from jr_dist.data.step_plan import StepPlan
from jr_dist.data.streams import TargetBatch, local_target_batches, source_batches, target_batches
from jr_dist.errors import InputError

N, NUM_TRAIN, NUM_TABLES = 16, 45, 22
COMMON: dict[str, Any] = {
    "batch_size": 4, "num_points": 10, "encoder_points": 5, "seed": 3, "rank": 0, "world_size": 1,
}  # fmt: skip
STEPS = range(30)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    path = tmp_path_factory.mktemp("streams") / "dataset"
    train = [random_target(i, ("chair", "table")[i % 2]) for i in range(NUM_TRAIN)]
    write_dataset(path, [random_source(0)], {"train": train}, how={})
    return open_dataset(path)


def plan_of(dataset: Dataset, categories=None, **changes) -> StepPlan:
    return step_plan.step_plan(dataset, "train", categories, **{**COMMON, **changes})


def local(dataset: Dataset, categories=None, steps: range = STEPS, **changes) -> list[TargetBatch]:
    return list(local_target_batches(plan_of(dataset, categories, **changes), steps))


def equal(ours: list[TargetBatch], theirs: list[TargetBatch]) -> bool:
    return len(ours) == len(theirs) and all(
        a.step == b.step and np.array_equal(a.rows, b.rows) and torch.equal(a.points, b.points)
        for a, b in zip(ours, theirs)
    )


def test_batches_follow_the_order(dataset):
    table = read_targets(dataset, "train")
    steps = steps_per_epoch(NUM_TRAIN, 4)
    for expected_step, batch in enumerate(local(dataset)):
        epoch, step = divmod(batch.step, steps)
        assert batch.step == expected_step
        np.testing.assert_array_equal(batch.rows, batch_indices(NUM_TRAIN, 4, seed=3, epoch=epoch, step=step))
        assert batch.rows.dtype == np.int64
        assert batch.points.dtype == torch.float32
        assert batch.points.shape == (4, 10, 3)
        for row, points in zip(batch.rows, batch.points.numpy()):
            stored = {p.tobytes() for p in table.points[row]}
            drawn = {p.tobytes() for p in points}
            assert len(drawn) == 10
            assert drawn <= stored


def test_points_are_drawn_anew_in_every_step(dataset):
    plans = [b.points[0] for b in local(dataset, num_points=N, batch_size=1, steps=range(2 * NUM_TRAIN))]
    table = read_targets(dataset, "train").points
    rows = [b.rows[0] for b in local(dataset, num_points=N, batch_size=1, steps=range(2 * NUM_TRAIN))]
    orders = set()
    for row, points in zip(rows, plans):
        position = [int(np.flatnonzero((table[row] == p).all(axis=1))[0]) for p in points.numpy()]
        assert sorted(position) == list(range(N))
        orders.add(tuple(position))
    assert len(orders) == 2 * NUM_TRAIN


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 60), st.integers(0, 40), st.integers(1, 3))
def test_a_resumed_stream_is_the_tail(dataset, start, num_steps, world_size):
    rest = {"world_size": world_size, "rank": world_size - 1}
    whole = local(dataset, steps=range(start + num_steps), **rest)
    assert equal(local(dataset, steps=range(start, start + num_steps), **rest), whole[start:])


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 4), (2, 3), (5, 2)])
def test_many_ranks_together_are_one_with_a_large_batch(dataset, batch_size, world_size):
    together = local(dataset, batch_size=batch_size * world_size)
    ranks = [local(dataset, batch_size=batch_size, rank=r, world_size=world_size) for r in range(world_size)]
    for large, *small in zip(together, *ranks, strict=True):
        np.testing.assert_array_equal(large.rows, np.concatenate([b.rows for b in small]))
        assert torch.equal(large.points, torch.cat([b.points for b in small]))


def test_rows_of_a_category_are_those_of_its_table(dataset):
    table = read_targets(dataset, "train", ["table"])
    assert len(table) == NUM_TABLES
    for batch in local(dataset, ["table"], num_points=N):
        for row, points in zip(batch.rows, batch.points.numpy()):
            assert {p.tobytes() for p in points} == {p.tobytes() for p in table.points[row]}


@pytest.mark.parametrize("categories", [None, ["table"]])
def test_large_tables_are_mapped_and_give_the_same_bits(dataset, tmp_path, monkeypatch, categories):
    expected = local(dataset, categories)
    monkeypatch.setattr(step_plan, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(step_plan, "_tables", {})
    monkeypatch.setenv("JR_SCRATCH", str(tmp_path))
    assert equal(local(dataset, categories), expected)
    assert any(isinstance(table.points, np.memmap) for table in step_plan._tables.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 46}, "takes 46 targets, but split 'train' .* has 45"),
        ({"batch_size": 23, "world_size": 2}, "each of 2 worker.* takes 46"),
        ({"num_points": 17}, "num_points 17; allowed .* 16"),
        ({"encoder_points": 11}, "encoder_points is 11, num_points 10"),
        ({"encoder_points": 0}, "encoder_points is 0"),
        ({"split": "nosuch"}, "allowed are train, val, test"),
        ({"split": "val"}, "no target in split 'val'"),
        ({"categories": ["sofa"]}, "'sofa'.*chair, table"),
    ],
)
def test_wrong_input_is_named_before_anything_starts(dataset, changes, words):
    arguments = {"split": "train", "categories": None, **COMMON, **changes}
    with pytest.raises(InputError, match=words) as caught:
        step_plan.step_plan(dataset, **arguments)
    assert "\n" not in str(caught.value)


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Several blocks a task and several tasks a stream, as in a long run."""
    monkeypatch.setattr(ray_stream, "_BLOCK_BYTES", 2000)
    monkeypatch.setattr(ray_stream, "_BLOCKS_PER_TASK", 4)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "small_blocks")
def test_the_stream_gives_the_same_bits(dataset):
    for categories, steps, changes in [
        (None, range(57), {}),
        (["table"], range(7, 37), {"rank": 1, "world_size": 2}),
        (None, range(1), {}),
        (None, range(0), {}),
    ]:
        streamed = list(target_batches(plan_of(dataset, categories, **changes), steps))
        assert equal(streamed, local(dataset, categories, steps, **changes))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_batches_are_the_callers_own(dataset):
    first, second = itertools.islice(target_batches(plan_of(dataset), STEPS), 2)
    kept = second.points.clone()
    first.points.zero_()
    assert torch.equal(second.points, kept)


def executors() -> list[str]:
    return [x.name for x in threading.enumerate() if "StreamingExecutor" in x.name]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "small_blocks")
def test_closing_early_ends_the_execution(dataset):
    stream = target_batches(plan_of(dataset), range(100_000))
    next(stream)
    assert executors()
    stream.close()
    deadline = time.monotonic() + 60
    while executors() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not executors()
    assert next(target_batches(plan_of(dataset), STEPS)).step == 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_slow_reader_is_not_run_away_from(dataset, tmp_path, monkeypatch):
    """Few batches are made in advance: the object store belongs to others as well."""
    made = tmp_path / "made"

    def noted(plan, steps, per_block):
        for block in step_plan.blocks_of(plan, steps, per_block):
            with made.open("a") as file:
                file.write("x" * len(block))
            yield block

    ahead = 20 * COMMON["batch_size"] * COMMON["num_points"] * 12
    monkeypatch.setattr(ray_stream, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(ray_stream, "_AHEAD_BYTES", ahead)
    monkeypatch.setattr(streams, "blocks_of", noted)
    stream = target_batches(plan_of(dataset), range(10_000))
    next(stream)
    previous = -1
    while (now := made.stat().st_size) != previous:  # until it has stopped
        previous = now
        time.sleep(1)
    assert now < 200
    for _ in range(500):
        next(stream)
    assert made.stat().st_size >= 500
    stream.close()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_steps_larger_than_what_may_be_ahead_still_flow(dataset, monkeypatch):
    monkeypatch.setattr(ray_stream, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(ray_stream, "_AHEAD_BYTES", 1)
    assert equal(list(target_batches(plan_of(dataset), STEPS)), local(dataset))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_other_file_systems_are_read_from_the_tasks(tmp_path):
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    train = {"train": [random_target(i) for i in range(9)]}
    write_dataset("bucket/d", [random_source(0)], train, how={}, filesystem=store)
    there = open_dataset("bucket/d", filesystem=store)
    assert equal(list(target_batches(plan_of(there), STEPS)), local(there))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_damaged_file_is_the_users_error(dataset, tmp_path):
    copy = tmp_path / "copy"
    write_dataset(copy, [random_source(0)], {"train": [random_target(i) for i in range(64)]}, how={})
    damaged = open_dataset(copy)
    file = copy / "targets/train/part-00000.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="damaged") as caught:
        list(target_batches(plan_of(damaged), STEPS))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_inside_ray_train_though_the_workers_hold_every_cpu(dataset, tmp_path):
    """Each rank sees what it would see alone, and nobody waits for a CPU."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    def lines(batches) -> list[str]:
        return [f"{b.step} {b.rows.tolist()} {hashlib.sha256(b.points.numpy().tobytes()).hexdigest()}" for b in batches]

    def loop(setting: dict) -> None:
        import ray.train

        from jr_dist.data.step_plan import step_plan

        context = ray.train.get_context()
        rank, size = context.get_world_rank(), context.get_world_size()
        plan = step_plan(dataset, "train", None, **{**setting["common"], "rank": rank, "world_size": size})
        batches = target_batches(plan, STEPS)
        Path(setting["out"], str(rank)).write_text("\n".join(lines(batches)))

    TorchTrainer(
        loop,
        train_loop_config={"common": COMMON, "out": str(tmp_path)},
        scaling_config=ScalingConfig(
            num_workers=2, resources_per_worker={"CPU": ray.cluster_resources()["CPU"] / 2}, use_gpu=False
        ),
        run_config=RunConfig(storage_path=str(tmp_path / "runs"), name="streams"),
    ).fit()
    for rank in range(2):
        assert (tmp_path / str(rank)).read_text().splitlines() == lines(local(dataset, rank=rank, world_size=2))


NUM_SOURCES, NUM_CHAIRS = 150, 100


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Dataset:
    """Sources of three row groups; every third is a table."""
    path = tmp_path_factory.mktemp("sources") / "dataset"
    write_dataset(path, (random_source(i, "table" if i % 3 == 2 else "chair") for i in range(NUM_SOURCES)), {}, how={})
    return open_dataset(path)


WANTED = [
    (None, np.arange(NUM_SOURCES), 16),
    (None, np.arange(NUM_SOURCES), 1000),
    (["chair"], np.arange(NUM_CHAIRS), 7),
    (["chair"], np.arange(1, NUM_CHAIRS, 3), 4),  # one rank's share
    (["table"], np.array([49]), 4),
    (None, np.array([], np.int64), 4),
]


def listed(batches: Iterable[tuple[np.ndarray, torch.Tensor]]) -> list[tuple[list[int], bytes]]:
    return [(rows.tolist(), points.numpy().tobytes()) for rows, points in batches]


def of_store(database: Dataset, categories, rows, batch_size) -> list[tuple[list[int], bytes]]:
    store = SourceStore.open(database, categories)
    return listed(local_source_batches(store, rows, num_points=10, batch_size=batch_size))


def test_local_source_batches_hold_every_row_once(database):
    store = SourceStore.open(database)
    batches = list(local_source_batches(store, np.arange(NUM_SOURCES), num_points=10, batch_size=16))
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in batches]), np.arange(NUM_SOURCES))
    np.testing.assert_array_equal(
        torch.cat([points for _, points in batches]), store.geometry(range(150), "cpu", 10).points
    )
    assert [len(rows) for rows, _ in batches] == [16] * 9 + [6]


@pytest.mark.parametrize(("categories", "rows", "batch_size"), WANTED)
@pytest.mark.parametrize("per_task", [1, 3, 1000])
def test_read_tasks_make_what_the_store_holds(database, categories, rows, batch_size, per_task):
    """Also where a task ends within a row group."""
    plan = source_rows.source_plan(database, categories, rows, num_points=10, batch_size=batch_size)
    made = []
    for first in range(0, plan.num_batches, per_task):
        pieces = plan.pieces(range(first, min(first + per_task, plan.num_batches)))
        for table in source_rows.blocks_of_sources(database, plan.categories, 10, pieces):
            made += zip(table.column("row").to_pylist(), tensor(table.column("points")), strict=True)
    store = SourceStore.open(database, categories)
    assert [row for row, _ in made] == rows.tolist()
    for row, points in made:
        np.testing.assert_array_equal(points, store.points[row, :10])


def test_only_row_groups_with_wanted_sources_are_read(database):
    plan = source_rows.source_plan(database, ["chair"], np.array([3, 5, 90]), num_points=10, batch_size=8)
    assert [(piece.group, piece.rows.tolist()) for piece in plan.pieces(range(1))] == [(0, [3, 5]), (2, [90])]


def test_sources_that_cannot_be_streamed_are_named_before_anything_starts(database):
    good: dict[str, Any] = {"categories": None, "rows": np.arange(3), "num_points": 10, "batch_size": 2}
    for changes, error, words in [
        ({"num_points": 17}, InputError, "num_points is 17; allowed is 1 to 16"),
        ({"categories": ["sofa"]}, InputError, "'sofa'.*chair, table"),
        ({"rows": np.array([0, NUM_SOURCES])}, IndexError, "150 sources"),
        ({"rows": np.array([-1])}, IndexError, "150 sources"),
        ({"rows": np.array([1, 1])}, AssertionError, "distinct"),
        ({"rows": np.array([2, 1])}, AssertionError, "ascending"),
    ]:
        with pytest.raises(error, match=words):
            source_batches(database, **{**good, **changes})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "small_blocks")
def test_streamed_sources_are_the_stores_bits(database, dataset):
    """Whatever else is streamed to the process meanwhile."""
    targets = target_batches(plan_of(dataset), range(1000))
    next(targets)
    for categories, rows, batch_size in WANTED:
        streamed = source_batches(database, categories, rows, num_points=10, batch_size=batch_size)
        assert listed(streamed) == of_store(database, categories, rows, batch_size)
    assert next(targets).step == 1
    targets.close()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "small_blocks")
@pytest.mark.parametrize("lost", ["some", "the last"])
def test_a_stream_that_loses_sources_is_an_error(database, monkeypatch, lost):
    def lossy(dataset, categories, num_points, pieces):
        kept = pieces[1:] if lost == "some" else pieces[:-1]
        return source_rows.blocks_of_sources(dataset, categories, num_points, kept)

    monkeypatch.setattr(streams, "blocks_of_sources", lossy)
    stream = source_batches(database, None, np.arange(NUM_SOURCES), num_points=10, batch_size=64)
    said = "skipped or repeated some after 0 of 150" if lost == "some" else "ended after 128 of 150"
    with pytest.raises(RuntimeError, match=said):
        list(stream)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_damaged_file_of_sources_is_the_users_error(tmp_path):
    write_dataset(tmp_path / "d", [random_source(i) for i in range(64)], {}, how={})
    damaged = open_dataset(tmp_path / "d")
    stream = source_batches(damaged, None, np.arange(64), num_points=10, batch_size=8)
    file = tmp_path / "d" / "sources/part-00000.parquet"
    data = bytearray(file.read_bytes())
    points = np.stack([random_source(i).points for i in range(64)]).tobytes()
    data[data.find(points[:48])] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="damaged") as caught:
        list(stream)
    assert "\n" not in str(caught.value)


def test_a_batch_is_frozen(dataset):
    batch = local(dataset, steps=range(1))[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.step = 1  # pyright: ignore[reportAttributeAccessIssue]
