"""Failures to order: at which step, in the middle of what, which process is killed; and what must not differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_train import arrays_of, settings

from jr_dist.config import Config
from jr_dist.train import trainer

NUM_WORKERS, NUM_STEPS, STEPS_PER_EPOCH = 2, 12, 3
#: in the middle of what: the first three in any rank and at any step, the others in rank 0 at the end of an epoch
ANY_STEP = ("before the push", "half pushed", "pushed")
END_OF_EPOCH = ("refreshing", "validating", "writing", "written", "renamed")
# `distinct_recent` looks back over more steps than those since a start, and `bank_wait` is a time.
_OF_THE_START = ("distinct_recent", "bank_wait")


@dataclass(frozen=True)
class Kill:
    """SIGKILL to `victim`, sent by the worker `by` while the run's start `start` does `phase` at `step`."""

    start: int
    victim: str  # "worker R" or "shard I"
    phase: str
    step: int
    by: int

    def __str__(self) -> str:
        return f"{self.victim} {self.phase} at step {self.step}"


def seeded_kills(seed: int, num_shards: int, count: int = 1) -> list[Kill]:
    """`count` failures, one a start of the run, each at a later step than the one before.

    The last step is spared: what dies behind it may not be missed any more.
    """
    random = np.random.default_rng(seed)
    victims = [f"worker {rank}" for rank in range(NUM_WORKERS)] + [f"shard {number}" for number in range(num_shards)]
    kills = []
    for number in range(count):
        # Every phase, and workers as well as shards, whatever the seeds of the scenarios.
        phase = (*ANY_STEP, *END_OF_EPOCH)[(seed + 5 * number) % 8]
        anywhere = phase in ANY_STEP
        epochs = range(number * 3 // count, (number + 1) * 3 // count)
        steps = [
            step
            for step in range(epochs[0] * STEPS_PER_EPOCH, epochs[-1] * STEPS_PER_EPOCH + STEPS_PER_EPOCH)
            if anywhere or (step + 1) % STEPS_PER_EPOCH == 0
        ]
        by = int(random.integers(NUM_WORKERS)) if anywhere else 0
        kills.append(Kill(number + 1, str(random.choice(victims)), phase, int(random.choice(steps)), by))
    return kills


def on_shards(dataset: Path, run: Path, num_shards: int, lookahead: int, **overrides: Any) -> Config:
    """A short run of two workers whose bank is cut into so many shards."""
    fixed: dict[str, Any] = {
        "train__num_workers": NUM_WORKERS,
        "train__batch_size": 4,
        "train__epochs": NUM_STEPS // STEPS_PER_EPOCH,
        "train__validate_every": 1,
        "bank__num_shards": num_shards,
        "bank__block_size": 2,
        "bank__lookahead": lookahead,
    }
    return settings(dataset, run, **{**fixed, **overrides})


@contextmanager
def struck_by(kills: Sequence[Kill]) -> Iterator[None]:
    """Runs that are started inside are struck by `kills`, and log every step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_worker", _worker_with([vars(kill) for kill in kills]))
        yield


def _worker_with(kills: list[dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    # A function within a function travels to the workers whole, with what it refers to: they need not find this file.

    def worker(settings: dict[str, Any]) -> dict[str, Any]:
        import os
        import signal
        from pathlib import Path

        import numpy as np
        import ray
        import ray.train

        from jr_dist.bank.client import BankClient
        from jr_dist.train import checkpoint, loop, trainer
        from jr_dist.train.group import Group

        def process_of(shard: Any) -> int:
            return ray.get(shard.actor.__ray_call__.remote(lambda _: os.getpid()))

        def strike(phase: str, step: int) -> None:
            for kill in due:
                if (kill["phase"], kill["step"], kill["by"]) == (phase, step, rank):
                    os.kill(processes[kill["victim"]], signal.SIGKILL)

        def push(bank: BankClient, *arguments: Any) -> None:
            strike("before the push", bank.version)
            step = bank.version
            originals["push"](bank, *arguments)
            strike("pushed", step)

        def send(bank: BankClient, shard: int, work: str, *arguments: Any, **options: Any) -> Any:
            at[0] = bank.version - 1
            if work == "push" and shard == 1:
                strike("half pushed", bank.version)
            if work == "save" and shard == 1:
                strike("writing", at[0])
            answer = originals["_send"](bank, shard, work, *arguments, **options)
            if work == "set_embedding":
                strike("refreshing", at[0])
            if work == "nearest":
                strike("validating", at[0])
            return answer

        def all_here(*arguments: Any) -> None:
            check_all_here(*arguments)
            strike("written", at[0])

        def symlink_to(path: Path, *arguments: Any) -> None:
            strike("renamed", at[0])
            link(path, *arguments)

        context = ray.train.get_context()
        rank = context.get_world_rank()
        due = [kill for kill in kills if kill["start"] == settings["incarnation"]]
        own = np.array([os.getpid()])
        of_ranks = Group(rank, context.get_world_size()).gather([own])
        processes = {f"worker {number}": int(pids[0][0]) for number, pids in enumerate(of_ranks)}
        processes |= {f"shard {number}": process_of(shard) for number, shard in enumerate(settings["shards"])}
        at = [-1]  # the step that was pushed for last
        originals = {name: getattr(BankClient, name) for name in ("push", "_send")}
        check_all_here, link = checkpoint._check_all_here, Path.symlink_to
        BankClient.push, BankClient._send = push, send
        checkpoint._check_all_here, Path.symlink_to = all_here, symlink_to
        loop.LOG_EVERY = 1
        return trainer._worker(settings)

    return worker


def assert_equal_runs(run: Path, undisturbed: Path) -> None:
    """The same bits in everything that a run keeps (every code, and how often each row was updated), and one line a
    step with the same numbers."""
    found, expected = arrays_of(run), arrays_of(undisturbed)
    assert found.keys() == expected.keys()
    assert any(name.endswith("global_code.count") for name in expected)
    assert [name for name in expected if not np.array_equal(found[name], expected[name])] == []
    assert logged(run) == logged(undisturbed)


def logged(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without what depends on when it was started and how busy the machine was."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in _OF_THE_START} for line in lines]


def reasons_of(run: Path) -> list[str]:
    """Why each start of a run was made."""
    return [json.loads(path.read_text())["reason"] for path in sorted((run / "starts").iterdir())]


def bytes_of(run: Path) -> dict[str, bytes]:
    """Every file below a folder, where it points to or what it holds, but for the notes of starts."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.parent.name != "starts"]
    links = [path for path in sorted(run.rglob("*")) if path.is_symlink()]
    return {str(path.relative_to(run)): path.read_bytes() for path in files} | {
        str(path.relative_to(run)): str(path.readlink()).encode() for path in links
    }
