"""Where the time of training goes: seconds by stage, of one rank."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from jr_dist.train.state import TrainState

Item = TypeVar("Item")
#: what a rank does, in the order in which a report shows it; together they are all of its time
STAGES = ("start", "data", "compute", "bank", "exchange", "validation", "checkpoint")


@dataclass
class StageClock:
    """Adds up seconds by stage. `step` are those of the step under way or just done, all but validation and checkpoint.

    `data` waits for the batch, `bank` for shards in other processes, `exchange` for the other ranks' gradients;
    `compute` is the rest of a step.
    """

    clock: Callable[[], float] = time.perf_counter
    total: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    step: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The block's seconds belong to stage `name`."""
        began = self.clock()
        try:
            yield
        finally:
            self.total[name] += self.clock() - began

    def waited_for(self, stream: Iterable[Item]) -> Iterator[Item]:
        """The items of a stream; the seconds until one comes are those of `data`, and begin a new step."""
        items, nothing = iter(stream), object()
        while True:
            began = self.clock()
            item = next(items, nothing)
            seconds = self.clock() - began
            self.total["data"] += seconds
            self.step["data"] = self.step.get("data", 0.0) + seconds
            if item is nothing:
                return
            yield item  # type: ignore[misc]

    @contextmanager
    def computing(self, state: TrainState) -> Iterator[None]:
        """The block is a step of training: what it waits for others is `bank` and `exchange`, the rest `compute`."""
        began, bank, exchange = self.clock(), state.bank.waited, state.group.waited
        try:
            yield
        finally:
            of_bank, of_exchange = state.bank.waited - bank, state.group.waited - exchange
            rest = self.clock() - began - of_bank - of_exchange
            own = {"compute": rest, "bank": of_bank, "exchange": of_exchange}
            for name, seconds in own.items():
                self.total[name] += seconds
            self.step = {"data": self.step.get("data", 0.0), **own}

    def shown(self) -> dict[str, float]:
        """What a step logs of its time: the whole, and what it waited."""
        waits = {f"{name}_wait": self.step[name] for name in ("data", "bank", "exchange")}
        return {"step_seconds": sum(self.step.values()), **waits}

    def next_step(self) -> None:
        """Forget the step that was done."""
        self.step = {}
