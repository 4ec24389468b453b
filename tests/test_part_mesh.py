"""Part meshes: what goes into a GLB comes out of it; deformation follows the box model."""

from __future__ import annotations

import io

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from jr_dist.data.build import build_source
from jr_dist.data.file_parts import find_parts
from jr_dist.data.mesh_files import load_mesh_file
from jr_dist.data.part_mesh import (
    PartMesh,
    concatenated,
    deformed,
    from_glb,
    given_normals,
    to_glb,
    transformed,
    unique_names,
    with_normals,
)
from jr_dist.errors import InputError


def normals_of(piece: trimesh.Trimesh) -> np.ndarray:
    normals = given_normals(piece)
    assert normals is not None
    return normals


def picture(seed: int, kind: str | None = None) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if kind is None:
        return image
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=97)
    return Image.open(buffer)


def textured_box(extents, centre, image: Image.Image | None = None) -> trimesh.Trimesh:
    box = trimesh.creation.box(extents=extents)
    box.apply_translation(centre)
    uv = np.random.default_rng(0).uniform(-3, 3, (len(box.vertices), 2))
    material = PBRMaterial(
        name="oak",
        baseColorTexture=image,
        baseColorFactor=[10, 20, 30, 255],
        metallicFactor=0.0,
        roughnessFactor=0.25,
    )
    return trimesh.Trimesh(box.vertices, box.faces, visual=TextureVisuals(uv=uv, material=material), process=False)


def plain_box(extents, centre) -> trimesh.Trimesh:
    box = trimesh.creation.box(extents=extents)
    box.apply_translation(centre)
    return trimesh.Trimesh(box.vertices, box.faces, process=False)


def chair() -> PartMesh:
    """A seat of two materials and a back, touching."""
    seat = (textured_box((1, 0.2, 1), (0, 0.5, 0), picture(1)), plain_box((0.9, 0.1, 0.9), (0, 0.65, 0)))
    back = with_normals(plain_box((1, 1, 0.1), (0, 1.1, -0.5)), np.tile([0.0, 0.6, 0.8], (8, 1)))
    return PartMesh(("seat", "back"), (seat, (back,)))


def test_round_trip_keeps_names_pieces_vertices_and_faces():
    mesh = chair()
    back = from_glb(to_glb(mesh))
    assert back.names == mesh.names
    assert [len(p) for p in back.pieces] == [2, 1]
    for before, after in zip(concatenated(mesh), concatenated(back), strict=True):
        np.testing.assert_array_equal(after, before.astype(np.float32) if before.dtype == float else before)


def test_round_trip_keeps_texture_uv_and_material():
    mesh = chair()
    before, after = mesh.pieces[0][0].visual, from_glb(to_glb(mesh)).pieces[0][0].visual
    np.testing.assert_allclose(after.uv, before.uv, atol=1e-6)
    material = after.material
    np.testing.assert_array_equal(np.asarray(material.baseColorTexture), np.asarray(before.material.baseColorTexture))
    np.testing.assert_array_equal(material.baseColorFactor, [10, 20, 30, 255])
    assert (material.name, material.metallicFactor, material.roughnessFactor) == ("oak", 0.0, 0.25)


def test_given_normals_survive_and_computed_ones_are_not_written():
    mesh = chair()
    for pieces in mesh.pieces:
        for piece in pieces:
            assert piece.vertex_normals is not None  # trimesh caches what it computes here
    back = from_glb(to_glb(mesh))
    assert given_normals(back.pieces[0][0]) is None
    np.testing.assert_allclose(normals_of(back.pieces[1][0]), np.tile([0, 0.6, 0.8], (8, 1)), atol=1e-7)


def test_bytes_are_stable():
    data = to_glb(chair())
    assert to_glb(chair()) == data
    assert to_glb(from_glb(data)) == data


def test_jpeg_textures_do_not_fade():
    def texture(mesh: PartMesh) -> np.ndarray:
        return np.asarray(mesh.pieces[0][0].visual.material.baseColorTexture, np.int64)

    mesh = PartMesh(("top",), ((textured_box((1, 1, 1), (0, 0, 0), picture(2, "JPEG")),),))
    before = texture(mesh)  # decoded: the first writing must encode again, the later ones must not
    once = from_glb(to_glb(mesh))
    assert once.pieces[0][0].visual.material.baseColorTexture.format == "JPEG"
    assert np.abs(texture(once) - before).mean() < 8  # noise, the hardest there is; Pillow's default quality: 20
    assert to_glb(from_glb(to_glb(once))) == to_glb(once)
    untouched = PartMesh(("top",), ((textured_box((1, 1, 1), (0, 0, 0), picture(2, "JPEG")),),))
    np.testing.assert_array_equal(texture(from_glb(to_glb(untouched))), before)


