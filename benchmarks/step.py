"""A joint training step (B = 16, K = 10, 2048 points) against the published formulation of it (published.py).

    python benchmarks/step.py [--quick] [--csv FILE] [--json FILE] [--threads T]

Both sides start from the same weights, codes and sources (100 of 4 to 16 parts), use the same threads and take turns.
The published formulation runs its encoders by torch's layers, and has its chamfer once from torch.cdist, once from a
compiled brute force in two passes. Measured:

    step.deformation       one update of the deformation module on K random candidates a target
    step.retrieval         one update of the retrieval module
    step.joint             both updates: one step of ours; theirs takes the two in turns
    step.without_encoders  one step of each kind, with the encoders of both sides replaced by a table
    step.without_encoders_vs_two_pass   the same against the compiled brute force

--quick takes one round of what torch.cdist is in.
"""

from __future__ import annotations

import cProfile
import pstats
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Record, clock, compared, finish, interleaved, machine, parser, random_boxes, sample
from limits import PRODUCTS, SEARCH, products_a_second, search_seconds
from published import PublishedStep, by_cdist, by_two_passes, dense_sources
from torch import Tensor, nn

from jr_dist.config import load_config
from jr_dist.data.dataset import open_dataset, write_dataset
from jr_dist.data.records import SourceModel
from jr_dist.data.source_store import SourceStore
from jr_dist.data.streams import TargetBatch
from jr_dist.estimates import encoder_macs
from jr_dist.train.candidates import begin_draw, uniform_candidates
from jr_dist.train.embedding import refresh_embeddings
from jr_dist.train.group import Group
from jr_dist.train.methods.plan import StepPlan
from jr_dist.train.state import TrainState, dense_optimiser, new_state
from jr_dist.train.step import joint_step

NUM_SOURCES, NUM_POINTS, NUM_CANDIDATES = 100, 2048, 10
RATE = 1e-3
RANDOM_PAIRS = StepPlan(soft=False, weighted=False, deformation=True, retrieval=False)
RETRIEVAL = StepPlan(soft=True, weighted=False, deformation=False, retrieval=True)
WEIGHTED = StepPlan(soft=True, weighted=True, deformation=True, retrieval=False)
JOINT = StepPlan(soft=True, weighted=True, deformation=True, retrieval=True)


#: what of a step of ours is told apart in the breakdown, by (file, function)
OUR_PARTS = {
    "encoders, forward": ("encoders.py", "forward"),
    "drawing candidates": ("candidates.py", "begin_draw"),
    "codes out of the bank": ("draw.py", "codes"),
    "geometry of the sources": ("step.py", "source_geometry"),
    "deformation module": ("structure_aware.py", "forward"),
    "projection": ("projection.py", "part_parameters"),
    "moving the points": ("boxes.py", "deform"),
    "chamfer": ("chamfer.py", "chamfer"),
    "symmetry": ("symmetry.py", "symmetry_loss"),
    "backward": ("_tensor.py", "backward"),
    "dense optimiser": ("sgd.py", "step"),
    "codes into the bank": ("client.py", "push"),
}
THEIR_PARTS = {
    "encoders, forward": ("published_source.py", "forward"),
    "padding and stacking": ("published.py", "padded"),
    "decoder, a call a pair": ("published.py", "decoded"),
    "chamfer and symmetry": ("published.py", "forward"),
    "backward": ("_tensor.py", "backward"),
    "optimiser": ("sgd.py", "step"),
}


class Table(nn.Module):
    """An encoder that costs nothing: learned codes, whatever the points."""

    def __init__(self, rows: int, code: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.linspace(-1, 1, rows * code).view(rows, code))

    def forward(self, points: Tensor) -> Tensor:
        """[M, N, 3] -> [M, D]."""
        return self.codes[: len(points)]


@dataclass(frozen=True)
class Sides:
    """Both formulations on the same problem."""

    ours: TrainState
    peers: dict[str, PublishedStep]
    batch: TargetBatch
    candidates: np.ndarray  # [B, K]

    def our_step(self, plan: StepPlan) -> dict[str, float]:
        """One step of ours."""
        draw = begin_draw(self.ours, self.batch, soft=plan.soft)
        return joint_step(self.ours, self.batch, plan, RATE, draw)

    def peer_deformation(self, peer: str) -> float:
        """One deformation step of theirs."""
        weights = np.full(self.candidates.shape, 1 / NUM_CANDIDATES, np.float32)
        return self.peers[peer].deformation_step(self.batch.points, self.candidates, weights)

    def peer_retrieval(self, peer: str) -> float:
        """One retrieval step of theirs."""
        return self.peers[peer].retrieval_step(self.batch.points, self.candidates)


