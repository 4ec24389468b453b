"""The jobs of `blocks` on a Ray cluster: actors take one after another, and one that dies is replaced.

Results come back to the process that asked for them, which alone writes files: the other machines of a cluster need not
see its disk, and an actor that was given up can't write any more.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from jr_dist.blocks import Job, Work
from jr_dist.cluster import connect, is_own_cluster
from jr_dist.cluster_room import cluster_nodes, wait_for_room
from jr_dist.config import ClusterConfig
from jr_dist.errors import InputError
from jr_dist.log import say
from jr_dist.placement import Ask, of_measuring, room

MOST_ATTEMPTS = 3
_REMEDY = "lower num_gpus, add machines, or set num_workers 0"
_SECONDS_BETWEEN_LINES = 15.0


class BlockActor:
    """Work in a process of its own. One thread of computation: the bits then don't depend on the machine's size."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def prepare(self, made_of: tuple[Callable[..., Work], tuple[Any, ...]]) -> None:
        """Make the work; comes before any task."""
        make_work, arguments = made_of
        self._work = make_work(*arguments)

    def result(self, task: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What a task's block holds."""
        return dict(self._work(task))


def run_on_actors(
    make_work: Callable[..., Work],
    arguments: tuple[Any, ...],
    jobs: Sequence[Job],
    keep: Callable[[Job, Mapping[str, np.ndarray]], None],
    *,
    num_workers: int,
    num_gpus: float,
    cluster: ClusterConfig,
) -> None:
    """Hand the result of every job to `keep`, in the order in which they are ready.

    `arguments` go into the object store once. There are never more actors than jobs, nor, on a cluster of this machine,
    than it has room for; on one that was joined those that find no room wait while the others work. A job whose actor
    dies is given to a new one. Raises what `make_work` or a job raises, `InputError` where no machine of the cluster
    has room for an actor, and `RuntimeError` where a job or the making of the work ends its process `MOST_ATTEMPTS`
    times.
    """
    if num_gpus > 1 and num_gpus % 1:
        raise InputError(f"num_gpus is {num_gpus:g}; allowed is a share of one GPU, 0 to 1, or a whole number of them")
    with connect(cluster):
        ask = of_measuring(min(num_workers, len(jobs)), num_gpus)
        wait_for_room(cluster, [ask], subject="the actors that measure", remedy=_REMEDY)
        num_actors = min(ask.count, room(cluster_nodes(), ask)) if is_own_cluster(cluster) else ask.count
        team = _Team(ray.put((make_work, arguments)), ask)
        try:
            team.run(jobs, keep, num_actors)
        finally:
            team.end()


class _Team:
    """Actors, and what each of them is at."""

    def __init__(self, made_of: Any, ask: Ask) -> None:
        self._made_of, self._ask = made_of, ask
        self._class = ray.remote(max_restarts=0, max_task_retries=0, **ask.options)(BlockActor)
        self._actors: set[Any] = set()
        self._running: dict[Any, tuple[Any, Job | None]] = {}  # answer awaited -> who gives it, and to what

    def run(self, jobs: Sequence[Job], keep: Callable[[Job, Mapping[str, np.ndarray]], None], num_actors: int) -> None:
        waiting, num_left = deque(jobs), len(jobs)
        attempts, failed_starts = Counter[str](), 0
        for _ in range(num_actors):
            self._start()
        while num_left:  # an actor that has found no room by then is not waited for
            answer = self._next_answer()
            actor, job = self._running.pop(answer)
            try:
                result: Any = ray.get(answer)
            except RayTaskError as error:
                raise _cause(error, job) from None
            except RayError as error:
                self._end(actor)  # it may live on, out of reach
                if job is None:
                    failed_starts += 1
                    _check_attempts("the making of the work", failed_starts, error)
                else:
                    attempts[job.name] += 1
                    _check_attempts(f"block {job.name}", attempts[job.name], error)
                    waiting.appendleft(job)
                if waiting:
                    self._start()
                continue
            if waiting:
                following = waiting.popleft()
                self._running[actor.result.remote(dict(following.task))] = actor, following
            else:
                self._end(actor)
            if job is None:
                failed_starts = 0
            else:
                keep(job, result)
                num_left -= 1

    def end(self) -> None:
        """End all processes."""
        for actor in list(self._actors):
            self._end(actor)

    def _start(self) -> None:
        actor = self._class.remote()
        self._actors.add(actor)
        self._running[actor.prepare.remote(self._made_of)] = actor, None

    def _end(self, actor: Any) -> None:
        ray.kill(actor)
        self._actors.remove(actor)

    def _next_answer(self) -> Any:
        started = time.monotonic()
        while True:
            ready, _ = ray.wait(list(self._running), timeout=_SECONDS_BETWEEN_LINES)
            if ready:
                return ready[0]
            if any(job for _, job in self._running.values()):
                continue
            # there is room for one when nothing else runs: what is busy is waited for
            seconds = time.monotonic() - started
            _say(f"none of {len(self._running)} actors up after {seconds:.0f} s: the cluster is busy; {self._ask}")


def _check_attempts(what: str, count: int, error: RayError) -> None:
    reason = textwrap.shorten(str(error).strip().splitlines()[-1], 300, placeholder="...")
    if count >= MOST_ATTEMPTS:
        raise RuntimeError(
            f"{what} ended its process {count} times, the last: {reason} The blocks that are finished are kept: mend "
            "the cause (too little memory for so many workers, a crash in compiled code) and run it again"
        ) from error
    _say(f"{what} is tried again, {count} of {MOST_ATTEMPTS} attempts failed: {reason}")


def _cause(error: RayTaskError, job: Job | None) -> BaseException:
    """What was raised in the actor, with its traceback there as a note."""
    cause = getattr(error, "cause", None)
    if not isinstance(cause, BaseException):
        return error
    cause.add_note(f"in block {job.name}: {error}" if job else str(error))
    return cause


def _say(line: str) -> None:
    say(f"blocks: {line}", level="warning", stream=sys.stderr)
