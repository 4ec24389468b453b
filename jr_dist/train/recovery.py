"""What to do when training under Ray has failed: a function of the failures so far, with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from jr_dist.atomic import NO_ROOM
from jr_dist.errors import InputError

#: failures in a row with no new checkpoint between them, after which going on is pointless; with the waits between
#: them, two and a half minutes: Ray may take one to notice that a machine is gone, and places new processes on it
MOST_WITHOUT_PROGRESS = 6
#: what the same data and settings would raise again
_REPEATABLE = (
    *(InputError, FloatingPointError, AssertionError, ArithmeticError, ValueError, TypeError),
    *(LookupError, AttributeError, ImportError, NotImplementedError, torch.OutOfMemoryError),
)
_FIRST_WAIT, _LONGEST_WAIT = 10.0, 300.0

Kind = Literal["repeatable", "no room", "lost"]


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended."""

    kind: Kind
    cause: BaseException  # of all that was raised, what says most
    step: int  # of the checkpoint that another attempt would start from

    @property
    def line(self) -> str:
        """The cause in one line."""
        text = " ".join(_said(self.cause).split()) or "no message"
        return f"{type(self.cause).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"


@dataclass(frozen=True)
class Decision:
    """Whether to start again from the last checkpoint."""

    go_on: bool
    reason: str  # one line for the log
    seconds: float = 0.0  # to wait before


def failure_of(error: BaseException, step: int) -> Failure:
    """What an attempt's error was at bottom: of many ranks' errors, the one that is not a mere consequence of another.

    When one process dies, the others fail as well, in whatever call they wait; so an error that would come again
    counts most, a full disk next, and a loss last.
    """
    causes = list(_bottom(error))
    for kind in ("repeatable", "no room"):
        for cause in causes:
            if _kind(cause) == kind:
                return Failure(kind, cause, step)
    dead = (cause for cause in causes if hasattr(cause, "actor_id"))  # ActorDiedError says which process is gone
    return Failure("lost", next(dead, causes[0]), step)


def after_failure(failures: Sequence[Failure]) -> Decision:
    """Go on from the last checkpoint unless the error would come again, or nothing new was saved for too long.

    Processes and machines die, and days of training outlive that. A full disk may be emptied by others: then it waits.
    """
    last = failures[-1]
    if last.kind == "repeatable":
        return Decision(False, f"not started again, since the same would happen: {last.line}")
    stuck = 0
    for failure in reversed(failures):
        if failure.step != last.step:
            break
        stuck += 1
    if stuck >= MOST_WITHOUT_PROGRESS:
        return Decision(False, f"{stuck} failures since the checkpoint of step {last.step}, the last: {last.line}")
    # A lost process is replaced at once; what fails again and again, or lacks room, is given time.
    doublings = stuck - 1 if last.kind == "no room" else stuck - 2
    seconds = 0.0 if doublings < 0 else min(_FIRST_WAIT * 2**doublings, _LONGEST_WAIT)
    wait = f", in {seconds:g} s" if seconds else ""
    return Decision(True, f"goes on from step {last.step}{wait}, after {last.line}", seconds)


def _said(error: BaseException) -> str:
    """What an error says: of an actor that died, which one it was and why, which Ray hides among its identifiers."""
    text = str(error)
    fields = dict(re.findall(r"^\t(\w+): (.*)$", text, re.MULTILINE))
    if not {"class_name", "pid", "ip"} <= fields.keys():
        return text
    who = f"{fields.get('name', '')} ({fields['class_name']}, process {fields['pid']} on {fields['ip']})"
    return f"{who}: {text.rpartition(fields['ip'])[2]}"


def _kind(error: BaseException) -> Kind:
    if type(error).__module__.startswith("ray."):  # of Ray's losses, one is an AssertionError as well
        return "lost"
    if isinstance(error, _REPEATABLE):
        return "repeatable"
    return "no room" if isinstance(error, OSError) and error.errno in NO_ROOM else "lost"


def _bottom(error: BaseException) -> Iterator[BaseException]:
    """The errors that Ray's wrappers wrap: one of each rank where a group of workers failed."""
    of_ranks = getattr(error, "worker_failures", None)
    # ControllerError; Ray Train's notes of a worker that died and of what one raised; RayTaskError
    names = ("controller_failure", "health_check_failure", "_base_exc", "cause")
    wrapped = (getattr(error, name, None) for name in names)
    inner = next((cause for cause in wrapped if isinstance(cause, BaseException)), None)
    if of_ranks:
        for rank in sorted(of_ranks):
            yield from _bottom(of_ranks[rank])
    elif inner is not None:
        if inner is getattr(error, "_base_exc", None):
            inner.add_note(str(error))  # the worker's traceback, which JR_DEBUG=1 shows
        yield from _bottom(inner)
    else:
        yield error
