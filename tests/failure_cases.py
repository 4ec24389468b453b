"""Failures to order: at which step, in the middle of what, which process is killed; and what must not differ."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_train import arrays_of, settings

from jr_dist.config import Config
from jr_dist.train import trainer

ROOT = Path(__file__).parent.parent
NUM_WORKERS, NUM_STEPS, STEPS_PER_EPOCH = 2, 12, 3
#: in the middle of what: the first three in any rank and at any step, the others in rank 0 at the end of an epoch
ANY_STEP = ("before the push", "half pushed", "pushed")
END_OF_EPOCH = ("refreshing", "validating", "writing", "written", "renamed")
# `distinct_recent` looks back over more steps than those since a start; the others are times.
_TIMES = ("step_seconds", "data_wait", "bank_wait", "exchange_wait", "seconds", "stages")
_OF_THE_START = ("distinct_recent", "start", *_TIMES)


@dataclass(frozen=True)
class Kill:
    """What the worker `by` does to `victim` while the run's start `start` does `phase` at `step`.

    A worker or a shard gets a SIGKILL, the disk of a shard is full from then on, and a node is left to the driver: the
    worker says that it is time (`node_due`) and goes on when the node is gone (`node_gone`).
    """

    start: int
    victim: str  # "worker R", "shard I", "disk of shard I" or "node"
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
        import errno
        import os
        import signal
        import time
        from pathlib import Path

        import numpy as np
        import ray
        import ray.train

        from jr_dist.bank.client import BankClient
        from jr_dist.train import loop, trainer
        from jr_dist.train.group import Group

        def process_of(shard: Any) -> int:
            return ray.get(shard.actor.__ray_call__.remote(lambda _: os.getpid()))

        def strike(phase: str, step: int) -> None:
            for kill in due:
                if (kill["phase"], kill["step"], kill["by"]) != (phase, step, rank):
                    continue
                victim = kill["victim"]
                if victim.startswith("disk"):
                    ray.get(settings["shards"][int(victim[-1])].actor.__ray_call__.remote(fill_disk))
                elif victim == "node":
                    (run / "node_due").touch()
                    while not (run / "node_gone").exists():
                        time.sleep(0.05)
                else:
                    os.kill(processes[victim], signal.SIGKILL)

        def fill_disk(_: Any) -> None:
            write = Path.write_bytes

            def until_full(path: Path, content: bytes) -> int:
                write(path, content[:100])
                raise OSError(errno.ENOSPC, "No space left on device", str(path))

            Path.write_bytes = until_full

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

        def save(bank: BankClient, folder: Path) -> dict[str, str]:
            hashes = originals["save"](bank, folder)
            strike("written", at[0])
            return hashes

        def symlink_to(path: Path, *arguments: Any) -> None:
            strike("renamed", at[0])
            link(path, *arguments)

        context, run = ray.train.get_context(), Path(settings["config"]["run"]["path"])
        rank = context.get_world_rank()
        due = [kill for kill in kills if kill["start"] == settings["incarnation"]]
        own = np.array([os.getpid()])
        of_ranks = Group(rank, context.get_world_size()).gather([own])
        processes = {f"worker {number}": int(pids[0][0]) for number, pids in enumerate(of_ranks)}
        processes |= {f"shard {number}": process_of(shard) for number, shard in enumerate(settings["shards"])}
        at = [-1]  # the step that was pushed for last
        originals = {name: getattr(BankClient, name) for name in ("push", "_send", "save")}
        link = Path.symlink_to
        BankClient.push, BankClient._send, BankClient.save = push, send, save
        Path.symlink_to = symlink_to
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
    """The lines of a run's log, without what depends on when it was started and how busy the machine was.

    Each start that came to its end has a line that says so, and a disk that is full may have no room for it.
    """
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["part"] != "end"]
    return [{name: value for name, value in line.items() if name not in _OF_THE_START} for line in lines]


def away_from_ray(**more: str) -> dict[str, str]:
    """The environment of a process that is to find our code and tests, one thread, and no cluster but its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**own, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **more}


def processes_of(mark: str) -> list[int]:
    """Processes of this machine that were started, by whomever, with `mark` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def children_of(parent: int) -> list[int]:
    """The processes that another one started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # "pid (name) state parent ...", and a name may hold spaces and brackets
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
    return found


def kill_tree(mark: str) -> int:
    """SIGKILL to all processes with that mark, until there is none; returns how many they were."""
    killed: set[int] = set()
    while pids := processes_of(mark):
        killed |= set(pids)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return len(killed)


def reasons_of(run: Path) -> list[str]:
    """Why each start of a run was made."""
    return [json.loads(path.read_text())["reason"] for path in sorted((run / "starts").iterdir())]


def bytes_of(run: Path) -> dict[str, bytes]:
    """Every file below a folder, where it points to or what it holds, but for the notes of starts and their report."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.parent.name != "starts"]
    files = [path for path in files if path.stem != "run-report"]
    links = [path for path in sorted(run.rglob("*")) if path.is_symlink()]
    return {str(path.relative_to(run)): path.read_bytes() for path in files} | {
        str(path.relative_to(run)): str(path.readlink()).encode() for path in links
    }


def train_on_nodes(dataset: Path, run: Path, step: int) -> None:
    """Train on a cluster of two nodes, beside a head that has room for nothing; at `step` one node is killed.

    Another comes some seconds later, without which there is no room for all shards and workers.
    """
    from ray._private import utils
    from ray.cluster_utils import Cluster

    utils.set_sigterm_handler = lambda handler: None  # only the main thread may set one, and it is busy training
    store = 100 * 2**20
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": store})
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=store) for _ in range(2)]

    def replace_node() -> None:
        while not (run / "node_due").exists():
            time.sleep(0.05)
        processes = children_of(nodes[1].all_processes["raylet"][0].process.pid)
        cluster.remove_node(nodes[1], allow_graceful=False)
        for (
            pid
        ) in processes:  # workers and shards outlive their raylet by seconds; with a machine they are gone at once
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        (run / "node_gone").touch()
        time.sleep(3)
        cluster.add_node(num_cpus=2, object_store_memory=store)
        threading.Event().wait()  # Linux ends what Ray has started with the thread that started it

    threading.Thread(target=replace_node, daemon=True).start()
    with struck_by([Kill(1, "node", "before the push", step, 0)]):
        trainer.train(on_shards(dataset, run, 3, 1, cluster__address=cluster.address))


if __name__ == "__main__":
    train_on_nodes(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))


def wait_for(driver: subprocess.Popen, num_finished: Callable[[], int], count: int) -> None:
    """Return when a running driver has finished `count` pieces of its work."""
    deadline = time.monotonic() + 300
    while num_finished() < count:
        assert driver.poll() is None, "it ended before it could be struck"
        assert time.monotonic() < deadline
        time.sleep(0.01)