def random_source(number: int, *, num_parts: int | None = None, num_points: int = NUM_POINTS) -> SourceModel:
    """Boxes with a joint between each part and the next."""
    rng = np.random.default_rng([0, number])
    boxes = random_boxes(rng, num_parts)
    num_parts = len(boxes.centre)
    points, part_index = sample(boxes, num_points, rng)
    parts = np.stack([np.arange(num_parts - 1), np.arange(1, num_parts)], 1)
    places = boxes.centre[parts].mean(1, keepdims=True)
    return SourceModel(
        id=f"source-{number:03}",
        category="boxes",
        part_names=tuple(f"part-{part}" for part in range(num_parts)),
        centre=boxes.centre.astype(np.float32),
        half_extent=boxes.half_extent.astype(np.float32),
        points=points,
        part_index=part_index.astype(np.int16),
        joint_parts=parts.astype(np.int32),
        joint_coordinates=((places - boxes.centre[parts]) / boxes.half_extent[parts]).astype(np.float32),
        mesh_glb=b"",
        transform=np.eye(4),
    )


def open_store(folder: Path) -> SourceStore:
    """The sources, by way of a dataset on disk."""
    path = folder / "dataset"
    write_dataset(path, map(random_source, range(NUM_SOURCES)), {}, how={"made_by": "benchmarks/step.py"})
    return SourceStore.open(open_dataset(path))


def sides(store: SourceStore, num_targets: int, *, encoders: bool) -> Sides:
    """Ours as it trains, and theirs with our weights and codes."""
    settings = {
        "data.path": "-",
        "run.path": "-",
        "train.batch_size": num_targets,
        "train.optimizer": "sgd",
        "train.weight_decay": 5e-4,
        "retrieval.num_candidates": NUM_CANDIDATES,
        "data.num_points": NUM_POINTS,
        "data.encoder_points": NUM_POINTS,
    }
    config = load_config(None, settings)
    state = new_state(config, store, Group())
    if not encoders:
        rows = max(NUM_SOURCES, NUM_CANDIDATES * num_targets) + num_targets
        state.networks.deformation_encoder = Table(rows, config.model.target_code)  # pyright: ignore
        state.networks.retrieval_encoder = Table(rows, config.retrieval.embedding)  # pyright: ignore
        state.optimiser = dense_optimiser(config, state.networks)
    refresh_embeddings(state)
    rng = np.random.default_rng(1)
    points = np.stack([sample(random_boxes(rng), NUM_POINTS, rng)[0] for _ in range(num_targets)])
    cloud = torch.from_numpy(points)
    batch = TargetBatch(0, np.arange(num_targets), cloud, cloud, torch.ones(num_targets), torch.zeros(num_targets, 3))
    candidates = uniform_candidates(NUM_SOURCES, NUM_CANDIDATES, batch.rows, seed=config.train.seed, step=0).rows
    dense = dense_sources(store)
    codes = state.bank.pull(np.arange(NUM_SOURCES))
    tables = {name: leaf.detach().numpy() for name, leaf in codes.leaves().items()}
    peers = {
        name: PublishedStep(dense, state.networks, tables, store.num_parts, chamfer)
        for name, chamfer in (("cdist", by_cdist), ("two_pass", by_two_passes))
    }
    return Sides(state, peers, batch, candidates)


def check_equal(both: Sides) -> None:
    """The same weights on the same pairs must give the same loss: else two different things would be timed."""
    logged = both.our_step(RANDOM_PAIRS)
    ours = logged["loss_deformation"] + logged["symmetry"]
    for name in both.peers:
        theirs = both.peer_deformation(name)
        print(f"first deformation loss: ours {ours:.7f}, published formulation with {name} {theirs:.7f}")
        assert abs(ours - theirs) <= 1e-4 * ours, "the two sides compute different things"


def breakdown(run: Callable[[], object], parts: dict[str, tuple[str, str]], title: str) -> None:
    """Where the time of one call goes: the functions (file, name) of each part, none inside another."""
    profile = cProfile.Profile(clock())
    profile.runcall(run)
    stats: Any = pstats.Stats(profile)
    seconds = dict.fromkeys(parts, 0.0)
    for (file, _, function), (_, _, _, cumulative, _) in stats.stats.items():
        for part, place in parts.items():
            if (Path(file).name, function) == place:
                seconds[part] += cumulative
    seconds["the rest"] = stats.total_tt - sum(seconds.values())
    print(f"  {title}: {stats.total_tt * 1e3:.0f} ms")
    for part, value in seconds.items():
        if value >= 0.0005:
            print(f"    {part:28} {value * 1e3:9.1f} ms {value / stats.total_tt:6.1%}")


