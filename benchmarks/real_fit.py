"""Real chairs, tables and cabinets fitted by a trained run, against `Box`: the nearest source scaled to the box.

    python benchmarks/real_fit.py runs/quickstart/ours
    python benchmarks/real_fit.py runs/quickstart/ours --num 60 --refine --out fits --json real_fit.json
    python benchmarks/real_fit.py runs/quickstart/ours --quick

The models come from the folder that JR_FURNITURE names, drawn by `--seed`, the three
categories in turn. Chamfers are those of `result.json`: squared, mean over points, both directions, x100, canonical
frame (half-diagonal 1), against points of the real surface. `Box` searches all sources by undeformed chamfer.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from real_models import furniture_folder

from jr_dist.atomic import atomic_write
from jr_dist.errors import InputError
from jr_dist.evaluate.methods import scale_to_box
from jr_dist.geometry.chamfer import chamfer, chamfer_matrix
from jr_dist.serve.database import Database, open_database
from jr_dist.serve.fit import fit
from jr_dist.serve.inputs import find_inputs, observe
from jr_dist.serve.result import Candidate, FitResult

CATEGORIES = ("chair", "table", "cabinet")
DEFAULT_RUN = Path("runs/quickstart/ours")


def choose(folder: Path, num: int, seed: int) -> list[Path]:
    """`num` models (or all there are), the categories in turn, each in an order that `seed` draws."""
    with open(folder / "index.csv", newline="", encoding="utf-8") as stream:
        rows = sorted((row["category"], row["file"]) for row in csv.DictReader(stream))
    rng = np.random.default_rng(seed)
    queues = [list(rng.permutation([file for found, file in rows if found == name])) for name in CATEGORIES]
    in_turn = [queue[k] for k in range(max(map(len, queues))) for queue in queues if k < len(queue)]
    return [folder / file for file in in_turn[:num]]


def box_chamfers(database: Database, results: list[FitResult], folder: Path, num_points: int) -> np.ndarray:
    """[T] chamfer x100 of the nearest undeformed source scaled axis by axis to the input's box, on the fit's points."""
    everything = np.arange(len(database.store.ids))
    sources = database.store.geometry(everything, num_points=database.num_points).points
    chamfers = []
    for result in results:
        (source,) = find_inputs([result.input], index=folder / "index.csv")
        points = torch.from_numpy(observe(source, num_points=num_points, seed=result.seed).points)[None]
        nearest = int(chamfer_matrix(points, sources)[0].argmin())
        chamfers.append(100 * float(chamfer(scale_to_box(sources[nearest : nearest + 1], points), points)))
    return np.array(chamfers)


def measure(results: list[FitResult], box: np.ndarray, num_asked: int, seconds: float) -> list[dict]:
    """The records: after sorting (`best`) and for the retrieval's own first choice (`first`)."""
    picked = {
        "best": [result.candidates[0] for result in results],
        "first": [_first(result) for result in results],
    }
    records = [
        record("fitted", len(results), "models", num_asked),
        record("time", seconds / max(len(results), 1), "s a model"),
    ]
    for which, candidates in picked.items():
        before = np.array([x.chamfer_before_x100 for x in candidates])
        after = np.array([x.chamfer_after_x100 for x in candidates])
        median = float(np.median(after))
        records += [
            record(f"{which}.lower_after", float((after < before).mean()), "share"),
            record(f"{which}.chamfer_before", float(np.median(before)), "median x100"),
            record(f"{which}.chamfer_after", median, "median x100", float(np.median(before))),
            record(f"{which}.chamfer_after_vs_box", median, "median x100", float(np.median(box))),
            record(f"{which}.lower_than_box", float((after < box).mean()), "share"),
        ]
    everything = [x.joints for result in results for x in result.candidates]
    return [
        *records,
        record("joints.max_gap", max(x.joints_max_gap for x in everything), "canonical units, widest"),
        record("joints.connected", float(np.mean([x.joint_graph_connected for x in everything])), "share"),
        record("joints.groups", float(np.mean([x.num_joint_groups for x in everything])), "mean a candidate"),
        record("joints.number", float(np.mean([x.num_joints for x in everything])), "mean a candidate"),
        record(
            "joints.null_space",
            float(np.mean([x.null_space_dimensions for x in everything])),
            "mean dimensions an axis",
        ),
    ]


