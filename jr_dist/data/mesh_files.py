"""Other people's mesh files: read, checked, set upright and to size; nothing of the loader's own errors
gets out.

The upright frame is x right, y up, z front (as far as the file or its index tells). Its unit is the
centimetre where a size is given, else the file's own. `LoadedFile.to_file` leads back into the file's frame
and units.
"""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from jr_dist.data.file_resolver import MAX_FILE_BYTES, FolderResolver
from jr_dist.data.gltf_checks import check_gltf
from jr_dist.data.mesh_checks import MAX_TRIANGLES, sound_pieces
from jr_dist.data.model_index import UP_AXES, IndexRow, read_index
from jr_dist.data.obj_groups import ObjSection, section_name, split_sections
from jr_dist.data.part_mesh import PartMesh, concatenated, transformed, unique_names, with_normals
from jr_dist.data.upright import UprightRule, guess_up_axis, size_factors
from jr_dist.errors import InputError
from jr_dist.geometry.frames import invert_transform, up_axis_rotation

__all__ = ["MESH_SUFFIXES", "PLAIN_GREY", "IndexRow", "LoadedFile", "load_mesh_file", "read_index"]

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".stl", ".ply", ".off")
PLAIN_GREY = (178, 178, 178, 255)  # a material that the file names without saying what it looks like

logging.getLogger("trimesh").setLevel(logging.CRITICAL)  # what it has to say is turned into our own line


@dataclass(frozen=True)
class LoadedFile:
    """A mesh file, upright: a named part for each node or group of the file, one piece a material."""

    path: Path
    mesh: PartMesh  # every vertex finite and used, no face of area 0
    to_file: np.ndarray  # (4, 4) float64, upright -> the file's own frame and units
    provenance: dict[str, Any]  # JSON-able: format, up axis, rotation, scale, unit, what was left out


def load_mesh_file(
    path: str | Path,
    *,
    up: str = "y",
    rotation: np.ndarray | None = None,
    size_cm: tuple[float | None, float | None, float | None] | None = None,
) -> LoadedFile:
    """Read a GLB, glTF, OBJ, STL, PLY or OFF file.

    Args: `rotation` (3, 3) is applied to the file's coordinates first; `up` is the axis that points up then
    (x, y, z, -x, -y, -z, or `auto` to guess); `size_cm` (width, depth, height) is what the upright model
    measures, None where unknown. Textures are read from the file's own folder and below, nowhere else.
    Raises `InputError` in one line for whatever is wrong.
    """
    path = Path(path)
    if up != "auto" and up not in UP_AXES:
        raise InputError(f"up axis is {up!r}; allowed are {', '.join(UP_AXES)} and auto; set --up")
    _check_file(path)
    pieces, dropped = sound_pieces(path, _read(path))
    by_node: dict[str, list[trimesh.Trimesh]] = {}
    for node, piece in pieces:
        by_node.setdefault(node, []).append(piece)
    mesh = PartMesh(unique_names(by_node), tuple(tuple(pieces) for pieces in by_node.values()))
    mesh, to_file, told = _stood_up(mesh, UprightRule(up, rotation, size_cm))
    return LoadedFile(path, mesh, to_file, {"format": path.suffix.lower()[1:], **told, **dropped})


def _check_file(path: Path) -> None:
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise InputError(f"{path} is no mesh file by its suffix; allowed are {', '.join(MESH_SUFFIXES)}; convert it")
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a file that can be read; check the path")
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from error
    if size == 0:
        raise InputError(f"{path} is empty (0 bytes); export it again")
    if size > MAX_FILE_BYTES:
        raise InputError(f"{path} has {size >> 20} MiB; allowed are {MAX_FILE_BYTES >> 20} MiB; simplify the mesh")


def _read(path: Path) -> list[tuple[str, trimesh.Trimesh]]:
    """Pieces with the name of their node or group, in the order of the file."""
    suffix = path.suffix.lower()
    if suffix in (".glb", ".gltf"):
        check_gltf(path, max_elements=3 * MAX_TRIANGLES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read_obj(path) if suffix == ".obj" else _read_scene(path)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path} asks for more memory than there is; simplify the mesh") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({_first_line(error)}); check it and the files it names") from error
    except Exception as error:  # trimesh raises whatever its parsers run into
        raise InputError(
            f"{path} cannot be read as {suffix[1:].upper()} ({type(error).__name__}: {_first_line(error)}); "
            "it may be truncated or of another format; export it again"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:120]


