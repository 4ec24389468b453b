"""The base colour of every face of a part mesh, for pictures: factors, textures, vertex and face colours."""

from __future__ import annotations

import numpy as np
import trimesh
from trimesh.visual import TextureVisuals

from jr_dist.data.part_mesh import PartMesh

_GREY = np.array([180.0, 180.0, 180.0])


def material_colours(mesh: PartMesh) -> np.ndarray:
    """(F, 3) uint8 sRGB, in the order of `part_mesh.concatenated`; light grey where nothing is known.

    A texture is read at the middle of each face. glTF's factors are linear light, textures and vertex colours as they
    are seen (glTF 2.0, section 3.9.2).
    """
    colours = [np.zeros((0, 3))]
    colours += [_of_piece(piece) for pieces in mesh.pieces for piece in pieces]
    return np.rint(np.clip(np.concatenate(colours), 0, 255)).astype(np.uint8)


def _of_piece(piece: trimesh.Trimesh) -> np.ndarray:
    visual = piece.visual
    if not isinstance(visual, TextureVisuals):
        if visual is None or not visual.defined:
            return np.tile(_GREY, (len(piece.faces), 1))
        return np.asarray(visual.face_colors[:, :3], float)
    material = visual.material
    if hasattr(material, "to_pbr"):
        material = material.to_pbr()
    factor = getattr(material, "baseColorFactor", None)
    linear = np.ones(3) if factor is None else np.asarray(factor[:3], float) / 255
    image = getattr(material, "baseColorTexture", None)
    if image is None or visual.uv is None:
        return np.tile(_GREY if factor is None else 255 * _to_srgb(linear), (len(piece.faces), 1))
    pixels = np.asarray(image.convert("RGB"))
    uv = np.asarray(visual.uv)[:, :2][piece.faces].mean(axis=1) % 1.0
    row = np.minimum(((1 - uv[:, 1]) * pixels.shape[0]).astype(int), pixels.shape[0] - 1)
    column = np.minimum((uv[:, 0] * pixels.shape[1]).astype(int), pixels.shape[1] - 1)
    return pixels[row, column] * _to_srgb(linear)


def _to_srgb(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
