"""IDO's exact fits against the paper's gradient descent: time to the same loss, and where both end.

    python benchmarks/ido.py [--quick] [--csv FILE] [--json FILE] [--threads T]

Pairs are procedural targets with their nearest sources (`near`) and with sources drawn at random. All start from the
undeformed source, within its joints and, as in the paper, without bounds on half-extents; `starts` and `bounded` have
them, and `starts` begins from the source scaled as a whole as well, as `models.refine` does for whole shapes.
Gradient descent takes 2,000 steps of 0.5 a pair. `vs_sgd` is its time, all steps, to ours until the mean loss over
pairs is no more than its mean loss at the end; `vs_sgd_to_1pct` is the time of both to 1.01 times that mean. Loss
ratios are ours to gradient descent's, pair by pair: below 1 is better.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from harness import Record, clock, compared, finish, machine, parser, progress
from ido_anderson import optimise_anderson
from limits import SEARCH, search_seconds

from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.geometry.chamfer import chamfer_matrix
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.models.ido import Parameters, Watch, optimise_inner, optimise_inner_sgd
from jr_dist.models.refine import Refinement, refine, spread_alike

NUM_POINTS = 512
NUM_SOURCES = 60
STEPS = 2000
ITERATIONS = 12  # what evaluation and `fit` take
TRACED = 40
SEED = 20_261  # of furniture that nothing was chosen on
FREE = float("-inf")
PEER = f"gradient descent, {STEPS} steps"


@dataclass(frozen=True)
class Pairs:
    """M sources, B targets and the target of each source."""

    geometry: PartGeometry
    targets: torch.Tensor
    target_index: torch.Tensor

    @property
    def all(self) -> tuple[PartGeometry, torch.Tensor, torch.Tensor]:
        return self.geometry, self.targets, self.target_index


@dataclass
class Trace:
    """The lowest loss of each pair and the seconds gone, at the start and after each iteration."""

    loss: list[torch.Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def mean(self) -> np.ndarray:
        """[iterations + 1], over pairs."""
        return torch.stack(self.loss).double().mean(dim=1).numpy()

    def joined(self, other: Trace) -> Trace:
        """Of two starts: the better one's loss, the time of both."""
        loss = [torch.minimum(a, b) for a, b in zip(self.loss, other.loss, strict=True)]
        return Trace(loss, [a + b for a, b in zip(self.seconds, other.seconds, strict=True)])

    def first(self, level: float) -> int | None:
        """The first iteration with a mean loss of `level` or less."""
        reached = np.flatnonzero(self.mean() <= level)
        return int(reached[0]) if len(reached) else None


def main() -> None:
    """Run the benchmark and print its records."""
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(arguments.threads))
    kinds = make_pairs(16 if arguments.quick else 64)
    rounds = [traces(kinds["all"]) for _ in range(3)]
    limit = 1e3 * search_seconds(kinds["all"].geometry.points, kinds["all"].targets[kinds["all"].target_index])
    records = speeds(rounds, limit) + distributions(kinds, rounds[0]["paper"].loss[-1])
    finish(records, arguments.json, arguments.csv)


def make_pairs(num_targets: int) -> dict[str, Pairs]:
    """`near` and `random` pairs, as many of each as targets, and `all`: first the near ones."""
    progress("making furniture")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "furniture"
        categories = ("chair", "table", "cabinet")
        synthesize(
            path,
            num_sources=NUM_SOURCES,
            num_targets=2 * num_targets,
            categories=categories,
            seed=SEED,
            num_points=NUM_POINTS,
        )
        dataset = open_dataset(path)
        geometry = SourceStore.open(dataset).geometry(np.arange(NUM_SOURCES))
        points = read_targets(dataset, "train").points[:num_targets]
    targets = torch.from_numpy(np.array(points))
    index = torch.arange(num_targets)
    near = chamfer_matrix(geometry.points, targets).argmin(dim=0)
    drawn = torch.from_numpy(np.random.default_rng(SEED).integers(0, NUM_SOURCES, num_targets))
    return {
        "near": Pairs(geometry.take(near), targets, index),
        "random": Pairs(geometry.take(drawn), targets, index),
        "all": Pairs(geometry.take(torch.cat([near, drawn])), targets, index.repeat(2)),
    }