def test_simple_materials_that_hash_alike_stay_apart():
    # trimesh's hash of a simple material is 0 whenever ambient equals diffuse.
    colours = ([255, 0, 0, 255], [0, 0, 255, 255])
    pieces = []
    for x, colour in enumerate(colours):
        box = plain_box((1, 1, 1), (2.0 * x, 0, 0))
        box.visual = TextureVisuals(material=SimpleMaterial(diffuse=colour, ambient=colour, specular=[1, 1, 1, 255]))
        pieces.append((box,))
    back = from_glb(to_glb(PartMesh(("a", "b"), tuple(pieces))))
    assert [p[0].visual.material.baseColorFactor.tolist() for p in back.pieces] == [list(c) for c in colours]


def test_vertex_colours_survive():
    box = plain_box((1, 1, 1), (0, 0, 0))
    colours = np.random.default_rng(0).integers(0, 256, (8, 4), dtype=np.uint8)
    box.visual.vertex_colors = colours
    back = from_glb(to_glb(PartMesh(("a",), ((box,),))))
    np.testing.assert_array_equal(back.pieces[0][0].visual.vertex_colors, colours)


def test_each_part_is_one_top_level_node():
    scene = trimesh.load_scene(io.BytesIO(to_glb(chair())), file_type="glb")
    assert sorted(scene.graph.transforms.children["world"]) == ["back", "seat"]
    assert sorted(scene.graph.transforms.children["seat"]) == ["seat/0", "seat/1"]


@given(st.lists(st.text(max_size=6), max_size=12))
def test_unique_names(names):
    result = unique_names(names)
    assert len(result) == len(names) == len(set(result))
    assert unique_names(result) == result
    assert all(result) and "world" not in result


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(["leg", "world", "a/0", "a", "é 1", "", "2"]), min_size=1, max_size=6))
def test_any_unique_names_round_trip(names):
    unique = unique_names(names)
    mesh = PartMesh(unique, tuple((plain_box((1, 1, 1), (2.0 * i, 0, 0)),) for i in range(len(unique))))
    back = from_glb(to_glb(mesh))
    assert back.names == unique
    np.testing.assert_array_equal(concatenated(back)[0], concatenated(mesh)[0])


def test_file_with_nested_and_moved_nodes():
    scene = trimesh.Scene()
    scene.graph.update(
        frame_to="desk", frame_from="world", matrix=trimesh.transformations.translation_matrix((5, 0, 0))
    )
    scene.add_geometry(plain_box((1, 1, 1), (0, 0, 0)), node_name="top", parent_node_name="desk")
    data = scene.export(file_type="glb")
    assert isinstance(data, bytes)
    mesh = from_glb(data)
    assert mesh.names == ("desk",)
    np.testing.assert_allclose(concatenated(mesh)[0].mean(axis=0), (5, 0, 0))


def frame(scale: float, shift) -> np.ndarray:
    """Turned by a quarter about x, so that more than the scale is seen to be kept."""
    transform = np.eye(4)
    transform[:3, :3] = scale * np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    transform[:3, 3] = shift
    return transform


@pytest.mark.parametrize(
    ("scale", "shift"),
    [
        (0.7, (563214.37, 312.55, 5401882.91)),
        (700.0, (5.6e8, 3e5, -5.4e9)),
        (1e-9, (0, 2e-5, 0)),
        (0.7, (0, 40, 0)),
    ],
)
def test_far_from_the_origin_nothing_is_rounded(scale: float, shift, tmp_path):
    mesh, transform = chair(), frame(scale, shift)
    wanted = transformed(mesh, transform)
    vertices, faces, part_of_face = concatenated(wanted)
    tolerance = {"rtol": 0, "atol": 1e-6 * np.linalg.norm(np.ptp(vertices, axis=0)) + 2e-15 * np.abs(shift).max()}
    data = to_glb(mesh, transform)

    back = from_glb(data)
    assert back.names == mesh.names and [len(p) for p in back.pieces] == [2, 1]
    np.testing.assert_allclose(concatenated(back)[0], vertices, **tolerance)
    np.testing.assert_array_equal(concatenated(back)[1], faces)
    np.testing.assert_array_equal(concatenated(back)[2], part_of_face)
    np.testing.assert_allclose(normals_of(back.pieces[1][0]), normals_of(wanted.pieces[1][0]), atol=1e-6)

    # As others read it: part nodes under their own names at the top, and the same places however they ask.
    scene = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)
    assert sorted(scene.graph.transforms.children["world"]) == ["back", "seat"]
    assert sorted(scene.graph.transforms.children["seat"]) == ["seat/0", "seat/1"]
    corners = vertices.min(axis=0), vertices.max(axis=0)
    for asked in (scene, scene.to_geometry(), trimesh.util.concatenate(scene.dump())):
        for found, expected in zip(asked.bounds, corners, strict=True):
            np.testing.assert_allclose(found, expected, **tolerance)
    (tmp_path / "far.glb").write_bytes(data)
    again = find_parts(load_mesh_file(tmp_path / "far.glb"))[0]
    (tmp_path / "near.glb").write_bytes(to_glb(mesh))
    assert again.names == find_parts(load_mesh_file(tmp_path / "near.glb"))[0].names
    np.testing.assert_allclose(concatenated(again)[0], vertices, **tolerance)