def measure(store: SourceStore, num_targets: int, rounds: int) -> list[Record]:
    """The five records."""
    with_encoders, without = (sides(store, num_targets, encoders=encoders) for encoders in (True, False))
    for plan in (RANDOM_PAIRS, RETRIEVAL, WEIGHTED, JOINT):
        with_encoders.our_step(plan)
        without.our_step(plan)
    whole = interleaved(
        {
            "our deformation": partial(with_encoders.our_step, RANDOM_PAIRS),
            "our retrieval": partial(with_encoders.our_step, RETRIEVAL),
            "our joint": partial(with_encoders.our_step, JOINT),
            "their deformation": partial(with_encoders.peer_deformation, "cdist"),
            "their retrieval": partial(with_encoders.peer_retrieval, "cdist"),
        },
        rounds,
        warm_up=False,
    )
    bare = {peer: against(without, peer, 3 if peer == "two_pass" else rounds) for peer in without.peers}
    both = [sum(pair) for pair in zip(whole["their deformation"], whole["their retrieval"], strict=True)]
    formulation = "published formulation"
    print("\nWhere the time goes")
    breakdown(partial(with_encoders.our_step, JOINT), OUR_PARTS, "ours, both updates in one step")
    breakdown(lambda: (without.our_step(WEIGHTED), without.our_step(RETRIEVAL)), OUR_PARTS, "ours, without encoders")
    breakdown(partial(without.peer_deformation, "two_pass"), THEIR_PARTS, f"{formulation}, deformation, two passes")
    print(f"  {formulation}, one round: deformation {whole['their deformation'][-1]:.1f} s, retrieval "
          f"{whole['their retrieval'][-1]:.1f} s; without encoders {bare['cdist']['theirs'][-1]:.1f} s, "
          f"with the compiled brute force {bare['two_pass']['theirs'][-1]:.2f} s")  # fmt: skip
    pairs = {
        "deformation": (whole["our deformation"], whole["their deformation"], "torch.cdist"),
        "retrieval": (whole["our retrieval"], whole["their retrieval"], "torch.cdist"),
        "joint": (whole["our joint"], both, "torch.cdist"),
        "without_encoders": (bare["cdist"]["ours"], bare["cdist"]["theirs"], "torch.cdist"),
        "without_encoders_vs_two_pass": (bare["two_pass"]["ours"], bare["two_pass"]["theirs"], "two passes"),
    }
    searched = searching(without)
    products = (1e3 * encoding(num_targets, without.candidates, full) for full in (False, True))
    limits = dict(zip(("deformation", "retrieval"), products, strict=True))
    limits |= {"joint": limits["deformation"] + limits["retrieval"]}
    return [
        compared(
            f"step.{name}", "ms", f"{formulation}, {chamfer}", *([1e3 * s for s in times] for times in (ours, theirs)),
            limit=limits.get(name, searched), limit_is=PRODUCTS if name in limits else SEARCH,
        )
        for name, (ours, theirs, chamfer) in pairs.items()
    ]  # fmt: skip


def against(both: Sides, peer: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of one step of each kind, ours and a peer's."""
    return interleaved(
        {
            "ours": lambda: (both.our_step(WEIGHTED), both.our_step(RETRIEVAL)),
            "theirs": lambda: (both.peer_deformation(peer), both.peer_retrieval(peer)),
        },
        rounds,
        warm_up=False,
    )


def encoding(num_targets: int, candidates: np.ndarray, retrieval: bool) -> float:
    """Least seconds of the products of an update's encoder, three forward passes: of targets, and of candidates."""
    config = load_config(None, {"data.path": "-", "run.path": "-"})
    shapes = num_targets + retrieval * len(np.unique(candidates))
    return 3 * shapes * encoder_macs(config, NUM_POINTS) / products_a_second()


def searching(both: Sides) -> float:
    """Least milliseconds of the searches of both updates: fits twice, symmetry, of which one direction will do."""
    few = torch.from_numpy(both.candidates[:, 0].copy())
    clouds = both.ours.store.geometry(few.numpy()).points
    fit = search_seconds(clouds, both.batch.points)
    symmetry = search_seconds(clouds, clouds * torch.tensor([-1.0, 1.0, 1.0])) / 2
    return 1e3 * both.candidates.size * (2 * fit + symmetry)


def main() -> None:
    """Check that both sides compute the same, measure, print, write."""
    options = parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    num_targets, rounds = 16, 1 if options.quick else 3
    print(f"{num_targets} targets, {NUM_CANDIDATES} candidates, {NUM_SOURCES} sources, {machine(options.threads)}")
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder))
        check_equal(sides(store, 2, encoders=True))
        finish(measure(store, num_targets, rounds), options.json, options.csv)


if __name__ == "__main__":
    main()