def traces(pairs: Pairs) -> dict[str, Trace]:
    """One round: each contender once, after one another."""

    def anderson(relaxation: float) -> Callable[[Watch], object]:
        settings = {"iterations": TRACED, "depth": 3, "relaxation": relaxation}
        return lambda watch: optimise_anderson(*pairs.all, **settings, watch=watch)

    contenders: dict[str, Callable[[Watch], object]] = {
        "ours": lambda watch: optimise_inner(*pairs.all, iterations=TRACED, minimum_scale=FREE, watch=watch),
        "anderson": anderson(1.0),
        "anderson_relaxed": anderson(1.9),
        "paper": lambda watch: optimise_inner_sgd(*pairs.all, iterations=STEPS, watch=watch),
    }
    optimise_inner(*pairs.all, iterations=1)  # compiles, or reads what was compiled
    found = {name: _traced(run, name) for name, run in contenders.items()}
    scaled = spread_alike(pairs.geometry, pairs.targets[pairs.target_index])

    def bounded(start: Parameters | None) -> Trace:
        return _traced(lambda watch: optimise_inner(*pairs.all, start=start, iterations=TRACED, watch=watch), "starts")

    return {**found, "starts": bounded(None).joined(bounded(scaled))}


def _traced(run: Callable[[Watch], object], name: str) -> Trace:
    trace, now = Trace(), clock()
    progress(name)
    start = now()

    def watch(objective: torch.Tensor) -> None:
        trace.seconds.append(now() - start)
        trace.loss.append(objective)

    run(watch)
    progress("")
    return trace


def speeds(rounds: list[dict[str, Trace]], search: float) -> list[Record]:
    """How long each takes to the paper's mean final loss; losses are the same in every round, times are not.

    `search`: least milliseconds of looking up the neighbours of a pair, which every iteration does.
    """
    first = rounds[0]
    paper = first["paper"].mean()
    count = len(first["paper"].loss[0])
    records = [Record("ido.sgd.mean_loss", 100 * paper[-1], "x100", PEER)]
    for name in ("ours", "starts", "anderson", "anderson_relaxed"):
        record = "ido" if name == "ours" else f"ido.{name}"
        records.append(Record(f"{record}.mean_loss", 100 * first[name].mean()[ITERATIONS], "x100", "12 iterations"))
        for what, level in (("vs_sgd", paper[-1]), ("vs_sgd_to_1pct", 1.01 * paper[-1])):
            at = first[name].first(level)
            if at is None:
                print(f"{record}.{what}: its mean loss does not come to {100 * level:.4f} in {TRACED} iterations")
                continue
            theirs = STEPS if what == "vs_sgd" else first["paper"].first(level)
            assert theirs is not None, "its own end is below"
            ours = [1e3 * each[name].seconds[at] / count for each in rounds]
            peers = [1e3 * each["paper"].seconds[theirs] / count for each in rounds]
            starts = 1 + (name == "starts")
            limit = {"limit": starts * (at + 1) * search, "limit_is": f"{SEARCH}, each iteration"}
            peer = f"gradient descent, {theirs} steps"
            records.append(compared(f"{record}.{what}", "ms", peer, ours, peers, **limit))
            records.append(Record(f"{record}.{what}.iterations", at, ""))
    return records


def distributions(kinds: dict[str, Pairs], paper: torch.Tensor) -> list[Record]:
    """Final losses by gradient descent's, [M] for `all`: one start, bounded, and as evaluation refines."""
    records = []
    for number, name in enumerate(("near", "random")):
        pairs = kinds[name]
        theirs = paper.chunk(2)[number]
        fits = {
            "single": optimise_inner(*pairs.all, iterations=ITERATIONS, minimum_scale=FREE).loss,
            "single_40": optimise_inner(*pairs.all, iterations=TRACED, minimum_scale=FREE).loss,
            "bounded": optimise_inner(*pairs.all, iterations=ITERATIONS).loss,
            "starts": refine(*pairs.all, None, Refinement(ITERATIONS)).loss,
        }
        for fit, loss in fits.items():
            share = loss.double() / theirs
            here = f"ido.{name}.{fit}"
            never = int((loss.double() > theirs).sum())
            print(f"{here}: {never} of {len(share)} pairs end above their own loss by gradient descent")
            low, middle, high = np.quantile(share.numpy(), [0.05, 0.5, 0.95])
            records += [
                Record(f"{here}.loss_q05", low, "", PEER),
                Record(f"{here}.loss_median", middle, "", PEER),
                Record(f"{here}.loss_q95", high, "", PEER),
                Record(f"{here}.loss_mean", float(loss.double().mean() / theirs.mean()), "", PEER),
                Record(f"{here}.worse_1pct", float((share > 1.01).double().mean()), "", PEER),
                Record(f"{here}.worse_5pct", float((share > 1.05).double().mean()), "", PEER),
                Record(f"{here}.never", never, "", PEER),
            ]
    return records


if __name__ == "__main__":
    main()
