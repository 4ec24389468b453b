"""How many trials of a sweep a cluster holds at the same time: a function of its machines and of what a trial asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jr_dist.config import Config
from jr_dist.placement import SHARD_CPUS, WORKER_CPUS, num_shard_actors

#: what a trial's own process asks for where Ray Train's workers compute: it only waits
DRIVER_CPUS = 0.01
_DUST = 1e-6  # Ray counts in ten-thousandths


@dataclass(frozen=True)
class Room:
    """Processors and GPUs: of a machine, or what a process asks for."""

    cpus: float
    gpus: float = 0.0

    def holds(self, asked: Room) -> bool:
        """Whether there is room for a process."""
        return asked.cpus <= self.cpus + _DUST and asked.gpus <= self.gpus + _DUST

    def without(self, asked: Room) -> Room:
        """What is left when it has started."""
        return Room(self.cpus - asked.cpus, self.gpus - asked.gpus)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def processes_of(config: Config, on_gpus: bool) -> list[Room]:
    """What each process of a trial asks for, the trial's own first: then workers, then shards of the bank."""
    gpus = 1.0 if on_gpus else 0.0
    if config.train.num_workers == 0:
        return [Room(1.0, gpus)]
    workers = [Room(WORKER_CPUS, gpus)] * config.train.num_workers
    return [Room(DRIVER_CPUS), *workers, *[Room(SHARD_CPUS)] * num_shard_actors(config)]


def trials_at_once(nodes: Sequence[Room], processes: Sequence[Room], most: int) -> int:
    """Whole trials that fit on `nodes`, `most` at most.

    Tune reserves nothing for the workers of Ray Train: more trials than this would each hold a part of what they need
    and wait for one another for ever. Processes are placed one after another, the largest first, each on the machine
    with the most left: a trial more than Ray could place is never counted by adding up what no machine has whole.
    """
    left = list(nodes)
    for count in range(most):
        for asked in sorted(processes, key=lambda room: (-room.gpus, -room.cpus)):
            fitting = [place for place, room in enumerate(left) if room.holds(asked)]
            if not fitting:
                return count
            place = max(fitting, key=lambda place: (left[place].gpus if asked.gpus else 0, left[place].cpus))
            left[place] = left[place].without(asked)
    return most
