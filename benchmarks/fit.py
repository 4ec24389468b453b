"""From a scan to a GLB: seconds of `jr-dist fit`, stage by stage, against the nearest model as it is, by cKDTree.

    python benchmarks/fit.py [--quick] [--csv FILE] [--json FILE]

    fit.scan             a scan in a process that has the run open: read, five sources retrieved, deformed and
                         measured, five GLBs. Peer: the nearest of all sources by the chamfer of scipy's cKDTree,
                         undeformed, one GLB by trimesh
    fit.scan_refined     the same with --refine
    fit.stage.STAGE      milliseconds: `read` a cloud and sample it, `match` (retrieve, deform, measure), `glb`
    fit.refine, fit.open what --refine adds; opening the run and its database, once a process
    fit.command          processor seconds of the command for one scan, Python and imports included

72 procedural sources and a small model trained on 60 targets here; 2048 points; one thread, processor time.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import trimesh
from chamfer import ckdtree_loss
from harness import Record, compared, finish, interleaved, machine, parser, spread
from limits import SEARCH, search_seconds
from step_measure import QUICKSTART

from jr_dist.config import load_config
from jr_dist.data.part_mesh import to_glb
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.serve.database import Database, open_database
from jr_dist.serve.inputs import Observation, find_inputs, observe
from jr_dist.serve.matching import Fitted, How, fit_observation
from jr_dist.train.trainer import train

NUM_POINTS, NUM_SOURCES, TOP_K = 2048, 72, 5
ROOT = Path(__file__).parent.parent


def make_run(folder: Path) -> list[Path]:
    """A dataset, a run in `folder` / run, and scans."""
    data = folder / "data"
    categories = ("cabinet", "chair", "table")
    synthesize(data, num_sources=NUM_SOURCES, num_targets=60, categories=categories, seed=0, num_points=NUM_POINTS)
    epochs = {"train.epochs": 2, "train.warmup_epochs": 1, "train.validate_every": 2, "train.checkpoint_every": 2}
    train(load_config(QUICKSTART, {"data.path": str(data), "run.path": str(folder / "run"), "train.num_workers": 0,
                                   **epochs}))  # fmt: skip
    return [source.path for source in find_inputs([data / "scans"])]


def read(scans: list[Path]) -> list[Observation]:
    """The scans' points in their canonical frames."""
    return [observe(source, num_points=NUM_POINTS, seed=0) for source in find_inputs(scans)]


def matched(database: Database, scans: list[Observation], *, refine: bool = False) -> list[list[Fitted]]:
    """The best five of each."""
    return [fit_observation(database, scan, How(TOP_K, refine=refine)) for scan in scans]


def written(fits: list[list[Fitted]], scans: list[Observation]) -> list[bytes]:
    """A GLB of each of the five, in the scan's frame."""
    return [to_glb(one.deformed_mesh(), scan.transform) for five, scan in zip(fits, scans) for one in five]


def nearest_as_it_is(database: Database, clouds: np.ndarray, scans: list[Path]) -> None:
    """What scipy and trimesh do for it: the source with the least chamfer, exported where it stands."""
    for scan in read(scans):
        losses = [ckdtree_loss(cloud, scan.points) for cloud in clouds]
        mesh = database.store.record(int(np.argmin(losses))).mesh_glb
        trimesh.load_scene(trimesh.util.wrap_as_stream(mesh), file_type="glb").export(file_type="glb")


def measure(folder: Path, num_scans: int, rounds: int) -> list[Record]:
    """All records."""
    scans = make_run(folder)[:num_scans]
    run = folder / "run"
    database = open_database(run, num_points=NUM_POINTS, top_k=TOP_K, refine=True)
    seen = read(scans)
    found = matched(database, seen)
    clouds = database.store.geometry(np.arange(NUM_SOURCES), num_points=NUM_POINTS).points
    seconds = interleaved(
        {
            "scan": lambda: written(matched(database, read(scans)), seen),
            "refined": lambda: written(matched(database, read(scans), refine=True), seen),
            "peer": partial(nearest_as_it_is, database, clouds.numpy(), scans),
            "read": lambda: read(scans),
            "match": lambda: matched(database, seen),
            "refine": lambda: matched(database, seen, refine=True),
            "glb": lambda: written(found, seen),
            "open": lambda: open_database(run, num_points=NUM_POINTS, top_k=TOP_K),
        },
        rounds,
    )
    each = {name: [1e3 * s / len(scans) for s in times] for name, times in seconds.items()}
    points = torch.from_numpy(np.stack([scan.points for scan in seen]))
    near = clouds[[database.store.ids.index(five[0].candidate.source) for five in found]]
    limit = 1e3 * 2 * TOP_K * search_seconds(near, points)
    of_limit = {"limit": limit, "limit_is": f"{SEARCH}, five sources before and after"}
    peer = "nearest by cKDTree, undeformed"
    stages = {"read": each["read"], "match": each["match"], "glb": each["glb"]}
    adds = [a - b for a, b in zip(each["refine"], each["match"])]
    return [
        compared("fit.scan", "ms", peer, each["scan"], each["peer"], **of_limit),
        compared("fit.scan_refined", "ms", peer, each["refined"], each["peer"]),
        *(spread(f"fit.stage.{name}", times, "ms") for name, times in stages.items()),
        spread("fit.refine", adds, "ms"),
        spread("fit.open", [1e3 * s for s in seconds["open"]], "ms"),
        spread("fit.command", [command(run, scans[0], folder / "command") for _ in range(rounds)], "s"),
    ]


def command(run: Path, scan: Path, out: Path) -> float:
    """Processor seconds of `jr-dist fit` in a process of its own."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    words = [sys.executable, "-c", "import sys; from jr_dist.cli import main; sys.exit(main())"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words += ["fit", str(run), str(scan), "--out", str(out)]
    subprocess.run(words, check=True, capture_output=True, env=environment)
    return used() - before


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    print(machine(1))
    with tempfile.TemporaryDirectory() as folder:
        records = measure(Path(folder), *((3, 3) if options.quick else (12, 5)))
    finish(records, options.json, options.csv)


if __name__ == "__main__":
    main()
