"""Sources batch by batch, through Ray Data as from the store: every wanted row once, the same bits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from test_dataset import random_source, random_target

from jr_dist.data import source_rows, step_plan, streams
from jr_dist.data.dataset import Dataset, open_dataset, write_dataset
from jr_dist.data.schema import tensor
from jr_dist.data.source_store import SourceStore, local_source_batches
from jr_dist.data.streams import source_batches, target_batches
from jr_dist.errors import InputError

NUM_SOURCES, NUM_CHAIRS = 150, 100


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Dataset:
    """Sources of three row groups, of which every third is a table, and some targets."""
    path = tmp_path_factory.mktemp("sources") / "dataset"
    sources = (random_source(i, "table" if i % 3 == 2 else "chair") for i in range(NUM_SOURCES))
    write_dataset(path, sources, {"train": [random_target(i) for i in range(9)]}, how={})
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
def test_streamed_sources_are_the_stores_bits(database):
    """Whatever else is streamed to the process meanwhile."""
    plan = step_plan.step_plan(
        database, "train", None, batch_size=4, num_points=10, encoder_points=5, seed=3, rank=0, world_size=1
    )
    targets = target_batches(plan, range(1000))
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
