"""Files a second of `jr-dist ingest` in one process, against reading and sampling them with trimesh.

    python benchmarks/ingest.py [--quick] [--csv FILE] [--json FILE]

    ingest.vs_trimesh   all of the verb, `--local`: checked, set upright, parted, joined, sampled as a source and as a
                        target, drawn, written as Parquet. Peer: trimesh reads the file and samples as many points
    ingest.read         its first stage: a file read, checked, with its normals and materials. Peer: trimesh reads it
    ingest.stage.STAGE  milliseconds a file: `read`, `parts` found, `source` built (boxes, joints, points, its GLB),
                        `target` sampled, `picture` for the contact sheet

Procedural furniture as GLB, some ten kB a file; 2048 points; one thread, processor time. The limit of both is what
trimesh needs to read a file, since ours reads with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import trimesh
from harness import Record, compared, finish, interleaved, machine, parser, spread

from jr_dist.data.build import build_source, build_target
from jr_dist.data.dataset import open_dataset, read_sources
from jr_dist.data.file_parts import find_parts
from jr_dist.data.ingest import ingest
from jr_dist.data.ingest_file import part_picture
from jr_dist.data.mesh_files import load_mesh_file
from jr_dist.data.synthesize.generate import synthesize

NUM_POINTS = 2048


def write_models(folder: Path, num_files: int) -> list[Path]:
    """Furniture as GLB."""
    categories = ("cabinet", "chair", "table")
    synthesize(folder / "furniture", num_sources=num_files, num_targets=3, categories=categories, seed=0)
    (folder / "models").mkdir()
    files = []
    for source in read_sources(open_dataset(folder / "furniture")):
        files.append(folder / "models" / f"{source.id}.glb")
        files[-1].write_bytes(source.mesh_glb)
    return files


def sampled(path: Path) -> np.ndarray:
    """Points of a file by trimesh, [NUM_POINTS, 3]."""
    mesh: Any = trimesh.load_scene(path).to_mesh()
    return mesh.sample(NUM_POINTS)


def measure(folder: Path, num_files: int, rounds: int) -> list[Record]:
    """The two records."""
    files, number = write_models(folder, num_files), count()
    by_stage = stages(files)
    sizes = [file.stat().st_size / 1e3 for file in files]
    print(f"{len(files)} files of {min(sizes):.0f} to {max(sizes):.0f} kB")
    seconds = interleaved(
        {
            "ingest": lambda: ingest(folder / "models", folder / f"out-{next(number)}", local=True),
            "read and sampled": lambda: [sampled(file) for file in files],
            "our reading": lambda: [load_mesh_file(file) for file in files],
            "read": lambda: [trimesh.load_scene(file) for file in files],
            **by_stage,
        },
        rounds,
    )
    limit = {"limit": len(files) / median(seconds["read"]), "limit_is": "trimesh reads the file"}
    found = [
        compared("ingest.vs_trimesh", "files/s", "trimesh reads and samples", seconds["ingest"],
                 seconds["read and sampled"], **limit),
        compared("ingest.read", "files/s", "trimesh reads", seconds["our reading"], seconds["read"], **limit),
    ]  # fmt: skip
    in_order = {"read": "our reading", **{name: name for name in by_stage}}
    each = {name: [1e3 * s / len(files) for s in seconds[key]] for name, key in in_order.items()}
    return [
        *(replace(record, value=len(files) / record.value) for record in found),
        *(spread(f"ingest.stage.{name}", times, "ms") for name, times in each.items()),
    ]


def stages(files: list[Path]) -> dict[str, Callable[[], object]]:
    """What `ingest_file` does with what was read, one thing at a time."""
    loaded = [load_mesh_file(file) for file in files]
    meshes = [find_parts(each)[0] for each in loaded]
    about: dict[str, Any] = {
        "id": "model", "category": "model", "num_points": NUM_POINTS, "seed": 0, "provenance": {},
    }  # fmt: skip
    return {
        "parts": lambda: [find_parts(each) for each in loaded],
        "source": lambda: [build_source(mesh, **about) for mesh in meshes],
        "target": lambda: [build_target(mesh, **about) for mesh in meshes],
        "picture": lambda: [part_picture(mesh) for mesh in meshes],
    }


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    print(machine(1))
    with tempfile.TemporaryDirectory() as folder:
        records = measure(Path(folder), *((48, 3) if options.quick else (160, 5)))
    finish(records, options.json, options.csv)


if __name__ == "__main__":
    main()