def record(name: str, value: float, unit: str, peer: float | None = None) -> dict:
    """One line of a benchmark; `ratio` is value by peer."""
    ratio = None if not peer else value / peer
    return {"name": f"real_fit.{name}", "value": value, "unit": unit, "peer": peer, "ratio": ratio}


def _first(result: FitResult) -> Candidate:
    return next(x for x in result.candidates if x.retrieval_rank == 1)


def _table(results: list[FitResult], box: np.ndarray) -> str:
    lines = [f"{'input':44} {'source':28} {'before':>8} {'after':>8} {'Box':>8} {'gap':>8} groups"]
    for result, of_box in zip(results, box):
        best = result.candidates[0]
        lines.append(
            f"{Path(result.input).name[:44]:44} {best.source[-28:]:28} {best.chamfer_before_x100:8.3f} "
            f"{best.chamfer_after_x100:8.3f} {of_box:8.3f} {best.joints.joints_max_gap:8.1e} "
            f"{best.joints.num_joint_groups:6}"
        )
    return "\n".join(lines)


def _line(found: dict) -> str:
    peer = "" if found["peer"] is None else f"  peer {found['peer']:.4g}  ratio {found['ratio']:.3f}"
    return f"{found['name']:36} {found['value']:.4g} {found['unit']}{peer}"


def main(arguments: list[str] | None = None) -> int:
    """Fit, measure, print; exit status 2 for wrong input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", help=f"run directory of `jr-dist train` [{DEFAULT_RUN}, where there is one]")
    parser.add_argument("--num", type=int, default=30, help="real models")
    parser.add_argument("--seed", type=int, default=0, help="which models, and how they are sampled")
    parser.add_argument("--top-k", type=int, default=5, help="sources tried for each")
    parser.add_argument("--num-points", type=int, default=2048, help="points of the chamfer")
    parser.add_argument("--data", help="the run's dataset, where it has moved")
    parser.add_argument("--refine", action="store_true", help="improve each candidate by IDO")
    parser.add_argument("--quick", action="store_true", help="6 models, 512 points")
    parser.add_argument("--out", help="keep GLBs, results and pictures here")
    parser.add_argument("--json", help="write the records here")
    options = parser.parse_args(arguments)
    if options.quick:
        options.num, options.num_points = 6, 512
    if options.run is None:
        options.run = str(DEFAULT_RUN)
        if not DEFAULT_RUN.is_dir():
            print(f"real_fit: left out, there is no {DEFAULT_RUN}; `make quickstart` trains it, or name a run")
            return 0
    try:
        with tempfile.TemporaryDirectory() as scratch:
            records = _run(options, Path(options.out or scratch))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        atomic_write(options.json, json.dumps(records, indent=1) + "\n")
    return 0


def _run(options: argparse.Namespace, out: Path) -> list[dict]:
    folder = furniture_folder()
    files = choose(folder, options.num, options.seed)
    shared = {"num_points": options.num_points, "top_k": options.top_k, "data": options.data}
    start = time.perf_counter()
    results = fit(
        options.run,
        files,
        out=out,
        index=folder / "index.csv",
        seed=options.seed,
        refine=options.refine,
        pictures=bool(options.out),
        **shared,
    )
    seconds = time.perf_counter() - start
    database = open_database(options.run, refine=options.refine, **shared)
    box = box_chamfers(database, results, folder, options.num_points)
    print(_table(results, box), flush=True)
    records = measure(results, box, len(files), seconds)
    print("\n".join(map(_line, records)))
    return records


if __name__ == "__main__":
    sys.exit(main())
