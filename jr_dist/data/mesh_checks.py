"""Which triangles of a file are sound; a mesh cut down to some of its faces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from jr_dist.data.glb_pieces import remember_jpegs
from jr_dist.data.part_mesh import NORMAL
from jr_dist.errors import InputError
from jr_dist.geometry.mesh_components import repeated_faces, weld

MAX_TRIANGLES = 10_000_000
_MAX_COORDINATE = 1e30  # squares of it must stay finite
_MAX_TEXTURE_COORDINATE = 1e6
_TEXTURES = ("baseColorTexture", "normalTexture", "emissiveTexture", "occlusionTexture", "metallicRoughnessTexture")


def sound_pieces(
    path: Path, pieces: Sequence[tuple[str, trimesh.Trimesh]]
) -> tuple[list[tuple[str, trimesh.Trimesh]], dict[str, Any]]:
    """Pieces without faces of area 0 and without unused vertices, and the counts of what was left out.

    Raises `InputError` for no face, too many, none with an area, indices out of range and coordinates that
    are not finite.
    """
    num_faces = sum(len(piece.faces) for _, piece in pieces)
    if num_faces == 0:
        raise InputError(
            f"{path} is a mesh without faces, truncated, or no mesh at all; one triangle is needed at least; "
            "export it again"
        )
    if num_faces > MAX_TRIANGLES:
        raise InputError(f"{path} has {num_faces} triangles; allowed are {MAX_TRIANGLES}; simplify the mesh")
    kept = [(name, _sound(path, piece)) for name, piece in pieces]
    kept = [(name, piece) for name, piece in kept if len(piece.faces)]
    if not kept:
        raise InputError(f"{path} has no face with an area above 0 among its {num_faces}; export the surface again")
    num_sound = sum(len(piece.faces) for _, piece in kept)
    kept = [(name, _without_repeated(piece)) for name, piece in kept]
    left_out = {
        "degenerate_faces": num_faces - num_sound,
        "repeated_faces": num_sound - sum(len(piece.faces) for _, piece in kept),
        "broken_textures": _drop_broken_textures(piece for _, piece in kept),
    }
    return kept, {key: count for key, count in left_out.items() if count}


def sub_mesh(mesh: trimesh.Trimesh, faces: np.ndarray) -> trimesh.Trimesh:
    """The faces `faces` ((F,) int) of a mesh with the vertices they use; UVs, colours, normals and material
    go along.
    """
    used, index = np.unique(mesh.faces[faces], return_inverse=True)
    visual = _sub_visual(mesh, used, faces)
    result = trimesh.Trimesh(mesh.vertices[used], index.reshape(-1, 3), visual=visual, process=False)
    if NORMAL in mesh.vertex_attributes:
        result.vertex_attributes[NORMAL] = mesh.vertex_attributes[NORMAL][used]
    return result


def _sub_visual(mesh: trimesh.Trimesh, used: np.ndarray, faces: np.ndarray) -> Any:
    visual: Any = mesh.visual
    if isinstance(visual, TextureVisuals):
        # A material is shared, not copied, so that a GLB stores it and its textures once.
        uv = None if visual.uv is None or len(visual.uv) != len(mesh.vertices) else visual.uv[used]
        result = TextureVisuals(uv=uv, material=visual.material)
        if "color" in visual.vertex_attributes:
            result.vertex_attributes["color"] = visual.vertex_attributes["color"][used]
        return result
    if visual.kind == "vertex":
        return ColorVisuals(vertex_colors=visual.vertex_colors[used])
    if visual.kind == "face":
        return ColorVisuals(face_colors=visual.face_colors[faces])
    return None


def _sound(path: Path, piece: trimesh.Trimesh) -> trimesh.Trimesh:
    vertices, faces = np.asarray(piece.vertices, np.float64), np.asarray(piece.faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise InputError(f"{path} has vertices that are not three numbers each; export it again")
    _mend_texture_coordinates(piece)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"{path} has faces that point at vertices it doesn't have ({len(vertices)}); export it again")
    used = np.zeros(len(vertices), bool)
    used[faces.ravel()] = True
    bad = used & ~(np.abs(vertices) < _MAX_COORDINATE).all(axis=1)  # NaN compares false
    if bad.any():
        raise InputError(
            f"{path} has {int(bad.sum())} of {len(vertices)} vertices with NaN, infinite or absurd coordinates; "
            "all must be finite; export it again"
        )
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    sound = (np.cross(b - a, c - a) != 0).any(axis=1)
    return piece if sound.all() and used.all() else sub_mesh(piece, np.flatnonzero(sound))


def _mend_texture_coordinates(piece: trimesh.Trimesh) -> None:
    """Coordinates that are no numbers, or so large that a texture would be noise, become 0."""
    visual = piece.visual
    if not isinstance(visual, TextureVisuals) or visual.uv is None:
        return
    uv = visual.uv
    if not (np.abs(uv) < _MAX_TEXTURE_COORDINATE).all():
        visual.uv = np.where(np.abs(uv) < _MAX_TEXTURE_COORDINATE, uv, 0.0)


def _without_repeated(piece: trimesh.Trimesh) -> trimesh.Trimesh:
    """Faces drawn twice with the same side would be sampled twice as densely: once is enough."""
    vertices, faces = np.asarray(piece.vertices, np.float64), np.asarray(piece.faces, np.int64)
    repeated = repeated_faces(faces, weld(vertices, tolerance=1e-7))
    return sub_mesh(piece, np.flatnonzero(~repeated)) if repeated.any() else piece


def _drop_broken_textures(pieces: Iterable[trimesh.Trimesh]) -> int:
    """Decode every texture once; drop and count those that cannot be (truncated, a picture that is a bomb)."""
    seen: dict[int, bool] = {}
    for piece in pieces:
        material = getattr(piece.visual, "material", None)
        remember_jpegs(material)
        for name in _TEXTURES if isinstance(material, PBRMaterial) else ():
            image = getattr(material, name)
            if image is not None and not seen.setdefault(id(image), _decodes(image)):
                setattr(material, name, None)
    return sum(not sound for sound in seen.values())


def _decodes(image: Any) -> bool:
    try:
        image.load()
    except Exception:  # Pillow raises what its codecs run into
        return False
    return True
