"""A mesh cut into named parts, and its form on disk: a GLB with one top-level node a part.

A part holds one trimesh piece a material. Vertices are never merged or reordered: where a file repeats one,
its author may have meant a seam. Only an STL can't say so: its equal vertices are merged as it is read
(`mesh_files.py`). Normals are kept only where the author gave them (`with_normals`), never the ones trimesh
computes on the way, so equal content gives equal bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh
from trimesh.exchange.gltf import export_glb
from trimesh.visual.material import PBRMaterial

from jr_dist.data.glb_pieces import export_piece, own_visual, remember_jpegs
from jr_dist.data.records import SourceModel
from jr_dist.errors import InputError
from jr_dist.geometry.boxes import deform_vertices

NORMAL = "normal"  # the vertex attribute that holds given normals; trimesh's own cache can't tell given from computed
_ROUNDING = 1e-6  # of the mesh's diagonal, by which float32 may move a vertex
_NO_MOVE = 1e-6  # a translation below this stays in the vertices
_ROOT = "world"  # trimesh's base frame: no part may bear this name


@dataclass(frozen=True)
class PartMesh:
    """P named parts, each of one or more pieces (one a material) in one common frame."""

    names: tuple[str, ...]
    pieces: tuple[tuple[trimesh.Trimesh, ...], ...]

    def __post_init__(self) -> None:
        assert len(self.names) == len(self.pieces), "a name a part"
        assert len(set(self.names)) == len(self.names), "part names are unique"

    @property
    def num_parts(self) -> int:
        """P."""
        return len(self.names)


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names, a number appended where one occurred before ("leg", "leg_2", ...); nameless parts become "part"."""
    taken = {_ROOT}
    result = []
    for name in names:
        stem = name.strip() or "part"
        candidate, count = stem, 1
        while candidate in taken:
            count += 1
            candidate = f"{stem}_{count}"
        taken.add(candidate)
        result.append(candidate)
    return tuple(result)


def with_normals(mesh: trimesh.Trimesh, normals: np.ndarray) -> trimesh.Trimesh:
    """Mark the unit `normals` (V, 3) as given: they are written to the GLB and follow deformations. Changes `mesh`."""
    mesh.vertex_attributes[NORMAL] = np.asarray(trimesh.unitize(normals), np.float32)
    return mesh


def given_normals(mesh: trimesh.Trimesh) -> np.ndarray | None:
    """The normals (V, 3) that the author gave, or None."""
    return mesh.vertex_attributes.get(NORMAL)


