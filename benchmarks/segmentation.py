"""Parts found by ourselves against those that IKEA-Manual's assemblers use, its mesh nodes merged away.

    python benchmarks/segmentation.py
    python benchmarks/segmentation.py --quick --json segmentation.json
    python benchmarks/segmentation.py --verbose

The models come from the folder that JR_FURNITURE names. The adjusted Rand
index (Hubert and Arabie 1985) is 1 for the same parts and about 0 for parts drawn at random; it is taken
over points sampled uniformly by area. The constants of the segmentation were chosen on every other model
(`tuned`, the sorted files 0, 2, 4 ...) and judged on the rest (`held`). Beside ours stand `components` (the
connected components alone, as many as there are) and `best` (each piece that ours groups given the
assemblers' part it mostly lies in: what no grouping of them can surpass). Assemblers call a side frame one
part and its twin's four bars four: part of the distance to 1 is theirs.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median

import numpy as np
from harness import Record
from real_models import furniture_folder

from jr_dist.atomic import atomic_write
from jr_dist.data.mesh_files import load_mesh_file
from jr_dist.data.part_mesh import concatenated
from jr_dist.errors import InputError
from jr_dist.geometry.mesh_components import face_components, weld
from jr_dist.geometry.sampling import sample_triangles
from jr_dist.geometry.segmentation import segment, split_pieces

NUM_POINTS = 10_000


def adjusted_rand_index(a: np.ndarray, b: np.ndarray) -> float:
    """Agreement of two labellings (N,) of the same points, corrected for chance; 1 where both put all in
    one part.
    """
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a, b), 1.0)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, in_a, in_b = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    expected, most = in_a * in_b / (len(a) * (len(a) - 1) / 2), (in_a + in_b) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def scores(path: Path) -> dict[str, float]:
    """Indices of one model, and how many parts there are and were found."""
    vertices, faces, node = concatenated(load_mesh_file(path).mesh)
    _, face = sample_triangles(vertices, faces, NUM_POINTS, np.random.default_rng(0))
    pieces = split_pieces(vertices, faces)
    found, components = segment(vertices, faces), face_components(vertices, faces, weld(vertices))
    inside = np.zeros((int(pieces.max()) + 1, int(node.max()) + 1))
    np.add.at(inside, (pieces[face], node[face]), 1.0)
    return {
        "ours": adjusted_rand_index(found[face], node[face]),
        "components": adjusted_rand_index(components[face], node[face]),
        "best": adjusted_rand_index(inside.argmax(axis=1)[pieces[face]], node[face]),
        "parts": int(node.max()) + 1,
        "found": int(found.max()) + 1,
    }


def models() -> list[Path]:
    """IKEA-Manual's models, sorted. Raises `InputError` where they aren't."""
    folder = furniture_folder()
    with open(folder / "index.csv", newline="", encoding="utf-8") as stream:
        rows = [row["file"] for row in csv.DictReader(stream) if row["parts"] == "nodes"]
    return [folder / file for file in sorted(rows)]


def main() -> None:
    """Score the models and print mean and median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every fourth model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records here")
    parser.add_argument("--verbose", action="store_true", help="a line a model")
    arguments = parser.parse_args()
    rows: list[tuple[str, dict[str, float]]] = []
    for number, path in enumerate(models()):
        if arguments.quick and number // 2 % 4:
            continue  # in pairs, so that both halves are there
        rows.append(("held" if number % 2 else "tuned", scores(path)))
        if arguments.verbose:
            print(f"{path.name:32}" + "".join(f" {key}={value:.3g}" for key, value in rows[-1][1].items()), flush=True)
    records = []
    print(f"{len(rows)} models, {NUM_POINTS} points each by area; adjusted Rand index, mean and median")
    for half in ("held", "tuned", "all"):
        chosen = [row for name, row in rows if half in (name, "all")]
        for method in ("ours", "components", "best"):
            values = [row[method] for row in chosen]
            records.append(Record(f"segmentation.{half}.{method}.mean", mean(values), "ARI"))
            records.append(Record(f"segmentation.{half}.{method}.median", median(values), "ARI"))
            print(f"{half:6} {method:11} mean {mean(values):.3f} median {median(values):.3f} n={len(values)}")
    off = [abs(row["parts"] - row["found"]) for _, row in rows]
    records.append(Record("segmentation.all.parts_off.median", median(off), "parts"))
    print(f"parts found differ from the assemblers' by {median(off):g} in the median")
    if arguments.json:
        atomic_write(arguments.json, json.dumps([asdict(record) for record in records], indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"segmentation: {error}")
