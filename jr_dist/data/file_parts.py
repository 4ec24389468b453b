"""From the nodes of a file to the parts of a model: the author's own where there are 2 to 16, else found."""

from __future__ import annotations

from typing import Any

import numpy as np
import trimesh

from jr_dist.data.mesh_checks import sub_mesh
from jr_dist.data.mesh_files import LoadedFile
from jr_dist.data.part_mesh import PartMesh, concatenated, unique_names
from jr_dist.geometry.sampling import triangle_areas
from jr_dist.geometry.segmentation import MAX_PARTS, segment


def find_parts(
    loaded: LoadedFile, rule: str | None = None, *, max_parts: int = MAX_PARTS
) -> tuple[PartMesh, dict[str, Any]]:
    """The parts of a file, at most `max_parts`, and how they were found (for the provenance).

    `rule`, as an index states it: "nodes" (the default where the file has two nodes or groups or more) takes
    them as they are, "connected_components" looks at the surface alone, "nodes_or_components" looks for
    components within each node. More than `max_parts` are grouped by nearness, likeness and size.
    """
    nodes = loaded.mesh
    if rule is None:
        rule = "nodes" if nodes.num_parts > 1 else "connected_components"
    if nodes.num_parts == 1:
        rule = "connected_components"  # a single node tells nothing
    vertices, faces, node = concatenated(nodes)
    if rule == "connected_components":
        part = segment(vertices, faces, max_parts=max_parts)
    else:
        part = node if rule == "nodes" else _within_nodes(vertices, faces, node, max_parts)
    count = int(part.max()) + 1
    if count > max_parts:
        part = segment(vertices, faces, pieces=part, join_below=0.0, max_parts=max_parts)
    mesh = _cut(nodes, part, by_node=rule != "connected_components")
    shares = np.bincount(part, triangle_areas(vertices, faces))
    how = {
        "parts_from": rule,
        "file_nodes": nodes.num_parts,
        "part_area_share": [round(float(share), 5) for share in shares / shares.sum()],
    }
    if count > max_parts:
        how["grouped_from"] = count
    return mesh, how


def sensible(part_area_share: list[float]) -> bool:
    """Whether a model is worth deforming by parts: 2 to 16 of them, none nearly everything, none a speck."""
    sizes = np.asarray(part_area_share)
    return 2 <= len(sizes) <= MAX_PARTS and bool(sizes.max() <= 0.95 and sizes.min() >= 0.0005)


def _within_nodes(vertices: np.ndarray, faces: np.ndarray, node: np.ndarray, max_parts: int) -> np.ndarray:
    """Components of each node on its own."""
    part, count = np.empty(len(faces), np.int64), 0
    for index in range(int(node.max()) + 1):
        own = node == index
        part[own] = segment(vertices, faces[own], max_parts=max_parts) + count
        count = int(part[own].max()) + 1
    return part


def _cut(nodes: PartMesh, part: np.ndarray, *, by_node: bool) -> PartMesh:
    """The mesh cut along `part` (F,), which numbers the parts 0 .. P-1; names from nodes or materials."""
    count = int(part.max()) + 1
    pieces: list[list[trimesh.Trimesh]] = [[] for _ in range(count)]
    areas: list[dict[str, float]] = [{} for _ in range(count)]
    start = 0
    for node, members in zip(nodes.names, nodes.pieces, strict=True):
        for piece in members:
            own = part[start : start + len(piece.faces)]
            start += len(piece.faces)
            name = node if by_node else _material_name(piece)
            for index in np.unique(own):
                cut = piece if (own == index).all() else sub_mesh(piece, np.flatnonzero(own == index))
                pieces[index].append(cut)
                areas[index][name] = areas[index].get(name, 0.0) + float(cut.area)
    names = unique_names(max(found, key=lambda name: found[name]) for found in areas)
    return PartMesh(names, tuple(map(tuple, pieces)))


def _material_name(piece: trimesh.Trimesh) -> str:
    return str(getattr(getattr(piece.visual, "material", None), "name", None) or "part")
