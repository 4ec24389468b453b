"""Recovery by hand: the policy over many histories, and runs whose messages and crashes are dealt by a seed."""

from __future__ import annotations

import errno
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.exceptions import ActorDiedError, RayTaskError, ReferenceCountingAssertionError
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from test_train import settings

from jr_dist.bank.client import BankClient
from jr_dist.bank.desk import Request, ShardDesk, StaleIncarnationError
from jr_dist.bank.layout import BankLayout, cut
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.bank.shard import BankShard, Update
from jr_dist.errors import InputError
from jr_dist.train import trainer
from jr_dist.train.recovery import MOST_WITHOUT_PROGRESS, Failure, after_failure, failure_of
from jr_dist.train.run_directory import LAST, checkpoint_path, claim, has_checkpoint, new_checkpoint

# ---- the policy ------------------------------------------------------------------------------------------------------

LOST = RuntimeError("connection closed by peer")
FULL = OSError(errno.ENOSPC, "No space left on device", "bank-000001.safetensors")
REPEATABLE = (
    InputError("checkpoint file is damaged"), FloatingPointError("loss not finite"), AssertionError("rows"),
    ValueError("shape"), TypeError("int"), KeyError("step"), ZeroDivisionError("0"), AttributeError("x"),
    ModuleNotFoundError("jr"), NotImplementedError("mps"),
)  # fmt: skip


def of_ranks(**errors: Exception) -> TrainingFailedError:
    """Errors of ranks r0, r1, ... as `fit` raises them."""
    return WorkerGroupError("text", {int(rank[1:]): error for rank, error in errors.items()})


def raised(error: Exception) -> Exception:
    """What a rank's function raised, as Ray Train hands it on."""
    return UserExceptionWithTraceback(error, "Traceback")


def of_shard(error: Exception) -> Exception:
    """What a shard raised, as a rank gets it from `ray.get`."""
    return RayTaskError("call", "Traceback", error, "ShardActor", 1, "127.0.0.1").as_instanceof_cause()


def died(error: Exception) -> Exception:
    """What Ray Train notes of a rank that no longer answers."""
    return WorkerHealthCheckFailedError("worker 1 is gone", failure=error)


