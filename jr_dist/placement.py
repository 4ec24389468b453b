"""What the processes of each verb ask a cluster for, and where its nodes have room: the one place that decides.

Plain functions of plain records, without Ray. A process asks for processors, for whole GPUs or the share of one, and,
where it holds tables, for memory. PACK fills node after node, SPREAD takes turns. `cluster_room` reads the nodes of a
running cluster and waits for room; the actors and Ray Train ask for exactly what is said here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jr_dist.config import Config

Strategy = Literal["PACK", "SPREAD"]
#: half a processor each leaves room for the streams' tasks on a machine of two
WORKER_CPUS = 0.5
#: a shard rests while the workers compute, and computes while they wait for it
SHARD_CPUS = 0.5
#: what a trial's own process asks for where Ray Train's workers compute
DRIVER_CPUS = 0.01
#: what draws a picture by OpenGL computes little and waits for its PNG to be packed by its processor
GL_RENDERER_GPUS = 0.25
_UNIT = 10_000  # Ray counts in ten-thousandths; whole numbers of them add up exactly


@dataclass(frozen=True, order=True)
class Node:
    """A machine of a cluster, empty."""

    cpus: float
    gpus: float = 0.0
    memory: float = math.inf  # bytes that processes may ask for

    def __str__(self) -> str:
        return _several(self.cpus, "CPU") + (f" and {_several(self.gpus, 'GPU')}" if self.gpus else "")


@dataclass(frozen=True)
class Ask:
    """`count` processes that ask for the same each."""

    what: str  # "worker", "shard", "actor", ...
    count: int
    cpus: float
    gpus: float = 0.0  # a share of one, or a whole number
    memory: int = 0  # bytes
    strategy: Strategy = "SPREAD"
    together: bool = True  # nothing begins before all have room; else the others wait while some work

    @property
    def resources(self) -> dict[str, float]:
        """Of one process, as Ray Train's bundles name them."""
        return {"CPU": self.cpus, "GPU": self.gpus} if self.gpus else {"CPU": self.cpus}

    @property
    def options(self) -> dict[str, Any]:
        """Of one process, as Ray's actors take them."""
        memory = {"memory": self.memory} if self.memory else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "scheduling_strategy": self.strategy, **memory}

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        each += f" and {self.memory / 1e6:.3g} MB" if self.memory else ""
        return f"{self.count} {self.what}{'s' * (self.count != 1)} of {each}, {self.strategy}"


# ---- what each verb asks for -------------------------------------------------------------------


def num_shard_actors(config: Config) -> int:
    """Shards that are actors: none where one worker holds the one shard, or all without Ray."""
    workers, shards = config.train.num_workers, config.bank.num_shards
    return 0 if workers == 0 or workers == shards == 1 else shards


def on_gpus(device: str, nodes: Iterable[Node]) -> bool:
    """Whether workers compute on GPUs: by `train.device` cuda, or auto where a node has one."""
    return device == "cuda" or (device == "auto" and any(node.gpus > 0 for node in nodes))


def of_training(config: Config, *, gpus: bool, shard_memory: int = 0) -> tuple[Ask, ...]:
    """Shards and workers of `train`, in the order in which they are started; none without Ray.

    A worker has a GPU of its own where `gpus` says so: packed, so that dense gradients stay within few machines. On
    processors workers ask for less than they use: packed, they would all be on one machine. Shards are spread, for
    their memory and their network; each asks for `shard_memory` bytes.
    """
    if config.train.num_workers == 0:
        return ()
    workers = Ask("worker", config.train.num_workers, WORKER_CPUS, float(gpus), strategy="PACK" if gpus else "SPREAD")
    shards = num_shard_actors(config)
    return (*([of_shards(shards, shard_memory)] if shards else []), workers)


def of_run(config: Config, *, gpus: bool, shard_memory: int = 0) -> tuple[Ask, ...]:
    """A run of `train` beside others: as `of_training`; without workers its own process computes, and holds a GPU."""
    if config.train.num_workers == 0 and gpus:
        return (Ask("run", 1, 0.0, 1.0),)
    return of_training(config, gpus=gpus, shard_memory=shard_memory)


def of_trial(config: Config, *, gpus: bool) -> tuple[Ask, ...]:
    """A trial of `sweep`: its own process first, which trains without Ray, or waits for workers and shards."""
    if config.train.num_workers == 0:
        return (Ask("trial", 1, 1.0, float(gpus)),)
    return (Ask("trial", 1, DRIVER_CPUS), *of_training(config, gpus=gpus))


def of_shards(num_shards: int, memory: int) -> Ask:
    """Shards of the bank that are actors, of `memory` bytes each."""
    return Ask("shard", num_shards, SHARD_CPUS, memory=memory)


def of_measuring(num_workers: int, num_gpus: float) -> Ask:
    """Actors that do the jobs of `blocks`, for `evaluate` and for labels: a processor each, and GPUs where asked."""
    return Ask("actor", num_workers, 1.0, num_gpus, together=False)


def of_rendering(num_workers: int, backend: str, nodes: Iterable[Node]) -> Ask:
    """Renderers: a processor each, and by OpenGL a share of a GPU where the cluster has any; else Mesa draws."""
    gpus = GL_RENDERER_GPUS if backend == "moderngl" and any(node.gpus > 0 for node in nodes) else 0.0
    return Ask("renderer", num_workers, 1.0, gpus, together=False)


def of_ingesting(num_files: int) -> Ask:
    """Tasks that read a block of files each."""
    return Ask("task", num_files, 1.0, together=False)


