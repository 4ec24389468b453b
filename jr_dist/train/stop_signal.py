"""SIGTERM reaches the process that called `train`; this passes it on to the workers, wherever they run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import ray

_SECONDS_BETWEEN_LOOKS = 0.2


class StopActor:
    """Holds the word; whoever waits gets it at once when it comes."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    async def ask(self) -> None:
        """The run shall stop."""
        self._asked.set()

    async def asked(self) -> bool:
        """Answers when it shall."""
        return await self._asked.wait()


@contextmanager
def passing_on(asked: Event) -> Iterator[Any]:
    """An actor that is told when `asked` is set; it lives as long as the block."""
    actor: Any = ray.remote(num_cpus=0, max_restarts=0)(StopActor).remote()
    over = Event()

    def look() -> None:
        # A signal's handler may not wait for Ray, so it sets the event and this thread does the rest.
        while not over.is_set():
            if asked.wait(_SECONDS_BETWEEN_LOOKS):
                actor.ask.remote()
                return

    thread = Thread(target=look, name="passes SIGTERM on", daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        over.set()
        thread.join()
        ray.kill(actor)


def stop_asked(actor: Any) -> Callable[[], bool]:
    """A function that says, without waiting, whether the run shall stop; raises what Ray raises for a dead actor."""
    answer = actor.asked.remote()

    def stop() -> bool:
        done, _ = ray.wait([answer], timeout=0)
        return bool(done) and ray.get(answer)

    return stop
