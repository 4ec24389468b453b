"""Meshes as they should enter a GLB: what trimesh's exporter would lose, mix up or make anew is settled here."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

_JPEG_BYTES = "jr_dist_jpeg"  # where an image's `info` keeps the file it was decoded from
_FACTORS = (
    "emissiveFactor", "baseColorFactor", "metallicFactor", "roughnessFactor", "doubleSided", "alphaMode", "alphaCutoff",
)  # fmt: skip
_TEXTURES = (
    "baseColorTexture", "emissiveTexture", "normalTexture", "occlusionTexture", "metallicRoughnessTexture",
)  # fmt: skip


def own_visual(piece: trimesh.Trimesh) -> Any:
    """What a new mesh with the vertices of `piece` should look like."""
    # The material is shared: trimesh's deep copy decodes the textures and forgets that they were JPEG.
    given = piece.visual
    if not isinstance(given, TextureVisuals):
        return None if given is None else given.copy()
    visual = TextureVisuals(uv=given.uv, material=given.material)
    if "color" in given.vertex_attributes:  # colours beside a texture
        visual.vertex_attributes["color"] = given.vertex_attributes["color"]
    return visual


def export_piece(
    piece: trimesh.Trimesh, normals: np.ndarray | None, exported: dict[int, PBRMaterial]
) -> trimesh.Trimesh:
    """A bare copy: no metadata, the given normals or none, the material as PBR (made once, in `exported`)."""
    visual = own_visual(piece)
    if isinstance(visual, TextureVisuals):
        visual.uv, visual.material = _stable_uv(visual.uv), _export_material(visual.material, exported)
    result = trimesh.Trimesh(piece.vertices, piece.faces, visual=visual, process=False)
    if normals is not None:
        result.vertex_normals = normals
    return result


def _stable_uv(uv: np.ndarray | None) -> np.ndarray | None:
    if uv is None:
        return None
    uv = np.array(uv, np.float32)[:, :2]
    # glTF flips v. Rounded once like this, flipping it again and again returns the same bits.
    uv[:, 1] = np.float32(1) - (np.float32(1) - uv[:, 1])
    return uv


def _export_material(material: Any, exported: dict[int, PBRMaterial]) -> PBRMaterial:
    # As PBR before trimesh hashes it: its hash of a simple material is an exclusive or of the colours, in
    # which materials with ambient equal to diffuse all look alike and would be taken for one.
    if id(material) not in exported:
        pbr = material.to_pbr() if hasattr(material, "to_pbr") else material
        values = {name: getattr(pbr, name) for name in _FACTORS}
        for name in _TEXTURES:
            image = getattr(pbr, name)
            jpeg = isinstance(image, Image.Image) and image.format == "JPEG"
            values[name] = _KeptJpeg(image) if jpeg else image
        exported[id(material)] = PBRMaterial(name=material.name, **values)
    return exported[id(material)]


class _KeptJpeg:
    """Makes trimesh write the bytes a JPEG texture came with: encoded once more it would fade with every round."""

    format = "JPEG"

    def __init__(self, image: Image.Image) -> None:
        self._data = _jpeg_bytes(image)

    def save(self, file: io.BytesIO, format: str) -> None:  # noqa: A002 (the name trimesh passes it by)
        assert format == "JPEG"
        file.write(self._data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.frombuffer(self._data, np.uint8)  # what trimesh hashes to find equal materials


def _jpeg_bytes(image: Image.Image) -> bytes:
    if _JPEG_BYTES not in image.info:
        stream = getattr(image, "fp", None)  # Pillow lets go of it once the pixels are decoded
        if stream is not None:
            stream.seek(0)
            data = stream.read()
        else:
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG", quality="keep")
            data = buffer.getvalue()
        image.info[_JPEG_BYTES] = data
    return image.info[_JPEG_BYTES]


def remember_jpegs(material: Any) -> None:
    """Keep the bytes of the JPEG textures of a material just read, before anything decodes them."""
    for name in _TEXTURES:
        if getattr(getattr(material, name, None), "format", None) == "JPEG":
            _jpeg_bytes(getattr(material, name))
