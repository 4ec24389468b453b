"""Who is served when: requests to a shard, in order for each rank, once the shard is at the step that they ask for.

A plain object that an actor wraps, so that every order of arrival can be tried by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jr_dist.bank.shard import BankShard


class StaleIncarnationError(RuntimeError):
    """A request from before a failure: what it asks for, or brings, is of codes that are no more."""


@dataclass(frozen=True)
class Request:
    """What a rank asks of a shard."""

    incarnation: int  # of the run's start that the rank belongs to
    rank: int
    number: int  # counts this rank's requests to this shard, from 0: messages may overtake one another
    version: int  # the steps that must have been applied
    work: str  # a method of BankShard
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


class ShardDesk:
    """A shard and those who wait for it.

    A rank's requests are served in the order of their numbers, each once the shard has applied `version` steps; where
    several can be served, the rank that comes first goes first. Since a rank sends its push of a step behind everything
    that it wants to see before that step is applied, what a request sees does not depend on when it came.
    """

    def __init__(self, shard: BankShard, incarnation: int) -> None:
        self.shard, self.incarnation = shard, incarnation
        self._next = [0] * shard.num_ranks
        self._waiting: dict[tuple[int, int], tuple[Request, Callable[[Any], None], Callable[[Exception], None]]] = {}

    @property
    def num_waiting(self) -> int:
        """Requests that have come and can't be served yet."""
        return len(self._waiting)

    def submit(self, request: Request, answer: Callable[[Any], None], fail: Callable[[Exception], None]) -> None:
        """Serve the request now or later: `answer` gets the result, `fail` what it raised.

        Raises `StaleIncarnationError` for one of another start of the run, and `ValueError` for one that came before.
        """
        if request.incarnation != self.incarnation:
            raise StaleIncarnationError(
                f"{request.work} of start {request.incarnation} to a shard of start {self.incarnation}: refused"
            )
        key = (request.rank, request.number)
        if request.number < self._next[request.rank] or key in self._waiting:
            raise ValueError(f"request {request.number} of rank {request.rank} came twice")
        self._waiting[key] = (request, answer, fail)
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        for rank, number in enumerate(self._next):
            if (rank, number) not in self._waiting:
                continue
            request, answer, fail = self._waiting[rank, number]
            if self.shard.version < request.version:
                continue
            del self._waiting[rank, number]
            self._next[rank] += 1
            try:
                result = self._do(request)
            except Exception as error:  # the caller's to handle: the next request must be served all the same
                fail(error)
            else:
                answer(result)
            return True
        return False

    def _do(self, request: Request) -> Any:
        assert self.shard.version == request.version, (
            f"{request.work} asks for step {request.version}, the shard is at {self.shard.version}"
        )
        return getattr(self.shard, request.work)(*request.arguments, **request.options)
