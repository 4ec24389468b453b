"""A part mesh as plain arrays, ready to be rendered: corners, normals, texture coordinates, colours, textures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals

from jr_dist.data.mesh_files import PLAIN_GREY
from jr_dist.data.part_mesh import PartMesh, concatenated, given_normals
from jr_dist.data.ray_casting import RayScene

GREY = 180 / 255  # as seen, of what has neither a colour nor a texture
_LARGEST_TEXTURE = 512  # pixels a side: pictures are small, and a texture finer than their pixels only flickers
_ROUGH = 0.6  # of what doesn't say how rough it is


@dataclass(frozen=True, eq=False)
class Coat:
    """What F triangles look like."""

    colours: np.ndarray  # [F, 3] float32, linear light in [0, 1]: multiplies the texture where there is one
    metallic: np.ndarray  # [F] float32 in [0, 1]
    roughness: np.ndarray  # [F] float32 in [0, 1]
    texture_of_face: np.ndarray  # [F] int32, -1 for none


@dataclass(frozen=True, eq=False)
class Surface:
    """F triangles, and what the model itself says of how they look."""

    vertices: np.ndarray  # [V, 3] float32
    faces: np.ndarray  # [F, 3] int32
    part_of_face: np.ndarray  # [F] int16
    normals: np.ndarray  # [F, 3, 3] float32, unit, at the corners: the author's, else the face's own
    uv: np.ndarray  # [F, 3, 2] float32 at the corners, v upwards
    own: Coat
    coloured: np.ndarray  # [F] bool: whether the model says what colour this is; grey in `own` where not
    texels: np.ndarray  # [T, 3] uint8, all textures one after another, rows from the top
    textures: np.ndarray  # [K, 3] int64: where each texture begins in `texels`, its height, its width

    @cached_property
    def scene(self) -> RayScene:
        """The triangles ready for rays, built when first asked for."""
        return RayScene(self.vertices, self.faces)


def surface_of(mesh: PartMesh) -> Surface:
    """The surface of a part mesh, faces in the order of `concatenated`.

    glTF's factors are linear light, textures and vertex colours as they are seen (glTF 2.0, section 3.9.2).
    Transparency is left out: glass is opaque.
    """
    vertices, faces, part_of_face = concatenated(mesh)
    pieces = [piece for group in mesh.pieces for piece in group]
    textures = _Textures()
    looks = [_look(piece, textures) for piece in pieces]
    corners = vertices[faces]
    normals = np.concatenate([np.zeros((0, 3, 3)), *(_corner_normals(piece) for piece in pieces)])
    flat = _unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    unknown = ~(np.linalg.norm(normals, axis=2) > 0.5).all(axis=1)
    normals[unknown] = flat[unknown, None]
    joined = [np.concatenate([np.zeros(shape), *columns]) for shape, *columns in zip(_LOOK_SHAPES, *looks)]
    colours, metallic, roughness, coloured, texture_of_face, uv = joined
    return Surface(
        vertices=vertices.astype(np.float32),
        faces=faces.astype(np.int32),
        part_of_face=part_of_face.astype(np.int16),
        normals=_unit(normals).astype(np.float32),
        uv=uv.astype(np.float32),
        own=Coat(
            colours.astype(np.float32),
            metallic.astype(np.float32),
            roughness.astype(np.float32),
            texture_of_face.astype(np.int32),
        ),
        coloured=coloured.astype(bool),
        texels=np.concatenate([np.zeros((0, 3), np.uint8), *textures.pixels]),
        textures=np.array(textures.places, np.int64).reshape(-1, 3),
    )


def coat_of(surface: Surface, drawn: np.ndarray, *, own: bool) -> Coat:
    """The coat in the materials drawn for its parts, [P, 5] float32 as of `materials.plausible`; where `own`, only of
    what the model doesn't colour itself."""
    keep = surface.coloured & own
    if keep.all():
        return surface.own
    of_face = drawn[surface.part_of_face]
    return Coat(
        colours=np.where(keep[:, None], surface.own.colours, to_linear(drawn[:, :3])[surface.part_of_face]),
        metallic=np.where(keep, surface.own.metallic, of_face[:, 3]),
        roughness=np.where(keep, surface.own.roughness, of_face[:, 4]),
        texture_of_face=np.where(keep, surface.own.texture_of_face, np.int32(-1)),
    )


_LOOK_SHAPES = ((0, 3), (0,), (0,), (0,), (0,), (0, 3, 2))
# colours, metallic, roughness, coloured, texture_of_face, uv of one piece
_Look = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class _Textures:
    """The textures met so far, each once."""

    def __init__(self) -> None:
        self.pixels: list[np.ndarray] = []
        self.places: list[tuple[int, int, int]] = []
        self._known: dict[int, int] = {}

    def number(self, image: Image.Image) -> int:
        if id(image) not in self._known:
            small = image.convert("RGB")
            small.thumbnail((_LARGEST_TEXTURE, _LARGEST_TEXTURE), Image.Resampling.BOX)
            self._known[id(image)] = len(self.pixels)
            self.places.append((sum(map(len, self.pixels)), small.height, small.width))
            self.pixels.append(np.asarray(small).reshape(-1, 3))
        return self._known[id(image)]


def _look(piece: trimesh.Trimesh, textures: _Textures) -> _Look:
    count, visual = len(piece.faces), piece.visual

    def look(colour: np.ndarray, metallic=0.0, roughness=_ROUGH, coloured=True, texture=-1, uv=None) -> _Look:
        return (
            np.broadcast_to(colour, (count, 3)),
            np.full(count, metallic),
            np.full(count, roughness),
            np.full(count, coloured),
            np.full(count, texture),
            np.zeros((count, 3, 2)) if uv is None else uv,
        )

    if not isinstance(visual, TextureVisuals):
        if visual is None or not visual.defined:
            return look(to_linear(np.full(3, GREY)), coloured=False)
        return look(to_linear(np.asarray(visual.face_colors)[:, :3] / 255))
    material = visual.material
    if hasattr(material, "to_pbr"):
        material = material.to_pbr()
    factor = getattr(material, "baseColorFactor", None)
    image = getattr(material, "baseColorTexture", None)
    metallic, roughness = _number(material, "metallicFactor", 0.0), _number(material, "roughnessFactor", _ROUGH)
    tint = np.ones(3) if factor is None else np.asarray(factor[:3], float) / 255
    if image is None or visual.uv is None:
        plain = to_linear(np.full(3, GREY)) if factor is None else tint
        return look(plain, metallic, roughness, coloured=factor is not None and tuple(factor) != PLAIN_GREY)
    uv = np.nan_to_num(np.asarray(visual.uv)[:, :2])[piece.faces]
    return look(tint, metallic, roughness, texture=textures.number(image), uv=uv - np.floor(uv[:, :1]))


def _number(material: object, name: str, default: float) -> float:
    value = getattr(material, name, None)
    return default if value is None else float(value)


def _corner_normals(piece: trimesh.Trimesh) -> np.ndarray:
    given = given_normals(piece)
    return np.zeros((len(piece.faces), 3, 3)) if given is None else np.nan_to_num(np.asarray(given, float))[piece.faces]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def to_linear(seen: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values in [0, 1] (IEC 61966-2-1)."""
    return np.where(seen <= 0.04045, seen / 12.92, ((seen + 0.055) / 1.055) ** 2.4)
