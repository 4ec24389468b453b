"""Pictures in the stream of targets: functions of seed, epoch and target, from files or rendered on the spot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from jr_dist.data.augment import plain_picture
from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.order import steps_per_epoch
from jr_dist.data.pictures import PictureSettings, open_pictures
from jr_dist.data.render_shapes import open_shapes
from jr_dist.data.render_views import ViewSettings, render_view
from jr_dist.data.source_pictures import source_pictures
from jr_dist.data.source_store import SourceStore
from jr_dist.data.step_plan import StepPlan, step_plan
from jr_dist.data.streams import TargetBatch, local_target_batches, target_batches
from jr_dist.errors import InputError

FILES = PictureSettings("files", size=32, num_views=24, augment="photo", tasks=1)
RENDERED = replace(FILES, images="render", num_views=3)
PLAIN = replace(FILES, augment="none")
NUM_TRAIN = 24


def plan_of(dataset, pictures: PictureSettings | None = FILES, **changes: Any) -> StepPlan:
    numbers = {"batch_size": 4, "num_points": 8, "encoder_points": 4, "seed": 5, "rank": 0, "world_size": 1, **changes}
    return step_plan(open_dataset(dataset), "train", None, pictures=pictures, **numbers)


def local(dataset, steps: range, pictures: PictureSettings | None = FILES, **changes: Any) -> list[TargetBatch]:
    return list(local_target_batches(plan_of(dataset, pictures, **changes), steps))


def by_target(batches: list[TargetBatch]) -> dict[int, bytes]:
    return {int(row): shown.numpy().tobytes() for b in batches for row, shown in zip(b.rows, b.shown)}


def test_a_batch_shows_pictures_and_is_measured_against_all_points(pictured_dataset):
    points = local(pictured_dataset, range(8), None)
    for shown, whole in zip(local(pictured_dataset, range(8)), points, strict=True):
        assert shown.shown.shape == (4, 3, 32, 32) and shown.shown.dtype == torch.uint8
        for name in ("points", "scale", "origin"):
            assert torch.equal(getattr(shown, name), getattr(whole, name))
        assert np.array_equal(shown.rows, whole.rows)


def test_a_picture_is_a_function_of_seed_epoch_and_target(pictured_dataset):
    """Whatever batch it is in, at whichever step of the epoch; another epoch or seed shows another."""
    steps = steps_per_epoch(NUM_TRAIN, 4)
    first = by_target(local(pictured_dataset, range(steps)))
    assert len(first) == NUM_TRAIN
    assert by_target(local(pictured_dataset, range(2), batch_size=12)) == first
    ranks = [local(pictured_dataset, range(3), world_size=2, rank=rank) for rank in range(2)]
    assert by_target([*ranks[0], *ranks[1]]) == first
    for other in (local(pictured_dataset, range(steps, 2 * steps)), local(pictured_dataset, range(steps), seed=6)):
        again = by_target(other)
        assert sum(again[row] == first[row] for row in again) <= 1


def test_a_resumed_stream_is_the_tail(pictured_dataset):
    whole, tail = local(pictured_dataset, range(9)), local(pictured_dataset, range(5, 9))
    assert [b.shown.numpy().tobytes() for b in whole[5:]] == [b.shown.numpy().tobytes() for b in tail]


def test_all_views_are_shown_and_plain_ones_are_the_framed_renders(pictured_dataset):
    shapes = open_shapes(open_dataset(pictured_dataset), "train")
    seen = set()
    for batch in local(pictured_dataset, range(18), PLAIN):
        for row, shown in zip(batch.rows.tolist(), batch.shown.numpy()):
            if row < 6:
                of_views = [
                    plain_picture(render_view(shapes.shape(row), view, ViewSettings(size=32)).rgba, 32)
                    for view in range(3)
                ]
                seen |= {(row, view) for view in range(3) if np.array_equal(of_views[view], shown)}
                assert any(np.array_equal(picture, shown) for picture in of_views)
    assert {view for _, view in seen} == {0, 1, 2}


def test_rendering_while_training_gives_the_bits_of_the_files(pictured_dataset):
    files, rendered = (local(pictured_dataset, range(7), how) for how in (FILES, RENDERED))
    assert all(torch.equal(a.shown, b.shown) for a, b in zip(files, rendered, strict=True))


def test_validation_shows_a_target_by_its_id_alone(pictured_dataset):
    dataset = open_dataset(pictured_dataset)
    every = open_pictures(dataset, "val", None, FILES).fixed(read_targets(dataset, "val").ids)
    for category in dataset.categories:
        table = read_targets(dataset, "val", [category])
        own = open_pictures(dataset, "val", [category], FILES).fixed(table.ids)
        places = [read_targets(dataset, "val").ids.index(name) for name in table.ids]
        assert np.array_equal(own, every[places])


def test_pictures_of_sources_are_their_first_views_kept_in_a_file(pictured_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("JR_SCRATCH", str(tmp_path))
    store = SourceStore.open(open_dataset(pictured_dataset))
    shapes, pictures = open_shapes(store.dataset, "sources"), source_pictures(store, FILES, 2)
    assert pictures.num_views == 2 and isinstance(pictures.values, np.memmap)
    taken = pictures.take(np.array([3, 0]), np.array([1, 0])).numpy()
    for picture, (row, view) in zip(taken, ((3, 1), (0, 0)), strict=True):
        expected = render_view(shapes.shape(row), view, ViewSettings(size=32)).rgba
        assert np.array_equal(picture, plain_picture(expected, 32))
    [file] = tmp_path.rglob("pictures-*.npy")
    before = file.stat().st_mtime_ns
    assert np.array_equal(source_pictures(store, RENDERED, 3).values[:, :2], pictures.values)
    source_pictures(store, FILES, 2)
    assert file.stat().st_mtime_ns == before and len(list(tmp_path.rglob("*"))) == 3
    with pytest.raises(InputError, match=r"source_views is 4, but there are 3 pictures.*at most 3"):
        source_pictures(store, FILES, 4)


def test_missing_and_changed_pictures_are_refused_in_a_line(tiny_dataset, pictured_dataset, monkeypatch):
    with pytest.raises(InputError, match="jr-dist render") as refused:
        plan_of(tiny_dataset)
    assert "\n" not in str(refused.value)
    plan = replace(plan_of(pictured_dataset), identity="of yesterday")
    with pytest.raises(InputError, match="have changed since the run started"):
        plan.batch(0)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("pictures", [FILES, replace(RENDERED, tasks=3)], ids=["files", "rendered by three tasks"])
def test_the_stream_gives_the_same_bits(pictured_dataset, small_blocks, pictures):
    steps = range(3, 15)
    plan = plan_of(pictured_dataset, pictures)
    streamed = list(target_batches(plan, steps))
    assert [b.step for b in streamed] == list(steps)
    for ours, theirs in zip(streamed, local_target_batches(plan, steps), strict=True):
        assert np.array_equal(ours.rows, theirs.rows)
        assert torch.equal(ours.shown, theirs.shown) and torch.equal(ours.points, theirs.points)
