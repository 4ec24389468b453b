"""What a person turns: GLBs of source, deformed and target, part colours kept, none larger than the page holds."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from evaluation_cases import BoxModel, FakeStore, measure_ranked, settings, sources, targets

from jr_dist.data.part_mesh import PartMesh
from jr_dist.data.render import part_colours
from jr_dist.evaluate import gallery, rows
from jr_dist.evaluate.methods import Measured
from jr_dist.evaluate.runs import Ground, LoadedRun, Scope
from jr_dist.evaluate.side_by_side import APART, POINT_COLOUR, side_by_side

CATEGORIES = ("chair", "table")


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "SIZE", 32)
        yield


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    store, shapes = FakeStore(sources(4)), targets(6)
    folder = tmp_path_factory.mktemp("gallery")
    model = BoxModel(settings("d", folder), "hash", store.ids, store)
    points = torch.from_numpy(np.stack([shape.points for shape in shapes]))
    run = LoadedRun("runs/ours", "Ours", 0, None, model)
    ids = tuple(shape.id for shape in shapes)
    return Ground(Scope(CATEGORIES, (run,)), store, np.arange(6), points, ids, ())


@pytest.fixture(scope="module")
def table() -> rows.Targets:
    shapes = targets(6)
    return rows.Targets(np.array([s.id for s in shapes]), np.array([s.category for s in shapes]), CATEGORIES)


@pytest.fixture(scope="module")
def measured(ground) -> Measured:
    rng = np.random.default_rng(0)
    return measure_ranked("Ours", 0, ground.store.ids, rng.random((6, 4)), rng.random((6, 4)), oracle=True)


@pytest.fixture(scope="module")
def items(ground, table, measured) -> list[gallery.Item]:
    return gallery.show([ground], table, [measured], 4)


def scene_of(item: gallery.Item) -> trimesh.Scene:
    return trimesh.load_scene(io.BytesIO(base64.b64decode(item.glb)), file_type="glb", process=False)


def test_as_many_of_each_category_from_the_best_to_the_worst(items, table, measured):
    assert [item.category for item in items] == ["chair", "chair", "table", "table"]
    for category, pair in zip(CATEGORIES, (items[:2], items[2:]), strict=True):
        fits = 100 * np.sort(measured.fits["top-1"][table.categories == category])
        shown = [next(p.value_x100 for p in item.pictures if p.title == "deformed") for item in pair]
        assert shown == pytest.approx([fits[0], fits[-1]])
        assert [item.place for item in pair] == ["1 of 3 by fit", "3 of 3 by fit"]


def test_the_glb_of_an_item_holds_three_objects_side_by_side(items, ground):
    for item in items:
        scene = scene_of(item)
        assert set(scene.graph.transforms.children["world"]) == {"source", "deformed", "target"}
        record = ground.store.record(ground.store.ids.index(item.pictures[0].caption))
        for i, name in enumerate(("source", "deformed")):
            assert scene.graph[name][0][:3, 3].tolist() == [i * APART, 0, 0]
            assert set(scene.graph.transforms.children[name]) == {f"{name}/{part}" for part in record.part_names}
        assert scene.graph["target"][0][:3, 3].tolist() == [2 * APART, 0, 0]


def test_objects_are_those_that_were_measured(items, ground):
    for item in items:
        geometry = scene_of(item).geometry
        points = ground.points[ground.target_ids.index(item.target)].numpy()
        np.testing.assert_array_equal(np.asarray(geometry["target/points"].vertices, np.float32), points)
        row = ground.store.ids.index(item.pictures[0].caption)
        mesh = ground.store.mesh(row)
        for part, (piece,) in zip(mesh.names, mesh.pieces, strict=True):
            np.testing.assert_allclose(geometry[f"source/{part}"].vertices, piece.vertices, atol=1e-6)
            np.testing.assert_array_equal(geometry[f"source/{part}"].faces, piece.faces)
        # BoxModel scales a source to the box of the target's points, as seen on the source's own points.
        corners = [np.concatenate([geometry[f"{n}/{p}"].vertices for p in mesh.names]) for n in ("source", "deformed")]
        moved = corners[0] @ np.diag(np.ptp(corners[1], axis=0) / np.ptp(corners[0], axis=0))
        np.testing.assert_allclose(moved - moved.mean(axis=0), corners[1] - corners[1].mean(axis=0), atol=1e-5)
        assert not np.allclose(corners[0], corners[1], atol=0.01)


def test_a_part_has_the_colour_of_its_picture_before_and_after(items):
    for item in items:
        geometry = scene_of(item).geometry
        parts = [name.split("/")[1] for name in geometry if name.startswith("source/")]
        for part, colour in zip(parts, part_colours(len(parts)), strict=True):
            for name in ("source", "deformed"):
                shown = geometry[f"{name}/{part}"].visual.material.baseColorFactor
                assert shown.tolist() == [*colour, 255]
        cloud = geometry["target/points"]
        assert (cloud.colors == [*POINT_COLOUR, 255]).all()


def test_equal_items_have_equal_bytes(items, ground, table, measured):
    assert gallery.show([ground], table, [measured], 4) == items


def test_pieces_of_a_part_become_one_mesh():
    first, second = (trimesh.creation.box((1, 1, 1)) for _ in range(2))
    second.apply_translation((3, 0, 0))
    mesh = PartMesh(("pair",), ((first, second),))
    scene = trimesh.load_scene(io.BytesIO(side_by_side(mesh, mesh, np.zeros((1, 3)))), file_type="glb", process=False)
    pair = scene.geometry["source/pair"]
    assert (len(pair.vertices), len(pair.faces), pair.bounds.tolist()) == (16, 24, [[-0.5] * 3, [3.5, 0.5, 0.5]])


def test_an_item_that_is_too_large_keeps_its_pictures_and_says_so(ground, table, measured, items, monkeypatch):
    largest = max(len(base64.b64decode(item.glb)) for item in items)
    monkeypatch.setattr(gallery, "MAX_BYTES", largest)
    assert gallery.show([ground], table, [measured], 4) == items  # the limit itself is allowed
    monkeypatch.setattr(gallery, "MAX_BYTES", largest - 1)
    found = gallery.show([ground], table, [measured], 4)
    assert [item.pictures for item in found] == [item.pictures for item in items]
    assert {item.glb for item in found} < {"", *(item.glb for item in items)}
    assert all(("pictures only" in item.note) == (item.glb == "") for item in found)


def test_results_of_other_protocols_are_not_shown(ground, table, measured):
    assert gallery.show([ground], table, [replace(measured, protocol="partial-50")], 4) == []


def test_without_an_oracle_there_are_three_pictures(ground, table, measured):
    (item, *_) = gallery.show([ground], table, [replace(measured, best=None, least=None)], 1)
    assert [picture.title for picture in item.pictures] == ["source", "deformed", "target"]


def test_what_ranks_but_does_not_deform_is_not_shown(ground, table, measured):
    class Ranker(BoxModel):
        @property
        def has_deformation(self) -> bool:
            return False

    (run,) = ground.scope.runs
    blind = replace(run, name="R", model=Ranker(run.model.config, "hash", ground.store.ids, ground.store))
    both = replace(ground, scope=Scope(CATEGORIES, (blind, run)))
    found = gallery.show([both], table, [replace(measured, method="R+DF"), measured], 1)
    assert {item.method for item in found} == {"Ours"}
    assert gallery.show([replace(ground, scope=Scope(CATEGORIES, (blind,)))], table, [measured], 4) == []
