"""Progress of a long job: a bar on a terminal, else one greppable line every few seconds."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TextIO

from jr_dist.log import is_json, say

SECONDS_BETWEEN_LINES = 5.0
# The rate is that of the last steps: the first ones compile kernels and would spoil it for minutes.
STEPS_OF_RATE = 50
#: who is told of every job's progress, beside those who read it
watchers: list[Callable[[Progress], None]] = []


class Progress:
    """How far a job is. Create it with `progress`, call `advance` as work is done."""

    def __init__(self, title: str, total: int, *, done: int, unit: str, clock: Callable[[], float]) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.values: dict[str, object] = {}
        self._clock = clock
        self._started = clock()
        self._recent: deque[tuple[float, int]] = deque([(self._started, done)], maxlen=STEPS_OF_RATE + 1)
        self._listeners: list[Callable[[], None]] = []

    def advance(self, count: int = 1, **values: object) -> None:
        """`count` more units are done; `values` (losses and the like) replace those of the same names."""
        self.done += count
        self.values.update(values)
        self._recent.append((self._clock(), self.done))
        for listener in self._listeners:
            listener()

    @property
    def rate(self) -> float:
        """Units a second over the last `STEPS_OF_RATE` calls."""
        (start, done_then), (now, done_now) = self._recent[0], self._recent[-1]
        return (done_now - done_then) / (now - start) if now > start else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None while nothing is known."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def line(self) -> str:
        """`train step 120/1200 fit=0.0312 rate=12.1/s left=1:29`."""
        values = "".join(f" {name}={shown(value)}" for name, value in self.values.items())
        left = "?" if self.seconds_left is None else duration(self.seconds_left)
        return f"{self.title} {self.unit} {self.done}/{self.total}{values} rate={shown(self.rate)}/s left={left}"

    def fields(self) -> dict[str, object]:
        """The same for a program."""
        known = {"done": self.done, "total": self.total, "rate": self.rate, "seconds_left": self.seconds_left}
        return {"event": "progress", "title": self.title, **known, **self.values}


@contextmanager
def progress(
    title: str,
    total: int,
    *,
    done: int = 0,
    unit: str = "step",
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Report a job of `total` units, of which `done` were done before, on `stream` (stderr).

    A job of one unit is not reported: it has no progress, and what comes of it is said anyway.
    """
    out = stream or sys.stderr
    state = Progress(title, total, done=done, unit=unit, clock=clock)
    if total <= 1:
        yield state
        return
    for watcher in watchers:
        state._listeners.append(partial(watcher, state))
    draw = _bar if out.isatty() and not is_json() else _lines
    with draw(state, out):
        yield state


@contextmanager
def _lines(state: Progress, stream: TextIO) -> Iterator[None]:
    last = [-SECONDS_BETWEEN_LINES, -1]  # elapsed and done at the last line

    def report(*, always: bool = False) -> None:
        if (always or state.elapsed - last[0] >= SECONDS_BETWEEN_LINES) and state.done != last[1]:
            last[:] = state.elapsed, state.done
            say(state.line(), stream=stream, fields=state.fields())

    state._listeners.append(report)
    yield
    report(always=True)


@contextmanager
def _bar(state: Progress, stream: TextIO) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[detail]}"))
    with RichProgress(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task(state.title, total=state.total, completed=state.done, detail="")

        def report() -> None:
            bar.update(task, completed=state.done, detail=state.line().removeprefix(state.title + " "))

        state._listeners.append(report)
        yield


def duration(seconds: float) -> str:
    """`0:07`, `12:34`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shown(value: object) -> str:
    """A number to three digits, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def field_line(title: str, values: Mapping[str, object]) -> str:
    """`TITLE name=value name=value`: the form of every line that a script may want to read."""
    return title + "".join(f" {name}={shown(value)}" for name, value in values.items())
