"""Colours, textures and normals of a part mesh survive the way to arrays, and models without any get materials."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from jr_dist.data.materials import LOOKS, first_word, plausible
from jr_dist.data.mesh_files import load_mesh_file
from jr_dist.data.part_mesh import PartMesh, from_glb, to_glb, with_normals
from jr_dist.data.surface import GREY, coat_of, surface_of, to_linear


def triangle(visual=None) -> trimesh.Trimesh:
    return trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], visual=visual, process=False)


def textured(pixels, uv) -> trimesh.Trimesh:
    return triangle(TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=Image.fromarray(np.uint8(pixels)))))


def test_factors_are_linear_and_face_colours_as_seen():
    factor = TextureVisuals(
        material=PBRMaterial(baseColorFactor=[55, 255, 0, 255], metallicFactor=1, roughnessFactor=0.25)
    )
    painted = triangle()
    painted.visual = ColorVisuals(painted, face_colors=[[10, 20, 30, 255]])
    mesh = PartMesh(("a", "b", "c"), ((triangle(factor),), (painted,), (triangle(),)))
    for surface in (surface_of(mesh), surface_of(from_glb(to_glb(mesh)))):
        expected = [np.array([55, 255, 0]) / 255, to_linear(np.array([10, 20, 30]) / 255)]
        np.testing.assert_allclose(surface.own.colours[:2], expected, atol=1e-6)
        assert (surface.own.metallic[0], surface.own.roughness[0]) == (1, 0.25)
        np.testing.assert_array_equal(surface.part_of_face, [0, 1, 2])
    bare = surface_of(mesh)
    np.testing.assert_array_equal(bare.coloured, [True, True, False])
    np.testing.assert_allclose(bare.own.colours[2], to_linear(np.full(3, GREY)), rtol=1e-6)


def test_a_material_that_is_only_named_is_no_colour(tmp_path):
    for number, (told, coloured) in enumerate((("", False), ("newmtl wood\nKd 0.5 0.2 0.1\n", True))):
        (tmp_path / f"{number}.mtl").write_text(told)
        corners = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
        (tmp_path / f"{number}.obj").write_text(f"mtllib {number}.mtl\nusemtl wood\n{corners}")
        mesh = load_mesh_file(tmp_path / f"{number}.obj").mesh
        for one in (mesh, from_glb(to_glb(mesh))):
            assert surface_of(one).coloured.tolist() == [coloured]


def test_a_texture_is_kept_once_and_shrunk():
    image = np.zeros((8, 4, 3), np.uint8)
    image[:, :, 0] = np.arange(8)[:, None]
    one = textured(image, [[0.1, 0.2], [0.3, 0.2], [0.1, 0.9]])
    two = trimesh.Trimesh(
        one.vertices,
        one.faces,
        visual=TextureVisuals(uv=[[2, -1], [3, -1], [2, 0]], material=one.visual.material),
        process=False,
    )
    big = textured(np.full((2048, 1024, 3), 77), np.zeros((3, 2)))
    surface = surface_of(PartMesh(("a", "b", "c"), ((one,), (two,), (big,))))
    np.testing.assert_array_equal(surface.own.texture_of_face, [0, 0, 1])
    np.testing.assert_array_equal(surface.textures, [[0, 8, 4], [32, 512, 256]])
    np.testing.assert_array_equal(surface.texels[:32].reshape(8, 4, 3), image)
    assert (surface.texels[32:] == 77).all()
    np.testing.assert_allclose(surface.uv[0], [[0.1, 0.2], [0.3, 0.2], [0.1, 0.9]], atol=1e-6)
    np.testing.assert_allclose(surface.uv[1], [[0, 0], [1, 0], [0, 1]])  # one turn less, in one piece


def test_normals_are_the_author_s_where_given_else_the_face_s():
    given = np.array([[0.6, 0, 0.8], [0, 0.6, 0.8], [0, 0, 1]])
    mesh = PartMesh(("a", "b"), ((with_normals(triangle(), given),), (triangle(),)))
    normals = surface_of(mesh).normals
    np.testing.assert_allclose(normals[0], given, atol=1e-6)
    np.testing.assert_allclose(normals[1], [[0, 0, 1]] * 3)


def test_a_coat_covers_what_has_no_colour_or_everything():
    factor = TextureVisuals(material=PBRMaterial(baseColorFactor=[255, 0, 0, 255]))
    surface = surface_of(PartMesh(("leg", "top"), ((triangle(factor),), (triangle(),))))
    drawn = np.array([[0.1, 0.2, 0.3, 0, 0.5], [0.4, 0.5, 0.6, 1, 0.2]], np.float32)
    own, all_of_it = coat_of(surface, drawn, own=True), coat_of(surface, drawn, own=False)
    np.testing.assert_allclose(own.colours, [(1, 0, 0), to_linear(np.array([0.4, 0.5, 0.6])).tolist()], rtol=1e-6)
    np.testing.assert_allclose(own.metallic, [surface.own.metallic[0], 1])
    np.testing.assert_allclose(all_of_it.colours, to_linear(drawn[:, :3]), rtol=1e-6)
    np.testing.assert_array_equal(all_of_it.roughness, drawn[:, 4])


@pytest.mark.parametrize(
    ("name", "word"), [("leg_front_left", "leg"), ("Leg 2", "leg"), ("leg.003", "leg"), ("2_top", "top"), ("17", "")]
)
def test_the_first_word_of_a_part(name, word):
    assert first_word(name) == word


def test_parts_that_begin_alike_are_of_one_material_and_looks_share_none():
    names = ["leg_1", "leg_2", "back_post", "back_rail", "top"]
    for seed in range(20):
        drawn = plausible(names, LOOKS["train"], np.random.default_rng(seed))
        np.testing.assert_array_equal(drawn[0], drawn[1])
        np.testing.assert_array_equal(drawn[2], drawn[3])
        np.testing.assert_array_equal(drawn, plausible(names, LOOKS["train"], np.random.default_rng(seed)))
        assert drawn.min() >= 0 and drawn.max() <= 1
    tones = {look: {tone for stuff in LOOKS[look].stuffs.values() for tone in stuff.tones} for look in LOOKS}
    assert not tones["train"] & tones["unseen"]
    train, unseen = LOOKS["train"], LOOKS["unseen"]
    assert train.key_azimuth[1] < unseen.key_azimuth[0] and unseen.key_elevation[1] < train.key_elevation[0]
