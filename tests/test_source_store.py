"""The source store: batches hold what the records hold, padded; the geometry contract of `PartGeometry` is kept."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_part_mesh import plain_box

from jr_dist.data import decoded, recent_projections, source_store
from jr_dist.data.build import build_source
from jr_dist.data.dataset import open_dataset, read_sources, write_dataset
from jr_dist.data.part_mesh import PartMesh, concatenated, from_glb, to_glb
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.projection import axis_projections, part_parameters

N = 96


def tower(num_parts: int, index: int, category: str):
    """Boxes standing on one another."""
    names = tuple(f"level {i}" for i in range(num_parts))
    boxes = tuple((plain_box((1.0 + 0.1 * index, 0.5, 1), (0, 0.5 * i, 0)),) for i in range(num_parts))
    return build_source(
        PartMesh(names, boxes), id=f"tower-{index}", category=category, num_points=N, seed=0, provenance={}
    )


SOURCES = [tower(1 + index % 4, index, ("chair", "table")[index % 2]) for index in range(9)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "dataset"
    write_dataset(path, SOURCES, {}, how={})
    return open_dataset(path)


@pytest.fixture(params=["in memory", "mapped"])
def opened(request, dataset, tmp_path, monkeypatch):
    """Opens stores either way."""
    monkeypatch.setenv("JR_SCRATCH", str(tmp_path / "scratch"))
    if request.param == "mapped":
        monkeypatch.setattr(source_store, "IN_MEMORY_BYTES", 0)
    return partial(SourceStore.open, dataset)


def test_batches_hold_the_records(opened):
    store = opened()
    assert store.ids == tuple(x.id for x in SOURCES)
    assert store.max_parts == 4
    rows = np.array([3, 0, 3, 8])
    batch = store.geometry(rows)
    assert [t.dtype for t in (batch.points, batch.part_index, batch.part_mask)] == [
        torch.float32,
        torch.int64,
        torch.bool,
    ]
    for m, source in enumerate(SOURCES[row] for row in rows):
        p = source.num_parts
        np.testing.assert_array_equal(batch.points[m], source.points)
        np.testing.assert_array_equal(batch.part_index[m], source.part_index)
        np.testing.assert_array_equal(batch.centre[m, :p], source.centre)
        np.testing.assert_array_equal(batch.half_extent[m, :p], source.half_extent)
        assert (batch.centre[m, p:] == 0).all()
        assert (batch.half_extent[m, p:] == 1).all()
        assert batch.part_mask[m].tolist() == [True] * p + [False] * (4 - p)
        expected = axis_projections(source.joint_parts, source.joint_coordinates, p, pad_to=4)
        np.testing.assert_array_equal(batch.projection[m], expected.astype(np.float32))
        q = (source.points - source.centre[source.part_index]) / source.half_extent[source.part_index]
        np.testing.assert_array_equal(batch.canonical[m], q)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_projections_are_the_same_however_few_are_kept(dataset, monkeypatch, data):
    kept = data.draw(st.integers(0, 12))
    whole = SourceStore.open(dataset).geometry(np.arange(9)).projection
    monkeypatch.setattr(recent_projections, "MAX_BYTES", kept * whole[0].nbytes)
    store = SourceStore.open(dataset)
    assert len(store._projections._kept) == min(kept, 9)
    for rows in data.draw(st.lists(st.lists(st.integers(0, 8), max_size=12), max_size=8)):
        assert torch.equal(store.geometry(rows).projection, whole[rows])


def test_kept_projections_are_made_once(dataset, monkeypatch):
    store, made = SourceStore.open(dataset), []
    monkeypatch.setattr(
        recent_projections, "axis_projections", lambda *a, **k: made.append(a) or axis_projections(*a, **k)
    )
    for rows in (np.arange(9), [3, 3, 8], np.arange(9)[::-1]):
        store.geometry(rows)
    assert len(made) == 9


def test_clouds_are_the_points_of_the_geometry(opened):
    store = opened(["chair"])
    assert torch.equal(store.clouds([4, 0, 4], 17), store.geometry([4, 0, 4], num_points=17).points)
    with pytest.raises(IndexError, match="5 sources"):
        store.clouds([5])


def test_canonical_coordinates_are_within_the_box(opened):
    store = opened()
    assert store.geometry(np.arange(9)).canonical.abs().max() <= 1 + 1e-6


def test_undeformed_parameters_return_the_same_points(opened):
    batch = opened().geometry(range(9))
    centre, half_extent = part_parameters(batch, torch.zeros(9, 4, 6))
    assert torch.equal(deform(batch, centre, half_extent), batch.points)


def test_prefixes(opened):
    whole, some = opened().geometry([2, 5]), opened(num_points=40).geometry([2, 5], num_points=17)
    assert torch.equal(some.points, whole.points[:, :17])
    assert torch.equal(some.canonical, whole.canonical[:, :17])
    assert torch.equal(some.part_index, whole.part_index[:, :17])
    assert torch.equal(opened(num_points=40).geometry([1]).points, opened().geometry([1]).points[:, :40])


def test_categories(opened):
    store = opened(["table"])
    tables = [x for x in SOURCES if x.category == "table"]
    assert store.ids == tuple(x.id for x in tables)
    assert set(store.categories) == {"table"}
    np.testing.assert_array_equal(store.geometry([1]).points[0], tables[1].points)
    assert store.record(2).id == tables[2].id
    assert store.part_offsets.tolist() == np.cumsum([0, *(x.num_parts for x in tables)]).tolist()


def test_batches_are_the_callers_own(opened):
    store = opened()
    store.geometry([4]).points.zero_()
    store.geometry([4]).projection.zero_()
    np.testing.assert_array_equal(store.geometry([4]).points[0], SOURCES[4].points)
    assert store.geometry([4]).projection.abs().max() > 0


def test_records_and_meshes(dataset, opened):
    store = opened()
    for row in (8, 0, 5):
        record = store.record(row)
        assert record.mesh_glb == SOURCES[row].mesh_glb
        np.testing.assert_array_equal(record.joint_coordinates, store.joints(row)[1])
        np.testing.assert_array_equal(record.joint_parts, store.joints(row)[0])
        assert to_glb(store.mesh(row)) == record.mesh_glb
        np.testing.assert_array_equal(concatenated(store.mesh(row))[0], concatenated(from_glb(record.mesh_glb))[0])


def test_rows_may_be_tensors_and_none(opened):
    store = opened()
    assert torch.equal(store.geometry(torch.tensor([2])).points, store.geometry([2]).points)
    assert store.geometry([]).points.shape == (0, N, 3)


@pytest.mark.parametrize("rows", [[9], [-1], np.array([0, 100])])
def test_rows_out_of_range(opened, rows):
    with pytest.raises(IndexError, match="9 sources"):
        opened().geometry(rows)


@pytest.mark.parametrize("rows", [[0.0], [[0]], np.array(["a"])])
def test_rows_that_are_no_row_numbers(opened, rows):
    with pytest.raises(AssertionError):
        opened().geometry(rows)


def test_wrong_input(opened):
    with pytest.raises(InputError, match="num_points is 97; allowed is 1 to 96,"):
        opened(num_points=97)
    with pytest.raises(InputError, match=r"'sofa'.*chair, table"):
        opened(["sofa"])


def test_category_with_targets_alone(tmp_path):
    from test_dataset import random_target

    chair = [x for x in SOURCES if x.category == "chair"]
    target = random_target(0, "table")
    target = type(target)(**{**target.__dict__, "points": SOURCES[0].points, "part_index": SOURCES[0].part_index})
    write_dataset(tmp_path / "d", chair, {"train": [target]}, how={})
    with pytest.raises(InputError, match="no source of table"):
        SourceStore.open(open_dataset(tmp_path / "d"), ["table"])


def test_the_store_travels_to_other_processes(opened):
    """As Ray sends it: what arrays hold travels beside the pickle, and can't be written to where it arrives."""
    store = opened()
    store.geometry(range(9))
    store.record(3)  # what it keeps of these stays at home
    buffers = []
    content = pickle.dumps(store, protocol=5, buffer_callback=buffers.append)
    sent = [bytes(buffer.raw()) for buffer in buffers]
    in_memory = not isinstance(store.points, np.memmap)
    sizes = sorted(map(len, sent), reverse=True)
    assert (sizes[0] == store.points.nbytes and sizes[1] == store.part_index.nbytes) == in_memory
    assert len(content) + sum(sizes) < 20_000 + in_memory * (store.points.nbytes + store.part_index.nbytes)
    other = pickle.loads(content, buffers=sent)  # noqa: S301 (ours)
    assert not other.points.flags.writeable
    assert type(other.points) is type(store.points)
    for rows in (np.array([3, 0, 3]), np.arange(9)):
        found, expected = other.geometry(rows), store.geometry(rows)
        assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in vars(expected))
    assert other.record(3).id == store.record(3).id
    assert (other.ids, other.categories) == (store.ids, store.categories)


def test_mapped_columns_are_files_that_are_made_once(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("JR_SCRATCH", str(tmp_path))
    first = decoded.mapped_column(dataset, "sources", "points")
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable
    np.testing.assert_array_equal(first, np.stack([x.points for x in SOURCES]))
    files = {x: x.stat().st_mtime_ns for x in tmp_path.rglob("*") if x.is_file()}
    decoded.mapped_column(dataset, "sources", "points")
    assert files == {x: x.stat().st_mtime_ns for x in tmp_path.rglob("*") if x.is_file()}
    assert len(files) == 1


def test_scratch_that_cannot_be_written(dataset, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JR_SCRATCH", str(tmp_path / "file" / "below"))
    with pytest.raises(InputError, match="JR_SCRATCH"):
        decoded.mapped_column(dataset, "sources", "points")


def test_store_equals_what_the_dataset_reads(dataset):
    store = SourceStore.open(dataset)
    for row, source in enumerate(read_sources(dataset)):
        np.testing.assert_array_equal(store.record(row).points, source.points)
