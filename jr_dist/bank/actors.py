"""The shards of the bank as Ray actors: thin shells around `ShardDesk`.

They belong to the process that starts them and end with it. An actor that dies is not started again by Ray: it would
come back without what it had acknowledged. Whoever started the shards starts all of them anew, from a checkpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from jr_dist.bank.client import Answer
from jr_dist.bank.desk import Request, ShardDesk
from jr_dist.bank.layout import BankLayout, cut, shard_bytes
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.bank.shard import BankShard
from jr_dist.bank.telemetry import ShardTelemetry
from jr_dist.log import say
from jr_dist.placement import SHARD_CPUS, of_shards

#: seconds; an autoscaler that adds a node takes some minutes
LONGEST_START = 1200.0
_SECONDS_BETWEEN_LINES = 15.0


class ShardActor:
    """A shard in a process of its own. Requests wait inside while the shard is not yet at their step."""

    def __init__(
        self,
        layout: BankLayout,
        blocks: range,
        optimiser: RowOptimiser,
        *,
        num_ranks: int,
        num_threads: int,
        incarnation: int,
        name: tuple[str, int],
    ) -> None:
        shard = BankShard(layout, blocks, optimiser, num_ranks=num_ranks, num_threads=num_threads)
        self._desk, self._telemetry = ShardDesk(shard, incarnation), ShardTelemetry(*name)

    async def call(self, request: Request) -> Any:
        """What the shard answers, when its turn has come."""
        answer = asyncio.get_running_loop().create_future()
        self._desk.submit(request, answer.set_result, answer.set_exception)
        self._telemetry.came(self._desk.num_waiting)
        return await answer

    async def is_up(self) -> bool:
        """Answers once the tables are made."""
        return True


@dataclass(frozen=True)
class RemoteShard:
    """A `ShardActor` as `BankClient` sees it."""

    actor: Any

    def send(self, request: Request) -> Answer:
        """Hand the request over; doesn't wait."""
        return _Reference(self.actor.call.remote(request))


@dataclass(frozen=True)
class _Reference:
    reference: Any

    def result(self) -> Any:
        return ray.get(self.reference)


@contextmanager
def running_shards(
    layout: BankLayout,
    num_shards: int,
    optimiser: RowOptimiser,
    *,
    num_ranks: int,
    num_threads: int,
    incarnation: int,
    run: str,
) -> Iterator[list[RemoteShard]]:
    """Start the shards of a run, in the order of their rows, and end them with the block.

    Waits until all have their tables, saying now and then for how many. Raises `InputError` for more shards than
    blocks, and what Ray raises where a shard can't be made.
    """
    actor_class = ray.remote(max_restarts=0, max_task_retries=0)(ShardActor)
    num_slots = optimiser.num_slots
    shared = {"num_ranks": num_ranks, "num_threads": num_threads, "incarnation": incarnation}
    actors: list[Any] = [
        actor_class.options(
            name=f"{run} start {incarnation} shard {number} of {num_shards}",
            **of_shards(1, shard_bytes(layout, blocks, num_slots)).options,
        ).remote(layout, blocks, optimiser, name=(run, number), **shared)
        for number, blocks in enumerate(cut(layout, num_shards))
    ]
    try:
        _wait_for(actors)
        yield [RemoteShard(actor) for actor in actors]
    finally:
        for actor in actors:
            ray.kill(actor)


def _wait_for(actors: list[Any]) -> None:
    pending = [actor.is_up.remote() for actor in actors]
    started = time.monotonic()
    while pending:
        if time.monotonic() - started > LONGEST_START:
            raise RuntimeError(
                f"{len(pending)} of {len(actors)} shards of the bank did not come up in {LONGEST_START:g} s; "
                "the cluster lacks the processors or the memory that `--dry-run` names: add nodes, then start again"
            )
        up, pending = ray.wait(pending, num_returns=len(pending), timeout=_SECONDS_BETWEEN_LINES)
        ray.get(up)
        if pending:
            say(
                f"bank: {len(pending)} of {len(actors)} shards not up after {time.monotonic() - started:.0f} s; each "
                f"asks the cluster for {SHARD_CPUS:g} processors and its memory (`--dry-run` says how much)",
                fields={"event": "waiting", "seconds": time.monotonic() - started, "shards": len(pending)},
            )
