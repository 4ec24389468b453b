"""Sources kept on the device: always what the store says, copied no more often than needed."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_source_store import SOURCES

from jr_dist.data.dataset import open_dataset, write_dataset
from jr_dist.data.device_geometry import DeviceGeometry
from jr_dist.data.resident_store import ResidentStore
from jr_dist.data.source_store import SourceStore
from jr_dist.geometry.part_geometry import PartGeometry

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> SourceStore:
    path = tmp_path_factory.mktemp("device") / "dataset"
    write_dataset(path, SOURCES, {}, how={})
    return SourceStore.open(open_dataset(path))


def row_bytes(store: SourceStore, num_points: int) -> int:
    one = store.geometry([0], num_points=num_points)
    return sum(getattr(one, f.name).nbytes for f in fields(one))


def equal(ours: PartGeometry, theirs: PartGeometry) -> bool:
    return all(torch.equal(getattr(ours, f.name).cpu(), getattr(theirs, f.name)) for f in fields(ours))


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_was_asked_before_the_answer_is_the_stores(store, device, data):
    slots = data.draw(st.integers(0, 12))
    cache = DeviceGeometry(store, device, num_points=20, max_bytes=slots * row_bytes(store, 20))
    assert cache.num_slots == min(slots, 9)
    for rows in data.draw(st.lists(st.lists(st.integers(0, 8), max_size=12), max_size=8)):
        assert equal(cache.geometry(rows), store.geometry(rows, num_points=20))


def test_a_database_that_fits_is_copied_once(store):
    cache = DeviceGeometry(store, "cpu")
    for rows in (np.arange(9), [3, 3, 8], torch.arange(9).flip(0)):
        cache.geometry(rows)
    assert cache.num_copied == 9


def test_the_least_recently_used_is_given_up(store):
    cache = DeviceGeometry(store, "cpu", num_points=20, max_bytes=3 * row_bytes(store, 20))
    for rows in ([0, 1, 2], [0, 2], [5]):  # 1 goes
        cache.geometry(rows)
    assert cache.num_copied == 4
    cache.geometry([0, 2, 5])
    assert cache.num_copied == 4
    cache.geometry([1])
    assert cache.num_copied == 5


def test_batches_are_the_callers_own(store):
    cache = DeviceGeometry(store, "cpu")
    cache.geometry([4]).points.zero_()
    assert equal(cache.geometry([4]), store.geometry([4]))


def test_rows_are_checked(store):
    with pytest.raises(IndexError):
        DeviceGeometry(store, "cpu").geometry([-1])


@pytest.mark.parametrize("device", DEVICES)
def test_a_resident_store_answers_as_the_store(store, device):
    resident = ResidentStore(store, device, num_points=20)
    assert resident.ids == store.ids
    np.testing.assert_array_equal(resident.joints(2)[0], store.joints(2)[0])
    for num_points in (1, 20, 25, None):
        for rows in ([4, 4, 0], np.arange(9)):
            assert equal(resident.geometry(rows, device, num_points), store.geometry(rows, num_points=num_points))
            assert equal(resident.geometry(rows, num_points=num_points), store.geometry(rows, num_points=num_points))
            assert torch.equal(resident.clouds(rows, num_points).cpu(), store.clouds(rows, num_points))


def test_a_resident_store_copies_each_source_once(store):
    resident = ResidentStore(store, "cpu", num_points=20)
    for num_points in (20, 1, 7):
        resident.geometry(np.arange(9), "cpu", num_points)
    assert resident._kept.num_copied == 9