# ---- where there is room -----------------------------------------------------------------------


def place(nodes: Sequence[Node], asks: Sequence[Ask]) -> list[list[int]] | None:
    """Of each ask, the node of each of its processes; None where the empty nodes don't hold all of them together.

    As Ray does it, where it is free to choose the way that leaves least: PACK fills the fullest node that has room,
    SPREAD takes the one with fewest processes of the ask, one with GPUs first.
    """
    rooms = [_Room.of(node) for node in nodes]
    placed = []
    for ask in asks:
        taken: list[int] = []
        counts = Counter[int]()
        for _ in range(ask.count):
            free = [number for number, room in enumerate(rooms) if room.holds(ask)]
            if not free:
                return None
            if ask.strategy == "PACK":
                chosen = min(free, key=lambda number: (-counts[number], rooms[number].cpus, number))
            else:
                chosen = min(free, key=lambda number: (counts[number], not rooms[number].gpus, number))
            rooms[chosen].take(ask)
            counts[chosen] += 1
            taken.append(chosen)
        placed.append(taken)
    return placed


def room(nodes: Sequence[Node], ask: Ask) -> int:
    """How many processes that ask for this the empty nodes hold."""
    count = 0
    for node in nodes:
        left = _Room.of(node)
        while left.holds(ask):
            left.take(ask)
            count += 1
    return count


def sets_at_once(nodes: Sequence[Node], asks: Sequence[Ask], most: int) -> int:
    """How many whole sets of these processes the empty nodes hold at the same time, `most` at most.

    Nothing reserves room for a set as a whole: more sets would each hold a part of what they need and wait for ever.
    """
    fit, too_many = 0, most + 1
    while too_many - fit > 1:
        count = (fit + too_many) // 2
        if place(nodes, [replace(ask, count=count * ask.count) for ask in asks]) is not None:
            fit = count
        else:
            too_many = count
    return fit


def fewest_nodes(node: Node, asks: Sequence[Ask]) -> int | None:
    """How many nodes like this one hold all processes together; None where no number of them does."""
    if any(ask.count and not room([node], replace(ask, count=1)) for ask in asks):
        return None
    most = sum(ask.count for ask in asks)
    return next((count for count in range(most + 1) if place([node] * count, asks) is not None), None)


def threads(nodes: Sequence[Node], asks: Sequence[Ask], side_by_side: int = 1) -> int:
    """Compute threads of each process, where `side_by_side` sets of them share the processors of the nodes they are on.

    More would wait for one another; equally many everywhere, since sums are split over threads.
    """
    placed = place(nodes, asks)
    if placed is None:
        return 1
    counts = Counter(number for taken in placed for number in taken)
    return max(
        1, min((int(nodes[number].cpus) // (count * side_by_side) for number, count in counts.items()), default=1)
    )


def lacking(nodes: Sequence[Node], asks: Sequence[Ask]) -> str | None:
    """What the empty nodes lack for all processes together, as "N processors: ...; allowed is M"; None where nothing.

    Processes that need not begin together ask for one of them alone.
    """
    asks = [ask if ask.together else replace(ask, count=min(ask.count, 1)) for ask in asks]
    if place(nodes, asks) is not None:
        return None
    listed = ", ".join(map(str, asks))
    for what, of_ask, of_node in (
        ("GPUs", lambda ask: ask.gpus, lambda node: node.gpus),
        ("processors", lambda ask: ask.cpus, lambda node: node.cpus),
        ("MB of memory", lambda ask: ask.memory / 1e6, lambda node: node.memory / 1e6),
    ):
        asked, there = sum(ask.count * of_ask(ask) for ask in asks), sum(map(of_node, nodes))
        if asked > there + 1e-9:
            return f"{asked:.6g} {what}: {listed}; allowed is {there:.6g}"
    return f"more than any of its nodes has room for at once: {listed}; allowed is what fits on {shown(nodes)}"


def shown(nodes: Sequence[Node]) -> str:
    """`2 nodes of 8 CPUs and 1 GPU, 1 node of 4 CPUs`."""
    counts = Counter(str(node) for node in nodes)
    return ", ".join(f"{_several(count, 'node')} of {what}" for what, count in counts.items()) or "no node"


def _several(count: float, what: str) -> str:
    return f"{count:g} {what}{'s' * (count != 1)}"


@dataclass
class _Room:
    """What is left of a node, in Ray's units. A share of a GPU lies on one GPU."""

    cpus: int
    gpus: list[int]
    memory: float

    @classmethod
    def of(cls, node: Node) -> _Room:
        return cls(round(node.cpus * _UNIT), [_UNIT] * int(node.gpus), node.memory)

    def holds(self, ask: Ask) -> bool:
        return (
            round(ask.cpus * _UNIT) <= self.cpus
            and ask.memory <= self.memory
            and len(self._gpus_for(ask)) == math.ceil(ask.gpus)
        )

    def take(self, ask: Ask) -> None:
        self.cpus -= round(ask.cpus * _UNIT)
        self.memory -= ask.memory
        for number in self._gpus_for(ask):
            self.gpus[number] -= min(round(ask.gpus * _UNIT), _UNIT)

    def _gpus_for(self, ask: Ask) -> list[int]:
        share = min(round(ask.gpus * _UNIT), _UNIT)
        # the fullest that will do, so that whole ones are left
        fitting = sorted((left, number) for number, left in enumerate(self.gpus) if left >= share > 0)
        return [number for _, number in fitting[: math.ceil(ask.gpus)]]
