"""Streams of target batches: what `order` says, the same through Ray Data as without it, on any number of workers."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_dataset import random_source, random_target

from jr_dist.data import ray_stream, step_plan, streams
from jr_dist.data.dataset import Dataset, open_dataset, read_targets, write_dataset
from jr_dist.data.order import batch_indices, steps_per_epoch
from jr_dist.data.step_plan import StepPlan
from jr_dist.data.streams import TargetBatch, local_target_batches, target_batches
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
        a.step == b.step
        and np.array_equal(a.rows, b.rows)
        and all(torch.equal(x, y) for x, y in zip(clouds(a), clouds(b), strict=True))
        for a, b in zip(ours, theirs)
    )


def clouds(batch: TargetBatch) -> tuple[torch.Tensor, ...]:
    return batch.points, batch.shown, batch.scale, batch.origin


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


def test_targets_seen_whole_are_in_the_frame_they_are_stored_in(dataset):
    for batch in local(dataset):
        assert torch.equal(batch.shown, batch.points[:, :5])
        assert torch.equal(batch.scale, torch.ones(4))
        assert torch.equal(batch.origin, torch.zeros(4, 3))


def test_targets_seen_in_part_keep_their_order_and_lead_back_to_the_whole(dataset):
    missing = []
    for whole, part in zip(local(dataset, encoder_points=10), local(dataset, encoder_points=10, observed="partial")):
        np.testing.assert_array_equal(part.rows, whole.rows)
        assert [x.dtype for x in clouds(part)] == [torch.float32] * 4
        assert part.points.shape == part.shown.shape == (4, 10, 3)
        back, seen = ((x - part.origin[:, None]) * part.scale[:, None, None] for x in clouds(part)[:2])
        torch.testing.assert_close(back, whole.points, atol=2e-6, rtol=0)
        stored = torch.from_numpy(read_targets(dataset, "train").points[part.rows])
        assert torch.cdist(seen, stored).min(dim=2).values.max() < 2e-6
        missing += [1 - len(torch.unique(cloud, dim=0)) / 10 for cloud in part.shown]
    # Of 16 stored points 4 to 16 are left; encoders see the first 10 of them, again where they are fewer.
    assert {round(share, 1) for share in missing} >= {0.0, 0.2, 0.4}
    assert max(missing) < 0.7


def test_a_target_is_cut_anew_in_every_step_and_by_every_seed(dataset):
    steps = steps_per_epoch(NUM_TRAIN, 1)
    of_target = [
        [b.points.numpy().tobytes() for b in sorted(local(dataset, **arguments), key=lambda b: int(b.rows[0]))]
        for arguments in (
            {"batch_size": 1, "observed": "partial", "seed": seed, "steps": range(epoch * steps, (epoch + 1) * steps)}
            for seed, epoch in ((3, 0), (3, 1), (4, 0))
        )
    ]
    assert all(len(set(cuts)) == 3 for cuts in zip(*of_target, strict=True))


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 60), st.integers(0, 40), st.integers(1, 3), st.sampled_from(["full", "partial"]))
def test_a_resumed_stream_is_the_tail(dataset, start, num_steps, world_size, observed):
    rest = {"world_size": world_size, "rank": world_size - 1, "observed": observed}
    whole = local(dataset, steps=range(start + num_steps), **rest)
    assert equal(local(dataset, steps=range(start, start + num_steps), **rest), whole[start:])


@pytest.mark.parametrize("observed", ["full", "partial"])
@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 4), (2, 3), (5, 2)])
def test_many_ranks_together_are_one_with_a_large_batch(dataset, batch_size, world_size, observed):
    together = local(dataset, batch_size=batch_size * world_size, observed=observed)
    same = {"batch_size": batch_size, "world_size": world_size, "observed": observed}
    ranks = [local(dataset, rank=rank, **same) for rank in range(world_size)]
    for large, *small in zip(together, *ranks, strict=True):
        np.testing.assert_array_equal(large.rows, np.concatenate([b.rows for b in small]))
        for whole, *pieces in zip(clouds(large), *map(clouds, small), strict=True):
            assert torch.equal(whole, torch.cat(pieces))


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


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "small_blocks")
def test_the_stream_gives_the_same_bits(dataset):
    for categories, steps, changes in [
        (None, range(57), {}),
        (["table"], range(7, 37), {"rank": 1, "world_size": 2}),
        (None, range(1), {}),
        (None, range(0), {}),
        (None, range(57), {"observed": "partial"}),
        (["table"], range(7, 37), {"rank": 1, "world_size": 2, "observed": "partial"}),
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


def test_a_batch_is_frozen(dataset):
    batch = local(dataset, steps=range(1))[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.step = 1  # pyright: ignore[reportAttributeAccessIssue]
