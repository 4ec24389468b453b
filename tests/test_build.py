"""Records made of meshes: canonical frame, boxes, fair samples, joints, and nothing that depends on anything else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from test_part_mesh import chair, plain_box

from jr_dist.data.build import MAX_PARTS, build_source, build_target
from jr_dist.data.part_mesh import PartMesh, concatenated, from_glb, transformed
from jr_dist.data.records import SourceModel, TargetShape
from jr_dist.errors import InputError
from jr_dist.geometry.boxes import HALF_EXTENT_FLOOR
from jr_dist.geometry.frames import apply_transform, invert_transform
from jr_dist.geometry.joints import Joints, joint_gaps

COMMON = {"id": "a", "category": "chair", "num_points": 500, "seed": 0, "provenance": {"file": "a.glb"}}


def source(mesh: PartMesh, **changes) -> SourceModel:
    return build_source(mesh, **{**COMMON, **changes})


def target(mesh: PartMesh | np.ndarray, **changes) -> TargetShape:
    return build_target(mesh, **{**COMMON, **changes})


def arrays(record: SourceModel | TargetShape) -> dict[str, bytes]:
    values = {x.name: getattr(record, x.name) for x in dataclasses.fields(record)}
    return {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def random_parts(seed: int, num_parts: int) -> PartMesh:
    """Boxes and spheres anywhere, of any size and scale; vertices that no face uses among them."""
    rng = np.random.default_rng(seed)
    pieces = []
    for index in range(num_parts):
        shape = trimesh.creation.box() if index % 2 else trimesh.creation.icosphere(subdivisions=1)
        vertices = shape.vertices * rng.uniform(0.01, 2, 3) + rng.normal(size=3)
        loose = rng.normal(size=(3, 3)) * 100
        pieces.append((trimesh.Trimesh(np.concatenate([loose, vertices]), shape.faces + 3, process=False),))
    mesh = PartMesh(tuple(f"p{i}" for i in range(num_parts)), tuple(pieces))
    place = np.diag([*[rng.uniform(0.001, 100)] * 3, 1.0])
    place[:3, 3] = rng.normal(size=3) * 50
    return transformed(mesh, place)


meshes = st.builds(random_parts, st.integers(0, 10**6), st.integers(1, MAX_PARTS))


@settings(deadline=None, max_examples=15)
@given(meshes)
def test_boxes_hold_their_parts_tightly(mesh):
    record = source(mesh)
    vertices, faces, part_of_face = concatenated(from_glb(record.mesh_glb))
    for part in range(mesh.num_parts):
        own = vertices[np.unique(faces[part_of_face == part])].astype(np.float32)
        q = (own - record.centre[part]) / record.half_extent[part]
        assert np.abs(q).max() <= 1  # exactly: boxes are rounded outwards
        thick = record.half_extent[part] > HALF_EXTENT_FLOOR * 1.001
        np.testing.assert_allclose(q.max(0)[thick], 1, atol=1e-3)
        np.testing.assert_allclose(q.min(0)[thick], -1, atol=1e-3)
        points = record.points[record.part_index == part]
        assert len(points) > 0
        assert np.abs((points - record.centre[part]) / record.half_extent[part]).max() <= 1 + 1e-5


@settings(deadline=None, max_examples=15)
@given(meshes)
def test_canonical_frame_and_the_way_back(mesh):
    record, shape = source(mesh), target(mesh)
    vertices, faces, _ = concatenated(mesh)
    used = vertices[np.unique(faces)]
    for each in (record, shape):
        canonical = apply_transform(invert_transform(each.transform), used)
        np.testing.assert_allclose(canonical.max(0), -canonical.min(0), atol=1e-9)
        assert np.linalg.norm(canonical.max(0)) == pytest.approx(1)
    stored = concatenated(from_glb(record.mesh_glb))[0]
    scale = np.abs(vertices).max()
    np.testing.assert_allclose(apply_transform(record.transform, stored), vertices, atol=1e-5 * scale)


@settings(deadline=None, max_examples=10)
@given(meshes)
def test_joints_are_closed(mesh):
    record = source(mesh)
    joints = Joints(record.joint_parts.astype(np.int64), record.joint_coordinates.astype(np.float64))
    assert (record.joint_parts[:, 0] < record.joint_parts[:, 1]).all()
    assert joint_gaps(joints, record.centre, record.half_extent).max(initial=0) < 1e-5


@settings(deadline=None, max_examples=5)
@given(meshes)
def test_same_mesh_and_seed_give_the_same_bits(mesh):
    assert arrays(source(mesh)) == arrays(source(mesh))
    assert arrays(target(mesh)) == arrays(target(mesh))


def test_shapes_and_types():
    record = source(chair())
    assert record.part_names == ("seat", "back")
    assert (record.points.dtype, record.points.shape) == (np.float32, (500, 3))
    assert (record.part_index.dtype, record.part_index.shape) == (np.int16, (500,))
    assert (record.joint_parts.dtype, record.joint_parts.shape) == (np.int32, (1, 2))
    assert (record.joint_coordinates.dtype, record.joint_coordinates.shape) == (np.float32, (1, 2, 3))
    assert (record.centre.dtype, record.half_extent.dtype) == (np.float32, np.float32)
    assert record.transform.dtype == np.float64
    assert record.provenance == {"file": "a.glb"}


@pytest.mark.parametrize("change", [{"seed": 1}, {"id": "b"}])
def test_the_samples_depend_on_seed_and_id(change):
    assert source(chair()).points.tobytes() != source(chair(), **change).points.tobytes()
    assert target(chair()).points.tobytes() != target(chair(), **change).points.tobytes()


def test_source_and_target_of_one_mesh_are_sampled_apart():
    """Were they the same points, a source would fit its own target better than any surface allows."""
    ours = {p.tobytes() for p in source(chair()).points}
    assert not ours & {p.tobytes() for p in target(chair()).points}


def test_every_prefix_is_a_fair_sample():
    """A part of a ninth of the surface has a ninth of the first points as well as of all."""
    mesh = PartMesh(("big", "small"), ((plain_box((2, 2, 2), (0, 0, 0)),), (plain_box((0.7072,) * 3, (0, 3, 0)),)))
    record = source(mesh, num_points=20_000)
    for points in (1000, 5000, 20_000):
        share = (record.part_index[:points] == 1).mean()
        assert share == pytest.approx(1 / 9, abs=4 * np.sqrt(8 / 81 / points))
    halves = record.points[record.part_index == 0, 0] > 0
    assert halves[:2000].mean() == pytest.approx(0.5, abs=0.05)


def test_a_tiny_part_is_not_forgotten():
    mesh = PartMesh(("big", "knob"), ((plain_box((1, 1, 1), (0, 0, 0)),), (plain_box((0.01,) * 3, (0, 0.505, 0)),)))
    record = source(mesh)
    assert (record.part_index == 1).sum() >= 4
    assert record.joint_parts.tolist() == [[0, 1]]


def test_a_flat_part_has_a_thickness_to_divide_by():
    square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    record = source(PartMesh(("pane",), ((square,),)))
    assert record.half_extent.min() == np.float32(HALF_EXTENT_FLOOR)
    assert np.isfinite(record.points).all()


def test_target_of_a_cloud_is_a_choice_of_its_points():
    cloud = np.random.default_rng(0).normal(size=(700, 3)) * 5 + 3
    shape = target(cloud)
    back = apply_transform(shape.transform, shape.points.astype(np.float64))
    distance = np.abs(back[:, None] - cloud[None]).max(-1)
    assert distance.min(1).max() < 1e-5
    assert len(set(distance.argmin(1))) == 500
    assert (shape.part_index == -1).all()


def test_target_of_a_mesh_knows_its_parts():
    shape = target(chair())
    assert set(shape.part_index.tolist()) == {0, 1}
    assert (shape.points[shape.part_index == 1][:, 2] < -0.1).all()  # the back stands behind


def broken(vertex: float) -> PartMesh:
    box = plain_box((1, 1, 1), (0, 0, 0))
    vertices = np.array(box.vertices)
    vertices[3, 1] = vertex
    return PartMesh(("a",), ((trimesh.Trimesh(vertices, box.faces, process=False),),))


LINE = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
EMPTY = trimesh.Trimesh(np.zeros((3, 3)), np.zeros((0, 3), int), process=False)
BOX = plain_box((1, 1, 1), (0, 0, 0))


@pytest.mark.parametrize(
    ("build", "mesh", "words"),
    [
        (source, PartMesh((), ()), "has 0 parts; allowed are 1 to 16"),
        (source, PartMesh(tuple(map(str, range(17))), ((BOX,),) * 17), "has 17 parts"),
        (source, PartMesh(("a", "rod"), ((BOX,), (LINE,))), "'rod' of source a has no surface"),
        (source, PartMesh(("a", "air"), ((BOX,), (EMPTY,))), "'air' of source a has no triangle"),
        (source, broken(np.nan), "not finite"),
        (target, broken(np.inf), "not finite"),
        (target, PartMesh(("a",), ((EMPTY,),)), "no triangle"),
        (target, PartMesh(("a",), ((LINE,),)), "area of 1 triangles is 0"),
        (target, np.zeros((600, 3)), "span a box"),
        (target, np.full((600, 3), np.nan), "not finite"),
        (target, np.eye(3), "has 3 points; allowed are 500 or more"),
    ],
)
def test_what_cannot_be_built_is_named_in_a_line(build, mesh, words):
    with pytest.raises(InputError, match=words) as caught:
        build(mesh)
    assert "\n" not in str(caught.value)
