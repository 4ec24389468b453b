"""Tables as files, and an ingest of them that needs no Ray."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trimesh

from jr_dist.data.ingest import ingest
from jr_dist.errors import InputError

here = partial(ingest, num_points=64, local=True)


def table(seed=0, scale=1.0) -> trimesh.Scene:
    """A top and four legs, each a node, of sizes that depend on the seed."""
    width, depth, height = np.random.default_rng(seed).uniform((0.8, 0.5, 0.4), (2.0, 1.0, 1.1))
    scene = trimesh.Scene()
    scene.add_geometry(box((width, 0.04, depth), (0, height, 0), scale), node_name="top")
    for number, (x, z) in enumerate((x, z) for x in (-1, 1) for z in (-1, 1)):
        leg = box((0.05, height, 0.05), (x * (width / 2 - 0.05), height / 2, z * (depth / 2 - 0.05)), scale)
        scene.add_geometry(leg, node_name=f"leg {number}")
    return scene


def box(extents, centre=(0, 0, 0), scale=1.0):
    mesh = trimesh.creation.box(np.array(extents) * scale)
    mesh.apply_translation(np.array(centre) * scale)
    return mesh


def save(path, scene) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".glb":
        path.write_bytes(scene.export(file_type="glb"))
    else:
        scene.to_mesh().export(path)
    return path


def refused(tmp_path, *args, **options) -> str:
    """The message of a refusal that leaves nothing behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        here(*args, **options)
    assert sorted(tmp_path.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)