def _read_scene(path: Path) -> list[tuple[str, trimesh.Trimesh]]:
    scene = trimesh.load_scene(
        io.BytesIO(path.read_bytes()),
        file_type=path.suffix.lower()[1:],
        resolver=FolderResolver(path.parent),
        process=False,
    )
    order = {name: number for number, name in enumerate(scene.geometry)}
    found = []
    for node in scene.graph.nodes_geometry:
        transform, geometry = scene.graph.get(node)
        mesh = scene.geometry[geometry]
        if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces):
            name = _node_name(scene, node, mesh, path)
            if path.suffix.lower() == ".stl":
                mesh = _with_shared_vertices(mesh)
            found.append((order[geometry], name, _placed(mesh, transform)))
    found.sort(key=lambda item: item[0])  # as in the file: the graph is walked from its end
    return [(name, mesh) for _, name, mesh in found]


def _with_shared_vertices(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """One vertex where several are equal, in the order of the first of each; faces keep their order.

    An STL writes the corners of each triangle anew: what was closed would be loose triangles to whoever opens it.
    """
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    order = np.lexsort(vertices.T)  # stable: of equal ones the first comes first
    other = np.append(True, (np.diff(vertices[order], axis=0) != 0).any(axis=1))
    first = order[other]
    same_as = np.empty(len(vertices), np.int64)
    same_as[order] = first[np.cumsum(other) - 1]
    kept, place = np.unique(same_as, return_inverse=True)
    return trimesh.Trimesh(vertices[kept], place[faces], process=False)


def _node_name(scene: trimesh.Scene, node: str, mesh: trimesh.Trimesh, path: Path) -> str:
    # trimesh hangs the primitives of one glTF mesh below its node, under names with a random tail.
    if mesh.metadata.get("from_gltf_primitive"):
        parent = scene.graph.transforms.parents.get(node)
        if isinstance(parent, str) and node.startswith(f"{parent}_"):
            return parent
    return path.stem if len(scene.geometry) == 1 and path.suffix.lower() not in (".glb", ".gltf") else node


def _placed(mesh: trimesh.Trimesh, transform: np.ndarray) -> trimesh.Trimesh:
    """A bare copy at its place in the scene, the author's normals marked as given."""
    # Asked before anything computes normals: what the cache holds now came from the file.
    normals = mesh.vertex_normals if "vertex_normals" in mesh._cache.cache else None
    piece = trimesh.Trimesh(np.asarray(mesh.vertices), np.asarray(mesh.faces), visual=mesh.visual, process=False)
    if normals is not None and np.isfinite(normals).all():
        with_normals(piece, normals)
    if np.array_equal(transform, np.eye(4)):
        return piece
    return transformed(PartMesh(("piece",), ((piece,),)), transform).pieces[0][0]


def _read_obj(path: Path) -> list[tuple[str, trimesh.Trimesh]]:
    text, sections = split_sections(path.read_bytes())
    scene = trimesh.load_scene(
        io.BytesIO(text),
        file_type="obj",
        resolver=FolderResolver(path.parent),
        process=False,
        group_material=False,
        split_objects=True,
    )
    # Exporters write an object a part; where there is but one object, its groups are what comes nearest.
    by_object = len({section.object for section in sections}) > 1
    found = []
    for index, section in enumerate(sections):
        mesh = scene.geometry.get(section_name(index))
        if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces):
            node = section.object if by_object else section.group or section.object
            found.append((node or path.stem, _with_material(_placed(mesh, np.eye(4)), section)))
    return found


def _with_material(piece: trimesh.Trimesh, section: ObjSection) -> trimesh.Trimesh:
    """The material as PBR under its own name; plain grey where the MTL file doesn't describe it."""
    if not section.material:
        return piece
    uv = piece.visual.uv if isinstance(piece.visual, TextureVisuals) else None
    material = piece.visual.material if isinstance(piece.visual, TextureVisuals) else None
    if isinstance(material, SimpleMaterial) and material.name == section.material:
        material = material.to_pbr()
        material.name = section.material
    else:
        material = PBRMaterial(name=section.material, baseColorFactor=PLAIN_GREY)
    piece.visual = TextureVisuals(uv=uv, material=material)
    return piece


def _stood_up(mesh: PartMesh, rule: UprightRule) -> tuple[PartMesh, np.ndarray, dict[str, Any]]:
    """The mesh turned and scaled, upright -> file (4, 4), and what was done."""
    turn = np.eye(3) if rule.rotation is None else np.asarray(rule.rotation, np.float64)
    vertices, faces, _ = concatenated(mesh)
    up = guess_up_axis(vertices @ turn.T, faces) if rule.up == "auto" else rule.up
    turn = up_axis_rotation(up) @ turn
    scale, told = size_factors(np.ptp(vertices @ turn.T, axis=0), rule.size_cm)
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(scale) @ turn
    told = {"up_axis": up, "scale": scale.tolist(), **told}
    if rule.up == "auto":
        told["up_axis_guessed"] = True
    if rule.rotation is not None:
        told["rotation"] = np.asarray(rule.rotation, np.float64).tolist()
    if np.array_equal(matrix, np.eye(4)):
        return mesh, matrix, told
    return transformed(mesh, matrix), invert_transform(matrix), told
