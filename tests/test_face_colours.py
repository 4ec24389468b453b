"""Colours of faces as the material says, seen through glTF's linear light."""

from __future__ import annotations

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from jr_dist.data.face_colours import material_colours
from jr_dist.data.part_mesh import PartMesh, from_glb, to_glb


def triangle(**keywords) -> trimesh.Trimesh:
    return trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], process=False, **keywords)


def test_linear_factors_are_shown_as_srgb():
    # 0.2140 in linear light is 0.5 as the eye sees it.
    visual = TextureVisuals(material=PBRMaterial(baseColorFactor=[55, 0, 255, 255]))
    colours = material_colours(PartMesh(("a",), ((triangle(visual=visual),),)))
    np.testing.assert_allclose(colours, [[128, 0, 255]], atol=1)


def test_textures_vertex_colours_and_nothing():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 1] = (200, 100, 50)  # top right: u near 1, v near 1
    uv = np.array([[0.8, 0.8], [0.7, 0.8], [0.8, 0.7]])
    textured = TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=Image.fromarray(pixels)))
    painted = ColorVisuals(face_colors=[[10, 20, 30, 255]])
    mesh = PartMesh(("a", "b", "c"), ((triangle(visual=textured),), (triangle(visual=painted),), (triangle(),)))
    np.testing.assert_array_equal(material_colours(mesh), [[200, 100, 50], [10, 20, 30], [180, 180, 180]])


def test_colours_survive_the_file():
    visual = TextureVisuals(material=PBRMaterial(name="oak", baseColorFactor=[120, 60, 20, 255]))
    mesh = PartMesh(("a",), ((triangle(visual=visual),),))
    np.testing.assert_array_equal(material_colours(from_glb(to_glb(mesh))), material_colours(mesh))
