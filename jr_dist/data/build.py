"""From a mesh or a cloud in its file's frame to the record we keep: canonical frame, boxes, samples, joints."""

# ruff: noqa: A002 (`id` is what records call it)
from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jr_dist.data.part_mesh import PartMesh, concatenated, to_glb, transformed
from jr_dist.data.records import SourceModel, TargetShape
from jr_dist.errors import InputError
from jr_dist.geometry.boxes import part_boxes
from jr_dist.geometry.frames import apply_transform, canonical_transform, invert_transform
from jr_dist.geometry.joints import find_joints
from jr_dist.geometry.sampling import allocate_points, sample_triangles, triangle_areas

MAX_PARTS = 16
# Joints are looked for on this many surface samples: about 0.02 apart, well below the tolerance of 0.05.
NUM_JOINT_SAMPLES = 8192


def build_source(
    mesh: PartMesh,
    *,
    id: str,
    category: str,
    num_points: int,
    seed: int,
    provenance: Mapping[str, Any],
    adjacency_tolerance: float = 0.05,
) -> SourceModel:
    """The source model of a part mesh (y up, z front, any position and scale).

    The box of a part spans the vertices its faces use. Points are uniform by area and in random order, at
    least a few a part. Parts nearer than `adjacency_tolerance` (canonical units) share a joint. The numbers
    depend on the mesh, `id` and `seed` alone. Raises `InputError` for no part, more than 16, a part without
    surface and coordinates that are not finite.
    """
    _check_parts(mesh, id)
    vertices, faces, part_of_face = concatenated(mesh)
    transform = canonical_transform(vertices[np.unique(faces)])
    canonical = transformed(mesh, invert_transform(transform))
    # From here on the mesh as the file will hold it, so that its vertices lie in the boxes exactly.
    vertices = concatenated(canonical)[0].astype(np.float32).astype(np.float64)
    used, part_of_used = _used_vertices(faces, part_of_face)
    centre, half_extent = _boxes(vertices[used], part_of_used, mesh.num_parts)
    _check_areas(mesh, id, vertices, faces, part_of_face)
    points, part_index = _sample(vertices, faces, part_of_face, num_points, _generator(seed, "source", id))
    dense, dense_part = _sample(vertices, faces, part_of_face, NUM_JOINT_SAMPLES, _generator(seed, "joints", id))
    # Corners are where key-points snap to: they are taken as they are, in models of few vertices.
    if len(used) <= NUM_JOINT_SAMPLES:
        dense = np.concatenate([dense, vertices[used]])
        dense_part = np.concatenate([dense_part, part_of_used])
    joints = find_joints(dense, dense_part, centre, half_extent, tolerance=adjacency_tolerance)
    return SourceModel(
        id=id,
        category=category,
        part_names=mesh.names,
        centre=centre,
        half_extent=half_extent,
        points=points.astype(np.float32),
        part_index=part_index.astype(np.int16),
        joint_parts=joints.parts.astype(np.int32).reshape(-1, 2),
        joint_coordinates=joints.coordinates.astype(np.float32).reshape(-1, 2, 3),
        mesh_glb=to_glb(canonical),
        transform=transform,
        provenance=dict(provenance),
    )