@pytest.mark.parametrize("error", REPEATABLE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("wrapped", [
    lambda error: of_ranks(r0=raised(error)),
    lambda error: of_ranks(r0=raised(LOST), r1=raised(of_shard(error))),
    lambda error: of_ranks(r0=died(ActorDiedError()), r1=raised(error), r2=raised(LOST)),
    lambda error: of_ranks(r0=raised(FULL), r1=raised(of_shard(error))),
    lambda error: ControllerError(error),
], ids=["alone", "in a shard", "among losses", "beside a full disk", "in the controller"])  # fmt: skip
def test_what_would_come_again_ends_the_run_at_once_under_its_own_name(error, wrapped):
    failure = failure_of(wrapped(error), 30)
    assert failure.kind == "repeatable" and failure.cause is error
    decision = after_failure([Failure("lost", LOST, 10), failure])
    assert not decision.go_on and decision.seconds == 0
    assert type(error).__name__ in decision.reason and "\n" not in decision.reason


@pytest.mark.parametrize("wrapped", [
    of_ranks(r0=raised(LOST), r1=died(ActorDiedError())),
    of_ranks(r0=died(ActorDiedError()), r1=raised(LOST)),
    of_ranks(r0=raised(LOST), r1=raised(ActorDiedError())),
    ActorDiedError(),
], ids=["second worker", "first worker", "shard", "controller"])  # fmt: skip
def test_of_a_dead_process_and_those_that_waited_for_it_the_dead_is_named(wrapped):
    failure = failure_of(wrapped, 3)
    assert failure.kind == "lost" and isinstance(failure.cause, ActorDiedError)
    assert after_failure([failure]).go_on


def test_a_loss_that_ray_calls_an_assertion_is_a_loss():
    failure = failure_of(of_ranks(r0=raised(ReferenceCountingAssertionError("ff", None, ""))), 0)
    assert failure.kind == "lost"


def test_a_full_disk_is_found_in_a_shard_and_beside_losses():
    for error in (of_shard(FULL), FULL, OSError(errno.EDQUOT, "Disk quota exceeded")):
        failure = failure_of(of_ranks(r0=raised(LOST), r1=raised(error)), 6)
        assert failure.kind == "no room"
        assert isinstance(failure.cause, OSError) and failure.cause.errno in (errno.ENOSPC, errno.EDQUOT)
    assert failure_of(of_ranks(r0=raised(OSError(errno.EIO, "Input/output error"))), 6).kind == "lost"


def test_of_a_dead_actor_the_reason_says_which_and_why():
    class LostActorError(ActorDiedError):  # with the text of one whose process is gone, as Ray 2.60 writes it
        def __str__(self) -> str:
            return (
                "The actor died unexpectedly before finishing this task.\n\tclass_name: ShardActor\n\tactor_id: 0\n"
                "\tpid: 71\n\tname: runs/a start 1 shard 0 of 2\n\tnamespace: 46a3\n\tip: 10.0.0.2\n"
                "The actor is dead because its node has died. Node Id: 3f"
            )

    line = failure_of(of_ranks(r0=raised(LostActorError())), 0).line
    assert line == (
        "LostActorError: runs/a start 1 shard 0 of 2 (ShardActor, process 71 on 10.0.0.2): The actor is dead because "
        "its node has died. Node Id: 3f"
    )


def test_a_reason_is_one_short_line():
    failure = failure_of(RuntimeError("first\n\tsecond " + "x" * 1000), 6)
    assert failure.line.startswith("RuntimeError: first second x")
    assert len(failure.line) < 330 and "\n" not in after_failure([failure]).reason
    assert "no message" in failure_of(RuntimeError(), 6).line


@pytest.mark.parametrize("seed", range(50))
def test_losses_are_survived_for_as_long_as_something_new_is_saved(seed):
    """Any history in which no checkpoint is tried `MOST_WITHOUT_PROGRESS` times goes on, and at that many it ends."""
    random = np.random.default_rng(seed)
    kinds: list[Any] = ["lost", "no room"]
    history, step = [], 0
    for _ in range(20):
        step += int(random.integers(1, 100))
        for _ in range(int(random.integers(1, MOST_WITHOUT_PROGRESS))):
            history.append(Failure(kinds[random.integers(2)], LOST, step))
            decision = after_failure(history)
            assert decision.go_on and f"goes on from step {step}" in decision.reason
            assert 0 <= decision.seconds <= 300
    history += [Failure("lost", LOST, step + 1)] * (MOST_WITHOUT_PROGRESS - 1)
    assert after_failure(history).go_on
    decision = after_failure([*history, Failure("lost", LOST, step + 1)])
    assert not decision.go_on and f"{MOST_WITHOUT_PROGRESS} failures since the checkpoint of step" in decision.reason


def test_a_lost_process_is_replaced_at_once_and_a_full_disk_is_given_time():
    waits = {
        kind: [after_failure([Failure(kind, LOST, 6)] * times).seconds for times in range(1, MOST_WITHOUT_PROGRESS)]
        for kind in ("lost", "no room")
    }
    assert waits == {"lost": [0, 10, 20, 40, 80], "no room": [10, 20, 40, 80, 160]}


def drive(run: Path, outcomes: list[Any], steps: list[int]) -> tuple[list[str], list[float], Any]:
    """The driver of a run whose starts end as told, at those checkpoints: reasons, waits, and what came of it."""
    waits: list[float] = []

    def attempt(*arguments: Any) -> Any:
        outcome: Any = outcomes.pop(0)
        outcome = outcome() if callable(outcome) else outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_attempt", attempt)
        patch.setattr(trainer, "_check_capacity", lambda *_: None)
        patch.setattr(trainer, "saved_step", lambda run: steps.pop(0))
        patch.setattr(trainer, "time", SimpleNamespace(sleep=waits.append))
        try:
            result: Any = trainer._train_on_ray(settings(run, run), run, None, 1)
        except Exception as error:
            result = error
    reasons = [json.loads(path.read_text())["reason"] for path in sorted((run / "starts").iterdir())]
    return reasons, waits, result


def test_the_driver_starts_again_and_says_why(tmp_path, capsys):
    outcomes = [of_ranks(r0=raised(LOST), r1=died(ActorDiedError())), ActorDiedError(), {"chamfer_x100": 1.0}]
    reasons, waits, result = drive(tmp_path, outcomes, [3, 3])
    assert result == {"chamfer_x100": 1.0} and waits == [0, 10]
    assert reasons[0] == "started" and reasons[1].startswith(
        "start 1 failed; goes on from step 3, after ActorDiedError"
    )
    assert reasons[2].startswith("start 2 failed; goes on from step 3, in 10 s, after ActorDiedError")
    assert capsys.readouterr().out.splitlines() == [f"Ours: {reason}" for reason in reasons[1:]]


def test_the_driver_ends_with_the_error_that_would_come_again(tmp_path, capsys):
    damaged = InputError("checkpoint file bank-000001.safetensors is damaged; allowed is the file as it was saved")
    reasons, waits, result = drive(tmp_path, [of_ranks(r0=raised(of_shard(damaged)), r1=raised(LOST))], [6])
    assert result is damaged and waits == [] and reasons == ["started"]
    assert "not started again, since the same would happen: InputError: checkpoint file" in capsys.readouterr().out


def test_the_driver_gives_up_where_nothing_new_is_saved(tmp_path):
    lost = [of_ranks(r0=raised(LOST)) for _ in range(MOST_WITHOUT_PROGRESS)]
    reasons, waits, result = drive(tmp_path, lost, [6] * MOST_WITHOUT_PROGRESS)
    assert len(reasons) == MOST_WITHOUT_PROGRESS and waits == [0, 10, 20, 40, 80]
    assert isinstance(result, RuntimeError) and result.__cause__ is LOST
    assert f"{MOST_WITHOUT_PROGRESS} failures since the checkpoint of step 6" in str(
        result
    ) and "start it again with run.resume auto" in str(result)
    full = [of_ranks(r0=raised(of_shard(FULL))) for _ in range(MOST_WITHOUT_PROGRESS)]
    assert drive(tmp_path / "full", full, [6] * MOST_WITHOUT_PROGRESS)[1:] == ([10, 20, 40, 80, 160], FULL)


def test_a_driver_that_was_overtaken_does_not_take_the_run_back(tmp_path):
    def overtaken() -> Exception:
        claim(tmp_path, "started elsewhere")
        return of_ranks(r0=raised(LOST))

    reasons, _, result = drive(tmp_path, [overtaken], [6])
    assert reasons == ["started", "started elsewhere"]
    assert isinstance(result, InputError) and "started again (start 2) while this start, 1," in str(result)


# ---- a run by hand ---------------------------------------------------------------------------------------------------

LAYOUT = BankLayout((2, 3, 1, 4, 2, 5, 3, 1, 2), 3, 2, 4, learned_embedding=True, block_size=2, seed=5)
NUM_STEPS, SAVE_EVERY, NUM_TARGETS, NUM_CANDIDATES = 12, 3, 2, 3
CHANCE_OF_A_COPY = 0.15

# Gives None where others may do something first, and an array where it wants its mean over the ranks.
Rank = Generator[np.ndarray | None, np.ndarray | None, None]


class CrashError(RuntimeError):
    """Every process of a start is gone."""


@dataclass
class Reference:
    """A request on its way, and what became of it."""

    network: Network
    outcome: list[tuple[str, Any]] = field(default_factory=list)

    def result(self) -> Any:
        while not self.outcome:
            self.network.deliver()
        kind, value = self.outcome[0]
        if kind == "failure":
            raise value
        return value


@dataclass
class Network:
    """Messages between ranks and shards, which a seed delivers in any order, late, and sometimes twice."""

    random: np.random.Generator | None  # None: in the order of sending, once
    desks: list[ShardDesk] = field(default_factory=list)
    pending: list[tuple[int, Request, Reference, bool]] = field(default_factory=list)
    deliveries_left: float = float("inf")  # until the crash
    stale: int = 0
    copies: int = 0
    copies_refused: int = 0
    refusals: list[Exception] = field(default_factory=list)  # of ranks of earlier starts
    dead: list[Rank] = field(default_factory=list)

    def send(self, shard: int, request: Request) -> Reference:
        self.pending.append((shard, request, Reference(self), False))
        return self.pending[-1][2]

    def deliver(self) -> None:
        if not self.pending or self.deliveries_left <= 0:
            raise CrashError("whoever was asked is gone")
        self.deliveries_left -= 1
        number = 0 if self.random is None else int(self.random.integers(len(self.pending)))
        shard, request, reference, is_copy = self.pending.pop(number)
        if self.random is not None and not is_copy and self.random.random() < CHANCE_OF_A_COPY:
            self.pending.append((shard, request, Reference(self), True))
            self.copies += 1
        try:
            self.desks[shard].submit(
                request,
                lambda value: reference.outcome.append(("answer", value)),
                lambda error: reference.outcome.append(("failure", error)),
            )
        except StaleIncarnationError as error:
            self.stale += 1
            self.copies_refused += is_copy
            reference.outcome.append(("failure", error))
        except ValueError as error:
            if not is_copy:
                raise
            reference.outcome.append(("failure", error))
            self.copies_refused += 1


@dataclass(frozen=True)
class Wire:
    """A shard at the other end of the network."""

    network: Network
    shard: int

    def send(self, request: Request) -> Reference:
        return self.network.send(self.shard, request)


def rank_of_a_run(rank: int, run: Path, client: BankClient, incarnation: int) -> Rank:
    """A rank that trains a bank and one dense vector: each depends on the other, so that nothing lost stays hidden."""
    step, dense = 0, np.zeros(LAYOUT.embedding)
    if has_checkpoint(run):
        path = checkpoint_path(run, LAST).resolve()
        saved = json.loads((path / "manifest.json").read_text())
        step, dense = saved["step"], np.array(saved["dense"])
        if rank == 0:
            client.load(path, saved["files"], version=step, embedding_version=-1)
    yield np.zeros(1)  # nobody goes on before the blocks are loaded
    client.loaded(version=step, embedding_version=-1)
    while step < NUM_STEPS:
        targets = NUM_TARGETS * rank + np.arange(NUM_TARGETS)
        queries = torch.from_numpy((dense + np.sin(np.outer(targets + 1, np.arange(4) + step))).astype(np.float32))
        candidates = client.begin_propose(queries, targets, NUM_CANDIDATES, 1.0, seed=3, step=step)
        yield None
        codes = client.begin_pull(np.unique(candidates().rows))
        yield None
        pulled = codes()
        loss = sum((leaf - 0.1 * queries.mean()).square().sum() for leaf in pulled.leaves().values())
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        client.push(pulled, NUM_TARGETS, Update(0.05))
        mean = yield queries.numpy().mean(0) * float(loss.detach())
        assert mean is not None
        dense, step = dense - 0.01 * mean, step + 1
        if step % SAVE_EVERY == 0:
            if rank == 0:
                with new_checkpoint(run, step, incarnation, [LAST]) as aside:
                    yield None
                    files = client.save(aside)
                    (aside / "manifest.json").write_text(
                        json.dumps({"step": step, "dense": dense.tolist(), "files": files})
                    )
                    yield None
            yield np.zeros(1)


@dataclass
class Start:
    """The ranks of one start of a run, each stopped where it waits."""

    ranks: list[Rank]
    waiting: dict[int, np.ndarray] = field(default_factory=dict)  # for the mean of these over all ranks
    means: dict[int, np.ndarray] = field(default_factory=dict)  # not yet fetched
    done: set[int] = field(default_factory=set)

    @property
    def able(self) -> list[int]:
        """Ranks that can go on."""
        return [rank for rank in range(len(self.ranks)) if rank not in self.waiting and rank not in self.done]

    def advance(self, rank: int) -> None:
        try:
            wanted = self.ranks[rank].send(self.means.pop(rank, None))
        except StopIteration:
            self.done.add(rank)
            return
        if wanted is not None:
            self.waiting[rank] = wanted
        if len(self.waiting) == len(self.ranks):
            mean = np.mean([self.waiting[rank] for rank in range(len(self.ranks))], axis=0)
            self.waiting, self.means = {}, dict.fromkeys(self.waiting, mean)


def begin(run: Path, network: Network, num_ranks: int, num_shards: int, incarnation: int) -> Start:
    rule = RowOptimiser("adam")
    shards = [BankShard(LAYOUT, blocks, rule, num_ranks=num_ranks) for blocks in cut(LAYOUT, num_shards)]
    network.desks = [ShardDesk(shard, incarnation) for shard in shards]
    wires = [Wire(network, number) for number in range(num_shards)]
    clients = [BankClient(LAYOUT, wires, rank=rank, incarnation=incarnation) for rank in range(num_ranks)]
    return Start([rank_of_a_run(rank, run, client, incarnation) for rank, client in enumerate(clients)])


def go_through(now: Start, network: Network, ghosts: list[Rank]) -> None:
    """Let ranks, messages and what is left of earlier starts take turns until all ranks are done."""
    while able := now.able:
        turn = 0 if network.random is None else int(network.random.integers(4))
        if turn == 3 and ghosts:
            haunt(network, ghosts.pop())
        elif turn == 2 and network.pending:
            network.deliver()
        else:
            now.advance(able[0] if network.random is None else int(network.random.choice(able)))


def haunt(network: Network, ghost: Rank) -> None:
    """A rank of an earlier start, whose processes were thought dead, goes on: it gets nowhere."""
    try:
        for _ in range(3):
            if ghost.send(None) is not None:  # it waits for ranks that are no more
                return
    except (StaleIncarnationError, InputError, CrashError) as refusal:
        network.refusals.append(refusal)
    else:
        pytest.fail("a rank of an earlier start trains on")


def trained(run: Path, network: Network, num_ranks: int, num_shards: int, crashes: Iterator[int]) -> int:
    """Starts of a run by the real policy until it is done; returns how many there were."""
    failures, reason, ghosts = [], "started", []
    while True:
        incarnation = claim(run, reason)
        network.deliveries_left = next(crashes, float("inf"))
        now = begin(run, network, num_ranks, num_shards, incarnation)
        try:
            go_through(now, network, ghosts)
            return incarnation
        except CrashError as error:
            saved = checkpoint_path(run, LAST) / "manifest.json"
            failures.append(failure_of(error, json.loads(saved.read_text())["step"] if saved.is_file() else 0))
        network.dead += now.ranks  # kept as they stood: a killed process cleans nothing up
        # Those that stand where they need no other rank to go on.
        able = [now.ranks[rank] for rank in now.able if rank not in now.means]
        ghosts = [rank for rank in able if rank.gi_frame is not None]
        decision = after_failure(failures)
        assert decision.go_on
        reason = decision.reason


def state_of(network: Network) -> dict[str, np.ndarray]:
    return {
        f"{block}.{name}": values
        for desk in network.desks
        for block in desk.shard.blocks
        for name, values in desk.shard.block_state(block).items()
    }


@pytest.mark.parametrize("seed", range(24))
def test_no_crash_and_no_order_of_messages_changes_a_bit(tmp_path, seed):
    random = np.random.default_rng(seed)
    num_ranks, num_shards = 1 + seed % 3, 1 + seed % 5
    straight, dealt = Network(None), Network(random)
    assert trained(tmp_path / "straight", straight, num_ranks, 1, iter(())) == 1
    # Somewhere in the run, and then in what is left of it, however little that is: two requests a step to each shard.
    crashes = [int(random.integers(1, 2 * steps * num_ranks * num_shards)) for steps in (NUM_STEPS, SAVE_EVERY, 1)]
    crashes = crashes[: int(random.integers(1, 4))]
    assert trained(tmp_path / "dealt", dealt, num_ranks, num_shards, iter(crashes)) == len(crashes) + 1
    while dealt.pending:  # what was sent and is still on its way, from all starts
        dealt.deliver()
    found, expected = state_of(dealt), state_of(straight)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not np.array_equal(found[name], expected[name])] == []
    assert all(desk.shard.version == NUM_STEPS for desk in dealt.desks)
    assert dealt.copies_refused == dealt.copies
    assert dealt.stale > 0, "something of a dead start came late"
    manifests = [checkpoint_path(tmp_path / name, LAST) / "manifest.json" for name in ("dealt", "straight")]
    assert manifests[0].read_text() == manifests[1].read_text()
