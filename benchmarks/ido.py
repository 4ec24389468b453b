"""IDO's exact fits against the paper's gradient descent: time a pair, and where both end.

    python benchmarks/ido.py [--quick] [--json FILE] [--threads T]

Pairs are procedural targets with their nearest sources and with sources drawn at random. Both start from the
undeformed source, within its joints and, as in the paper, without bounds on half-extents; the paper's takes 2,000
steps. The loss ratio is ours to the paper's: below 1 is better.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from harness import Record, finish, interleaved, machine, parser, progress, ratio

from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.geometry.chamfer import chamfer_matrix
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.models.ido import optimise_inner, optimise_inner_sgd

NUM_POINTS = 512
STEPS = 2000
ITERATIONS = 12
Pairs = tuple[PartGeometry, torch.Tensor, torch.Tensor]


def main() -> None:
    """Run the benchmark and print its records."""
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(arguments.threads))
    records = []
    for name, pairs in make_pairs(16 if arguments.quick else 64).items():
        records += compare(name, pairs, rounds=1 if arguments.quick else 3)
    finish(records, arguments.json)


def make_pairs(num_pairs: int) -> dict[str, Pairs]:
    """Geometries, targets and the target of each pair: `near` ones and `random` ones."""
    progress("making furniture")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "furniture"
        categories = ("chair", "table", "cabinet")
        synthesize(path, num_sources=60, num_targets=120, categories=categories, seed=0, num_points=NUM_POINTS)
        dataset = open_dataset(path)
        geometry = SourceStore.open(dataset).geometry(np.arange(60))
        points = read_targets(dataset, "train").points[:num_pairs]
    targets = torch.from_numpy(np.array(points))
    index = torch.arange(len(targets))
    nearest = chamfer_matrix(geometry.points, targets).argmin(dim=0)
    drawn = torch.from_numpy(np.random.default_rng(0).integers(0, 60, len(targets)))
    return {"near": (geometry.take(nearest), targets, index), "random": (geometry.take(drawn), targets, index)}


def compare(name: str, pairs: Pairs, rounds: int) -> list[Record]:
    """Records of one kind of pairs."""
    free = float("-inf")
    contenders = {
        "ours": lambda: optimise_inner(*pairs, iterations=ITERATIONS, minimum_scale=free),
        "bounded": lambda: optimise_inner(*pairs, iterations=ITERATIONS),
        "paper": lambda: optimise_inner_sgd(*pairs, iterations=STEPS),
    }
    optimise_inner(*pairs, iterations=1)  # compiles, or reads what was compiled
    fits = {key: run() for key, run in contenders.items()}
    timed: dict[str, Callable[[], object]] = {**contenders}
    seconds = interleaved(timed, rounds, warm_up=False)
    share = fits["ours"].loss / fits["paper"].loss
    bound = fits["bounded"].loss / fits["ours"].loss
    count, peer = len(pairs[2]), f"gradient descent, {STEPS} steps"
    return [
        Record(
            f"ido.{name}.time",
            median(seconds["ours"]) / count * 1e3,
            "ms",
            peer,
            ratio(seconds["ours"], seconds["paper"]),
        ),
        Record(f"ido.{name}.bounded_time", median(seconds["bounded"]) / count * 1e3, "ms"),
        Record(f"ido.{name}.loss_median", share.median().item(), "", peer),
        Record(f"ido.{name}.loss_mean", share.log().mean().exp().item(), "", peer),
        Record(f"ido.{name}.bounded_loss", bound.median().item(), "", "without bounds"),
    ]


if __name__ == "__main__":
    main()
