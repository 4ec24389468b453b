"""Source, deformed and target side by side in one small GLB: what the viewer turns, and any other program opens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import trimesh
from trimesh.exchange.gltf import export_glb
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from jr_dist.data.part_mesh import PartMesh
from jr_dist.data.render import part_colours

SOURCE, DEFORMED, TARGET = "source", "deformed", "target"
APART = 2.2  # between neighbours; canonical units, a shape has a half-diagonal of 1
POINT_COLOUR = (58, 110, 165)  # as in the pictures
_ROOT = "world"


def side_by_side(source: PartMesh, deformed: PartMesh, target: np.ndarray) -> bytes:
    """A GLB of three top-level nodes from left to right: the source, the same deformed, the target's points (N, 3).

    A part is a node NAME/PART in one colour, the same before and after and in the pictures; textures are left out.
    Equal content gives equal bytes.
    """
    scene = trimesh.Scene(base_frame=_ROOT)
    for place, (name, mesh) in enumerate(((SOURCE, source), (DEFORMED, deformed))):
        _place(scene, name, place)
        for part, pieces, colour in zip(mesh.names, mesh.pieces, part_colours(mesh.num_parts), strict=True):
            node = f"{name}/{part}"
            scene.add_geometry(_plain(pieces, colour), node_name=node, geom_name=node, parent_node_name=name)
    _place(scene, TARGET, 2)
    colours = np.tile(np.array([*POINT_COLOUR, 255], np.uint8), (len(target), 1))
    cloud = trimesh.PointCloud(np.asarray(target, np.float64), colors=colours)
    scene.add_geometry(cloud, node_name=f"{TARGET}/points", geom_name=f"{TARGET}/points", parent_node_name=TARGET)
    return export_glb(scene)


def _place(scene: trimesh.Scene, name: str, place: int) -> None:
    shift = trimesh.transformations.translation_matrix([APART * place, 0, 0])
    scene.graph.update(frame_to=name, frame_from=_ROOT, matrix=shift)


def _plain(pieces: Sequence[trimesh.Trimesh], colour: np.ndarray) -> trimesh.Trimesh:
    """The pieces of a part as one mesh of one colour, without normals, so that it is shaded flat."""
    offsets = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
    vertices = np.concatenate([np.asarray(piece.vertices) for piece in pieces])
    faces = np.concatenate([np.asarray(piece.faces) + shift for piece, shift in zip(pieces, offsets, strict=False)])
    material = PBRMaterial(baseColorFactor=[*colour, 255], metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True)
    return trimesh.Trimesh(vertices, faces, visual=TextureVisuals(material=material), process=False)
