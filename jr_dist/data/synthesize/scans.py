"""Example inputs for `fit`: a few test targets as scans, each in a frame of its own, and one of them as a mesh."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jr_dist.data.part_mesh import PartMesh, concatenated, to_glb, transformed
from jr_dist.data.synthesize.style import log_uniform
from jr_dist.geometry.sampling import sample_triangles

NUM_SCAN_POINTS = 6000
NOISE = 0.0015  # standard deviation in metres, of a good depth camera


def scan_files(targets: Sequence[tuple[str, PartMesh]], rng: np.random.Generator) -> dict[str, bytes]:
    """File names below the dataset and their bytes: a PLY cloud a target, and the first target as GLB too.

    Scans stand upright and face +z but lie anywhere and are up to a quarter larger or smaller than life, as scans of
    unknown scale are; lengths are metres.
    """
    files: dict[str, bytes] = {}
    for index, (name, mesh) in enumerate(targets):
        moved = transformed(mesh, _frame(rng))
        vertices, faces, _ = concatenated(moved)
        points, _ = sample_triangles(vertices, faces, NUM_SCAN_POINTS, rng)
        files[f"scans/{name}.ply"] = ply(points + rng.normal(0.0, NOISE, points.shape))
        if index == 0:
            files[f"scans/{name}-mesh.glb"] = to_glb(moved)
    return files


def _frame(rng: np.random.Generator) -> np.ndarray:
    frame = np.diag([log_uniform(rng, 0.8, 1.25)] * 3 + [1.0])
    frame[:3, 3] = rng.uniform((-2.0, -0.5, -2.0), (2.0, 0.5, 2.0))
    return frame


def ply(points: np.ndarray) -> bytes:
    """Points (N, 3) as a binary PLY file of float32."""
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    return "\n".join([*lines, "end_header", ""]).encode() + points.astype("<f4").tobytes()