@pytest.mark.parametrize(
    ("scale", "shift"), [(0.7, (0, 0, 0)), (0.7, (1, 2, 3)), (0.7, (5, -9, 10)), (1e-11, (9e-9, -5e-9, 0))]
)
def test_near_the_origin_the_transform_is_in_the_vertices(scale: float, shift):
    transform = frame(scale, shift)
    assert to_glb(chair(), transform) == to_glb(transformed(chair(), transform))


@pytest.mark.parametrize("data", [b"", b"glTF", b"solid cube", to_glb(chair())[:200], to_glb(chair())[:-40]])
def test_broken_bytes_are_the_users_error(data):
    with pytest.raises(InputError) as caught:
        from_glb(data)
    assert "\n" not in str(caught.value)


def test_transformed_by_a_reflection_keeps_the_outside_out():
    mesh = chair()
    mirror = np.diag([-1.0, 1, 1, 1])
    vertices, faces, _ = concatenated(transformed(mesh, mirror))
    before = trimesh.Trimesh(*concatenated(mesh)[:2], process=False)
    after = trimesh.Trimesh(vertices, faces, process=False)
    assert after.volume == pytest.approx(before.volume)
    np.testing.assert_allclose(vertices, concatenated(mesh)[0] * [-1, 1, 1])


def test_normals_stay_perpendicular_under_any_affine_map():
    rng = np.random.default_rng(3)
    sphere = trimesh.creation.icosphere(subdivisions=2)
    piece = with_normals(trimesh.Trimesh(sphere.vertices, sphere.faces, process=False), sphere.vertices)
    transform = np.eye(4)
    transform[:3, :3] = rng.normal(size=(3, 3))
    moved = transformed(PartMesh(("ball",), ((piece,),)), transform).pieces[0][0]
    tangent = np.cross(sphere.vertices, rng.normal(size=3)) @ transform[:3, :3].T
    dots = (normals_of(moved) * tangent).sum(axis=1)
    np.testing.assert_allclose(dots, 0, atol=1e-5)


def source_of(mesh: PartMesh):
    source = build_source(mesh, id="s", category="chair", num_points=64, seed=0, provenance={})
    return source, from_glb(source.mesh_glb)


def test_deformed_with_its_own_boxes_is_the_same_mesh():
    source, mesh = source_of(chair())
    same = deformed(mesh, source, source.centre, source.half_extent)
    for before, after in zip(concatenated(mesh), concatenated(same), strict=True):
        np.testing.assert_array_equal(after, before)
    assert to_glb(same) == source.mesh_glb


def test_deformed_moves_each_part_into_its_new_box():
    source, mesh = source_of(chair())
    rng = np.random.default_rng(0)
    centre = source.centre + rng.normal(size=source.centre.shape)
    half_extent = source.half_extent * rng.uniform(0.3, 3, source.half_extent.shape)
    result = deformed(mesh, source, centre, half_extent)
    vertices, faces, part_of_face = concatenated(result)
    for part in range(2):
        own = vertices[faces[part_of_face == part].ravel()]
        np.testing.assert_allclose((own.max(0) + own.min(0)) / 2, centre[part], atol=1e-6)
        np.testing.assert_allclose((own.max(0) - own.min(0)) / 2, half_extent[part], atol=1e-6)
    assert result.pieces[0][0].visual.material.name == "oak"
    expected = np.array([0, 0.6, 0.8]) * source.half_extent[1] / half_extent[1]
    np.testing.assert_allclose(normals_of(result.pieces[1][0])[0], expected / np.linalg.norm(expected), atol=1e-6)