def concatenated(mesh: PartMesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pieces as one: vertices (V, 3) float64, faces (F, 3) int64, the part of each face (F,) int64."""
    vertices, faces, part_of_face, offset = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], [], 0
    for part, pieces in enumerate(mesh.pieces):
        for piece in pieces:
            vertices.append(np.asarray(piece.vertices, np.float64))
            faces.append(np.asarray(piece.faces, np.int64) + offset)
            part_of_face.append(np.full(len(piece.faces), part, np.int64))
            offset += len(piece.vertices)
    return (
        np.concatenate(vertices),
        np.concatenate(faces),
        np.concatenate([np.zeros(0, np.int64), *part_of_face]),
    )


def transformed(mesh: PartMesh, transform: np.ndarray) -> PartMesh:
    """The mesh under a 4x4 affine map; a reflection turns the faces round so that they still look outwards."""
    linear, shift = np.asarray(transform, np.float64)[:3, :3], np.asarray(transform, np.float64)[:3, 3]
    flip = np.linalg.det(linear) < 0
    inverse_transpose = np.linalg.inv(linear).T

    def move(piece: trimesh.Trimesh) -> trimesh.Trimesh:
        normals = given_normals(piece)
        return _rebuilt(
            piece,
            np.asarray(piece.vertices) @ linear.T + shift,
            None if normals is None else normals @ inverse_transpose.T,
            faces=np.asarray(piece.faces)[:, ::-1] if flip else None,
        )

    return PartMesh(mesh.names, tuple(tuple(map(move, pieces)) for pieces in mesh.pieces))


def deformed(mesh: PartMesh, source: SourceModel, centre: np.ndarray, half_extent: np.ndarray) -> PartMesh:
    """Each part of `mesh` (canonical frame, parts as in `source`) carried from its own box to the given one.

    `centre`, `half_extent`: (P, 3), canonical units. x' = x + (c - c0) + (s - s0) * q, textures and materials
    untouched.
    """
    assert mesh.names == source.part_names, "the mesh is the source's own"
    before = source.centre.astype(np.float64), source.half_extent.astype(np.float64)
    after = np.asarray(centre, np.float64), np.asarray(half_extent, np.float64)

    def carry(piece: trimesh.Trimesh, part: int) -> trimesh.Trimesh:
        normals = given_normals(piece)
        vertices = deform_vertices(np.asarray(piece.vertices), part, *before, *after)
        return _rebuilt(piece, vertices, None if normals is None else normals * (before[1] / after[1])[part])

    return PartMesh(mesh.names, tuple(tuple(carry(x, p) for x in pieces) for p, pieces in enumerate(mesh.pieces)))


def to_glb(mesh: PartMesh, transform: np.ndarray | None = None) -> bytes:
    """The mesh as GLB: node NAME a part, with children NAME/0, NAME/1 ... where the part has several pieces.

    `transform` (4x4) is applied to the vertices first. Vertices are stored as float32: where these would be rounded
    noticeably, far from the origin, the transform's translation becomes that of the part nodes. Equal content gives
    equal bytes.
    """
    translation = None
    if transform is not None:
        mesh, translation = _near_origin(mesh, np.asarray(transform, np.float64))
    scene = trimesh.Scene(base_frame=_ROOT)
    exported: dict[int, PBRMaterial] = {}
    for name, pieces in zip(mesh.names, mesh.pieces, strict=True):
        ready = [export_piece(piece, given_normals(piece), exported) for piece in pieces]
        if len(ready) == 1:
            scene.add_geometry(ready[0], node_name=name, geom_name=name)
            continue
        scene.graph.update(frame_to=name, frame_from=_ROOT)
        for index, piece in enumerate(ready):
            child = f"{name}/{index}"
            scene.add_geometry(piece, node_name=child, geom_name=child, parent_node_name=name)

    def finish(tree: dict[str, Any]) -> None:
        _drop_root(tree)
        if translation is not None:
            for root in tree["scenes"][0]["nodes"]:
                tree["nodes"][root]["translation"] = translation.tolist()

    return export_glb(scene, unitize_normals=False, tree_postprocessor=finish)


def from_glb(data: bytes) -> PartMesh:
    """Read what `to_glb` wrote (any GLB whose nodes have unique names will do: a top-level node is a part).

    Raises `InputError` where the bytes are no GLB or the top-level nodes have no names of their own.
    """
    tree = _glb_tree(data)
    try:
        scene = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)
    except Exception as error:  # trimesh raises whatever its parser stumbles over
        raise InputError(f"unreadable GLB ({type(error).__name__}: {error}); write the file again") from error
    nodes = tree.get("nodes", [])
    roots = tree["scenes"][tree.get("scene", 0)].get("nodes", []) if tree.get("scenes") else []
    names = tuple(str(nodes[root].get("name", "")) for root in roots)
    if not names or len(set(names)) < len(names) or "" in names:
        raise InputError(
            f"GLB with part nodes {list(names)[:20]}; needed is one top-level node a part, each with its own name"
        )
    pieces = tuple(tuple(_clean(x) for x in _node_pieces(scene, nodes, root)) for root in roots)
    return PartMesh(names, pieces)


def _near_origin(mesh: PartMesh, transform: np.ndarray) -> tuple[PartMesh, np.ndarray | None]:
    """The mesh under `transform`, all of it or, where float32 would round that, but for the translation (3,) given."""
    whole = transformed(mesh, transform)
    vertices = concatenated(whole)[0]
    rounding = np.abs(vertices).max(initial=0.0) * np.finfo(np.float32).eps / 2
    # Readers, trimesh among them, take a node that moves by next to nothing, whatever the units, for one that stays.
    if np.abs(transform[:3, 3]).max() < _NO_MOVE:
        return whole, None
    if len(vertices) == 0 or rounding <= _ROUNDING * np.linalg.norm(np.ptp(vertices, axis=0)):
        return whole, None
    linear = transform.copy()
    linear[:3, 3] = 0
    return transformed(mesh, linear), transform[:3, 3]


def _rebuilt(
    piece: trimesh.Trimesh, vertices: np.ndarray, normals: np.ndarray | None, faces: np.ndarray | None = None
) -> trimesh.Trimesh:
    faces = np.asarray(piece.faces) if faces is None else faces
    result = trimesh.Trimesh(vertices, faces, visual=own_visual(piece), process=False)
    return result if normals is None else with_normals(result, normals)


def _clean(piece: trimesh.Trimesh) -> trimesh.Trimesh:
    remember_jpegs(getattr(piece.visual, "material", None))
    # Asked before anything computes normals: what the cache holds now came from the file.
    normals = piece.vertex_normals if "vertex_normals" in piece._cache.cache else None
    result = trimesh.Trimesh(np.asarray(piece.vertices), np.asarray(piece.faces), visual=piece.visual, process=False)
    if normals is not None:
        result.vertex_attributes[NORMAL] = np.asarray(normals, np.float32)
    return result


def _drop_root(tree: dict[str, Any]) -> None:
    # Older releases of trimesh write the base frame as a node; the parts must be the top level.
    roots = tree["scenes"][0]["nodes"]
    if len(roots) == 1 and tree["nodes"][roots[0]].get("name") == _ROOT:
        tree["scenes"][0]["nodes"] = tree["nodes"][roots[0]].get("children", [])


def _glb_tree(data: bytes) -> dict[str, Any]:
    if len(data) < 20 or data[:4] != b"glTF":
        raise InputError("these bytes are no GLB (they don't begin with 'glTF'); give a binary glTF 2.0 file")
    length = int.from_bytes(data[12:16], "little")
    try:
        return json.loads(data[20 : 20 + length])
    except ValueError as error:
        raise InputError(f"GLB whose header is no JSON ({error}); write the file again") from error


def _node_pieces(scene: trimesh.Scene, nodes: Sequence[dict[str, Any]], index: int) -> list[trimesh.Trimesh]:
    """Meshes of a node and of those below it, in the order of the file, moved into the scene's frame."""
    node = nodes[index]
    name = str(node.get("name", index))
    below = [str(nodes[child].get("name", child)) for child in node.get("children", [])]
    holders = [name]
    if "mesh" in node:  # trimesh hangs the primitives of a mesh below the node, under random names
        holders += [x for x in scene.graph.transforms.children.get(name, []) if x not in below]
    found = []
    for holder in holders:
        matrix, geometry = scene.graph[holder]
        if geometry is not None and isinstance(piece := scene.geometry[geometry], trimesh.Trimesh):
            # The cache holds the file's normals, which turn with the node.
            moved = piece if np.array_equal(matrix, np.eye(4)) else piece.copy(include_cache=True)
            found.append(moved if moved is piece else moved.apply_transform(matrix))
    for child in node.get("children", []):
        found += _node_pieces(scene, nodes, child)
    return found