def build_target(
    mesh_or_points: PartMesh | np.ndarray,
    *,
    id: str,
    category: str,
    num_points: int,
    seed: int,
    provenance: Mapping[str, Any],
) -> TargetShape:
    """The target of a part mesh (points uniform by area) or of a cloud (N0, 3) (a random choice of its points).

    In its own canonical frame, and sampled independently of the source that `build_source` makes of the same
    mesh. Raises `InputError` for a mesh without surface, a cloud of fewer than `num_points` points, and
    coordinates that are not finite.
    """
    rng = _generator(seed, "target", id)
    if isinstance(mesh_or_points, PartMesh):
        vertices, faces, part_of_face = concatenated(mesh_or_points)
        _check_finite(id, vertices)
        if not len(faces):
            raise InputError(f"target {id} has no triangle; allowed is a mesh with a surface; leave it out")
        transform = canonical_transform(vertices[np.unique(faces)])
        vertices = apply_transform(invert_transform(transform), vertices)
        points, face = sample_triangles(vertices, faces, num_points, rng)
        part_index = part_of_face[face]
    else:
        cloud = np.asarray(mesh_or_points, np.float64)
        _check_finite(id, cloud)
        if len(cloud) < num_points:
            raise InputError(f"target {id} has {len(cloud)} points; allowed are {num_points} or more; ask for fewer")
        transform = canonical_transform(cloud)
        chosen = rng.permutation(len(cloud))[:num_points]
        points = apply_transform(invert_transform(transform), cloud[chosen])
        part_index = np.full(num_points, -1)
    return TargetShape(
        id=id,
        category=category,
        points=points.astype(np.float32),
        part_index=part_index.astype(np.int16),
        transform=transform,
        provenance=dict(provenance),
    )


def _generator(seed: int, purpose: str, id: str) -> np.random.Generator:
    # The id keeps two shapes, and the purpose a source and the target of one mesh, from being sampled by the
    # same numbers: their chamfer distance would come out too small.
    digest = hashlib.sha256(f"{purpose}\0{id}".encode()).digest()[:16]
    return np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()])


def _check_parts(mesh: PartMesh, id: str) -> None:
    if not 1 <= mesh.num_parts <= MAX_PARTS:
        raise InputError(f"source {id} has {mesh.num_parts} parts; allowed are 1 to {MAX_PARTS}; merge some")
    for name, pieces in zip(mesh.names, mesh.pieces):
        if not any(len(piece.faces) for piece in pieces):
            raise InputError(f"part {name!r} of source {id} has no triangle; drop the part")
    _check_finite(id, concatenated(mesh)[0])


def _check_finite(id: str, points: np.ndarray) -> None:
    if not np.isfinite(points).all():
        raise InputError(f"shape {id} has coordinates that are not finite; mend the mesh or leave it out")


def _check_areas(mesh: PartMesh, id: str, vertices: np.ndarray, faces: np.ndarray, part_of_face: np.ndarray) -> None:
    areas = np.bincount(part_of_face, triangle_areas(vertices, faces), mesh.num_parts)
    if (areas <= 0).any():
        name = mesh.names[int(np.argmin(areas))]
        raise InputError(f"part {name!r} of source {id} has no surface, its area is 0; drop the part")


def _used_vertices(faces: np.ndarray, part_of_face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the vertices that faces use, and the part of each (pieces share no vertex)."""
    part_of_vertex = np.full(faces.max() + 1, -1)
    part_of_vertex[faces] = part_of_face[:, None]
    used = np.flatnonzero(part_of_vertex >= 0)
    return used, part_of_vertex[used]


def _boxes(vertices: np.ndarray, part: np.ndarray, num_parts: int) -> tuple[np.ndarray, np.ndarray]:
    centre, half_extent = part_boxes(vertices, part, num_parts)
    centre, half_extent = centre.astype(np.float32), half_extent.astype(np.float32)
    # Rounding to float32 may leave a corner outside by one unit in the last place: grow to what the corners
    # need, so that the canonical coordinate of every vertex is within [-1, 1].
    reach = np.abs(vertices.astype(np.float32) - centre[part])
    np.maximum.at(half_extent, part, reach)
    return centre, half_extent


def _sample(
    vertices: np.ndarray,
    faces: np.ndarray,
    part_of_face: np.ndarray,
    num_points: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) of all parts, by area and at least a few each, shuffled: every prefix is a fair sample."""
    areas = np.bincount(part_of_face, triangle_areas(vertices, faces))
    counts = allocate_points(areas, num_points)
    points = [
        sample_triangles(vertices, faces[part_of_face == part], int(count), rng)[0] for part, count in enumerate(counts)
    ]
    order = rng.permutation(num_points)
    return np.concatenate(points)[order], np.repeat(np.arange(len(counts)), counts)[order]
