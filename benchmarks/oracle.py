"""Oracle retrieval, exact and pruned, against the full scan, fused brute force and the published formulation.

    python benchmarks/oracle.py [--quick] [--csv FILE] [--json FILE] [--threads T]

500 procedural sources of three categories deformed to 100 targets held back from training: 50,000 pairs of 2048
points, whose ten best must be the full scan's, in every bit. The boxes are those of a small model trained here for two
epochs, and sources are visited in the order in which it retrieves them. Two epochs fit loosely, and loose fits are
easy to rule out; so there is a second setting, `close`: 20 of the targets, each source fitted by two solves of IDO on
256 points, in the order of the undeformed chamfer. The records hold the lesser ratio of the two.

Contenders take turns, a block of targets a round. `vs_full_scan`: the same packet search without bounds or giving up
(`chamfer(deform(...))`). `vs_brute_force`: all distances once, both directions from one pass, sixteen lanes, the boxes
applied in the same loop. Both are given the boxes; layouts and kd orders, made once, count.
`vs_reference_formulation` counts all of an evaluation: the published one encodes each source for each target,
multiplies padded dense matrices of 3N x 6P and calls torch.cdist a pair; ours is `evaluate.oracle.oracle` with its
encoder, module, bounds and soundness.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from chamfer import cdist_loss
from harness import Record, finish, interleaved, machine, parser, progress
from limits import SEARCH, search_seconds
from published import PublishedStep, dense_sources
from torch import Tensor

from jr_dist.config import Config
from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.evaluate.metrics import retrieval_order
from jr_dist.evaluate.oracle import Cases, blocks, oracle, undeformed_chamfer
from jr_dist.geometry.blocks import run_blocks
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer, spatial_order
from jr_dist.geometry.least_chamfer import least_chamfers, nothing_yet, ordered_sources
from jr_dist.geometry.nearest import squared_length
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.simd import LANES, compiled, load, minimum, smallest, splat, store, subtract
from jr_dist.models.ido import optimise_inner
from jr_dist.train.trained import TrainedModel, load_run
from jr_dist.train.trainer import train

NUM_POINTS, NUM_SOURCES, K = 2048, 500, 10
Answer = tuple[np.ndarray, np.ndarray]  # chamfers and rows of the K best, [T, K] each
#: sources of the published formulation, whose time a pair does not depend on their number
PUBLISHED_SOURCES, PUBLISHED_TARGETS = 24, 2


@dataclass(frozen=True)
class World:
    """Sources, targets held back and a model."""

    store: SourceStore
    model: TrainedModel
    targets: Tensor  # [T, N, 3]


@dataclass(frozen=True)
class Pairs:
    """All sources with the boxes that fit them to each target, in the order in which they are visited."""

    targets: Tensor  # [T, N, 3]
    order: np.ndarray  # [T, S]
    centre: Tensor  # [T, S, P, 3]
    half_extent: Tensor  # [T, S, P, 3]


def main() -> None:
    """Run the benchmark and print its records."""
    options = parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    num_targets, num_close, rounds = (20, 4, 2) if options.quick else (100, 20, 10)
    print(machine(options.threads))
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), num_targets)
        geometry = world.store.geometry(np.arange(NUM_SOURCES), num_points=NUM_POINTS)
        settings = {"model": by_model(world), "close": by_ido(world, num_close)}
        found = [against_scans(name, geometry, pairs, rounds) for name, pairs in settings.items()]
        records = [min(both, key=lambda record: record.ratio or 0) for both in zip(*found, strict=True)]
        records.append(against_published(world, 1 if options.quick else 3))
    finish(records, options.json, options.csv)


def make_world(folder: Path, num_targets: int) -> World:
    """Furniture, and a model trained on its training targets."""
    progress("making furniture")
    path = folder / "furniture"
    categories = ("chair", "table", "cabinet")
    num_shapes = 6 * num_targets  # a fifth of them held back
    synthesize(
        path, num_sources=NUM_SOURCES, num_targets=num_shapes, categories=categories, seed=0, num_points=NUM_POINTS
    )
    config = {
        "data": {"path": str(path), "num_points": 512, "encoder_points": 256},
        "model": {"encoder_channels": [64, 64, 128, 256], "global_code": 128, "target_code": 128, "hidden": [256, 128]},
        "retrieval": {"embedding": 128},
        "train": {"num_workers": 0, "epochs": 2, "warmup_epochs": 1, "validate_every": 2, "checkpoint_every": 2},
        "run": {"path": str(folder / "run")},
    }
    train(Config.model_validate(config))
    dataset = open_dataset(path)
    held_back = [read_targets(dataset, split).points[:, :NUM_POINTS] for split in ("val", "test")]
    targets = torch.from_numpy(np.concatenate(held_back)[:num_targets].copy())
    assert len(targets) == num_targets
    return World(SourceStore.open(dataset), load_run(folder / "run"), targets)


def by_model(world: World) -> Pairs:
    """As the model fits and retrieves."""
    progress("deforming all pairs")
    rows = torch.arange(NUM_SOURCES).expand(len(world.targets), -1)
    order = retrieval_order(world.model.retrieval_distances(world.targets).numpy())
    return Pairs(world.targets, order, *world.model.deform(world.targets, rows, world.store))


def by_ido(world: World, num_targets: int) -> Pairs:
    """Fitted closely, nearest undeformed sources first."""
    progress("fitting all pairs")
    targets, few = world.targets[:num_targets], 256
    geometry = world.store.geometry(np.arange(NUM_SOURCES), num_points=few)
    index = torch.zeros(NUM_SOURCES, dtype=torch.int64)
    fits = [optimise_inner(geometry, target[None, :few], index, iterations=2) for target in targets]
    order = retrieval_order(undeformed_chamfer(world.store, targets))
    boxes = (torch.stack([getattr(fit, name) for fit in fits]) for name in ("centre", "half_extent"))
    return Pairs(targets, order, *boxes)


# ---- full scan and brute force -----------------------------------------------------------------


def against_scans(setting: str, geometry: PartGeometry, pairs: Pairs, rounds: int) -> list[Record]:
    """Records of the pruned search against all pairs, on the same boxes."""
    rows = np.arange(NUM_SOURCES)
    sources, order = ordered_sources(geometry, rows), spatial_order(geometry.points)
    work = []

    def pruned(block: np.ndarray) -> Answer:
        boxes = pairs.centre[block], pairs.half_extent[block]
        found = least_chamfers(sources, pairs.targets[block], *boxes, pairs.order[block], nothing_yet(len(block), K))
        work.append(found.work)
        return found.chamfer, found.rows

    def full(block: np.ndarray) -> Answer:
        same, values = torch.zeros(NUM_SOURCES, dtype=torch.int64), []
        for t in block.tolist():
            moved = deform(geometry, pairs.centre[t], pairs.half_extent[t])
            values.append(chamfer(moved, pairs.targets[t : t + 1], y_index=same, x_order=order))
        return first(torch.stack(values).numpy())

    def brute(block: np.ndarray) -> Answer:
        return first(brute_force(geometry, pairs.targets[block], pairs.centre[block], pairs.half_extent[block]))

    parts = list(blocks(len(pairs.targets), len(pairs.targets) // rounds))
    shown = {"ours": (pruned, parts), "full scan": (full, parts), "brute force": (brute, [part[:2] for part in parts])}
    for run, some in shown.values():
        run(some[0][:1])  # compiles, or reads what was compiled
    work.clear()
    answers: dict[str, list[Answer]] = {name: [] for name in shown}
    contenders = {name: in_turn(*what, answers[name]) for name, what in shown.items()}
    once = {"our layout": lambda: ordered_sources(geometry, rows), "its order": lambda: spatial_order(geometry.points)}
    seconds = interleaved({**contenders, **once}, rounds, warm_up=False)
    check(answers)
    pair = {
        name: median(s / len(part) for s, part in zip(seconds[name], some, strict=True)) / NUM_SOURCES
        for name, (_, some) in shown.items()
    }
    count = len(pairs.targets) * NUM_SOURCES
    pair["ours"] += median(seconds["our layout"]) / count
    pair["full scan"] += median(seconds["its order"]) / count
    shares = np.concatenate(work).sum(0) / [count, count, count, 2 * NUM_POINTS * count]
    print(
        f"{setting}: top {K} of {count} pairs equal the full scan's; ms a pair: "
        + ", ".join(f"{name} {s * 1e3:.4f}" for name, s in pair.items())
        + f"; ruled out by boxes {shares[0]:.0%}, by the field {shares[1]:.0%}, by sums {shares[2]:.0%}; "
        + f"searched for the neighbours of {shares[3]:.1%} of the points"
    )
    limit = 1e3 * shares[3] * one_search(geometry, pairs)
    return [
        Record(
            f"oracle.vs_{peer.replace(' ', '_')}", pair["ours"] * 1e3, "ms", f"{peer}, {setting}",
            pair[peer] / pair["ours"], limit=limit, limit_is=f"{SEARCH} of the points searched for",
        )
        for peer in ("full scan", "brute force")
    ]  # fmt: skip


def one_search(geometry: PartGeometry, pairs: Pairs) -> float:
    """Least seconds of a chamfer of a target and the source that is visited first."""
    first_rows = torch.from_numpy(pairs.order[:, 0].copy())
    each = torch.arange(len(first_rows))
    boxes = pairs.centre[each, first_rows], pairs.half_extent[each, first_rows]
    return search_seconds(deform(geometry.take(first_rows), *boxes), pairs.targets)


def in_turn(run: Callable[[np.ndarray], Answer], parts: list[np.ndarray], answers: list[Answer]) -> Callable[[], None]:
    """A contender that does the next part each time it is called."""
    left = iter(parts)
    return lambda: answers.append(run(next(left)))


def first(values: np.ndarray) -> Answer:
    """The K least of each row, and where they are; of equals the first."""
    best = np.argsort(values, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(values, best, axis=1), best


def check(answers: dict[str, list[Answer]]) -> None:
    """All contenders found the same, ours and the full scan in every bit."""
    for ours, full in zip(answers["ours"], answers["full scan"], strict=True):
        assert np.array_equal(ours[0], full[0]) and np.array_equal(ours[1], full[1]), "not the best of the full scan"
    for ours, brute in zip(answers["ours"], answers["brute force"], strict=True):
        assert np.allclose(ours[0][: len(brute[0])], brute[0], rtol=1e-5), "not what brute force finds"


def brute_force(geometry: PartGeometry, targets: Tensor, centre: Tensor, half_extent: Tensor) -> np.ndarray:
    """Chamfer [T, S] of all pairs."""
    arrays = [values.numpy() for values in (geometry.points, geometry.canonical, geometry.part_index)]
    shift, growth = (centre - geometry.centre).numpy(), (half_extent - geometry.half_extent).numpy()
    value = np.empty(centre.shape[:2])
    for t, target in enumerate(targets.numpy()):
        block = partial(_brute_block, *arrays, shift[t], growth[t], target.T.copy(), value[t])
        run_blocks(block, len(arrays[0]), torch.get_num_threads())
    return value.astype(np.float32)


@compiled
def _brute_block(points, canonical, part_index, shift, growth, target, value, start, stop):
    """Four packets of source points stay in registers while all target points pass by."""
    num_points, others = points.shape[1], target.shape[1]
    moved = np.empty((3, num_points), np.float32)
    nearest = np.empty(others * LANES, np.float32)
    infinity = splat(np.float32(np.inf))
    for s in range(start, stop):
        for i in range(num_points):
            part = part_index[s, i]
            for a in range(3):
                moved[a, i] = points[s, i, a] + shift[s, part, a] + growth[s, part, a] * canonical[s, i, a]
        nearest[:] = np.inf
        total = 0.0
        for i in range(0, num_points, 4 * LANES):
            x0, y0, z0 = load(moved[0], i), load(moved[1], i), load(moved[2], i)
            x1, y1, z1 = load(moved[0], i + 16), load(moved[1], i + 16), load(moved[2], i + 16)
            x2, y2, z2 = load(moved[0], i + 32), load(moved[1], i + 32), load(moved[2], i + 32)
            x3, y3, z3 = load(moved[0], i + 48), load(moved[1], i + 48), load(moved[2], i + 48)
            best0 = best1 = best2 = best3 = infinity
            for j in range(others):
                x, y, z = splat(target[0, j]), splat(target[1, j]), splat(target[2, j])
                d0 = squared_length(subtract(x0, x), subtract(y0, y), subtract(z0, z))
                d1 = squared_length(subtract(x1, x), subtract(y1, y), subtract(z1, z))
                d2 = squared_length(subtract(x2, x), subtract(y2, y), subtract(z2, z))
                d3 = squared_length(subtract(x3, x), subtract(y3, y), subtract(z3, z))
                best0, best1 = minimum(best0, d0), minimum(best1, d1)
                best2, best3 = minimum(best2, d2), minimum(best3, d3)
                least = minimum(minimum(d0, d1), minimum(d2, d3))
                store(nearest, j * LANES, minimum(load(nearest, j * LANES), least))
            store(moved[0], i, best0)
            store(moved[0], i + 16, best1)
            store(moved[0], i + 32, best2)
            store(moved[0], i + 48, best3)
        for i in range(num_points):
            total += moved[0, i]
        back = 0.0
        for j in range(others):
            back += smallest(load(nearest, j * LANES))
        value[s] = total / num_points + back / others
    return 0


# ---- the published formulation -----------------------------------------------------------------


def against_published(world: World, rounds: int) -> Record:
    """The record of a whole evaluation, per pair."""
    few = world.store.geometry(np.arange(PUBLISHED_SOURCES), num_points=NUM_POINTS)
    codes = world.model.bank.pull(np.arange(PUBLISHED_SOURCES), torch.device("cpu"))
    tables = {name: getattr(codes, name).detach().numpy() for name in ("global_code", "part_code", "retrieval_weight")}
    dense = dense_sources(world.store, PUBLISHED_SOURCES)
    step = PublishedStep(dense, world.model.networks, tables, world.store.num_parts[:PUBLISHED_SOURCES], cdist_loss)
    seen = world.targets[:PUBLISHED_TARGETS]

    def published() -> None:
        with torch.no_grad():
            for target in seen.split(1):
                step.retrieval_encoder(few.points[:, : world.model.config.data.encoder_points])
                for rows in blocks(PUBLISHED_SOURCES, 8):
                    shapes = step.deformed(target, rows)
                    for shape in shapes.split(1):
                        cdist_loss(shape, target)

    def ours() -> None:
        distances = world.model.retrieval_distances(world.targets)
        cases = Cases(world.targets, world.targets, np.ones(len(world.targets)))
        found = oracle(world.model, world.store, cases, retrieval_order(distances.numpy()), k=K)
        assert found.rows.shape == (len(world.targets), K)

    seconds = interleaved({"ours": ours, "published": published}, rounds, warm_up=False)
    each = median(seconds["ours"]) / (len(world.targets) * NUM_SOURCES)
    theirs = median(seconds["published"]) / (PUBLISHED_TARGETS * PUBLISHED_SOURCES)
    peer = "padded dense matrices, torch.cdist a pair, sources encoded again"
    return Record("oracle.vs_reference_formulation", each * 1e3, "ms", peer, theirs / each)


if __name__ == "__main__":
    main()
