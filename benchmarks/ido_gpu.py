"""IDO on a GPU as a CUDA graph, against the same loop without one and against the paper's gradient descent.

    python benchmarks/ido_gpu.py [--quick] [--csv FILE] [--json FILE]

    ido_gpu.vs_eager         12 iterations, ms: how many times longer they take launched kernel by kernel
    ido_gpu.vs_sgd           ms until the mean loss over pairs is no more than where gradient descent ends, and how many
                             times longer its 2,000 steps take
    ido_gpu.pairs            pairs fitted a second, 12 iterations each

160 pairs (16 targets, 10 sources each) of 2048 points: boxes of 4 to 16 parts that have nothing to do with each other,
undeformed at first and, as in the paper, without bounds on half-extents. Contenders take turns, with the GPU at rest
before and after. Gradient descent has our sums of matched pairs and is a CUDA graph as well: what is compared is how
many steps it takes and what one costs, not how it is launched.

It needs torch, numpy, numba and Triton alone. Without a GPU it says so and what was not measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median

import torch
from chamfer_gpu import no_gpu
from harness import Record, finish, parser, ratio
from step_gpu import a_problem, interleaved
from torch import Tensor

from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.models.ido import optimise_inner, optimise_inner_sgd

NAMES = ("ido_gpu.vs_eager", "ido_gpu.vs_sgd", "ido_gpu.pairs")
ITERATIONS, STEPS, TRACED = 12, 2000, 60
FREE = float("-inf")
Pairs = tuple[PartGeometry, Tensor, Tensor]


def make_pairs(num_targets: int, num_points: int, device: str) -> Pairs:
    """Sources, targets, and the target of each source."""
    problem = a_problem(num_targets, num_points, device)
    num_candidates = problem.rows.shape[1]
    sources = problem.geometry.take(torch.from_numpy(problem.rows.reshape(-1)).to(device))
    return sources, problem.targets, torch.arange(num_targets, device=device).repeat_interleave(num_candidates)


def iterations_until(pairs: Pairs, level: float) -> int | None:
    """The first iteration with a mean loss of `level` or less."""
    means: list[Tensor] = []
    optimise_inner(*pairs, iterations=TRACED, minimum_scale=FREE, watch=lambda loss: means.append(loss.mean()))
    return next((number for number, mean in enumerate(means) if float(mean) <= level), None)


def measure(pairs: Pairs, rounds: int, steps: int) -> list[Record]:
    """The records; the paper's descent takes `steps`."""
    level = float(optimise_inner_sgd(*pairs, iterations=steps).loss.double().mean())
    needed = iterations_until(pairs, level)
    ours = optimise_inner(*pairs, minimum_scale=FREE).loss.double().mean()
    print(f"mean loss x100: ours {100 * float(ours):.4f}, gradient descent {100 * level:.4f} after {steps} steps")
    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: optimise_inner(*pairs, iterations=ITERATIONS, minimum_scale=FREE),
        "eager": lambda: optimise_inner(*pairs, iterations=ITERATIONS, minimum_scale=FREE, watch=lambda _: None),
        "sgd": lambda: optimise_inner_sgd(*pairs, iterations=steps),
    }
    if needed is None:
        print(f"ido_gpu.vs_sgd: our mean loss does not come to {100 * level:.4f} in {TRACED} iterations")
    else:
        runs["until"] = lambda: optimise_inner(*pairs, iterations=needed, minimum_scale=FREE)
    seconds = interleaved(runs, rounds)
    here = seconds["ours"]
    records = [
        Record(NAMES[0], 1e3 * median(here), "ms", "without a CUDA graph", ratio(here, seconds["eager"])),
        Record(NAMES[2], len(pairs[2]) / median(here), "/s"),
    ]
    if needed is not None:
        peer, until = f"gradient descent, {steps} steps to our {needed}", seconds["until"]
        records.append(Record(NAMES[1], 1e3 * median(until), "ms", peer, ratio(until, seconds["sgd"])))
    return records


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__).parse_args()
    if no_gpu(NAMES):
        sys.exit(0)
    pairs = make_pairs(2 if options.quick else 16, 2048, "cuda")
    print(f"{len(pairs[2])} pairs, {torch.cuda.get_device_name()}, torch {torch.__version__}")
    finish(measure(pairs, 3 if options.quick else 10, STEPS), options.json, options.csv)


if __name__ == "__main__":
    main()
