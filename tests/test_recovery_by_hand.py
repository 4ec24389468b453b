"""Ranks and shards without Ray, whose messages, copies and crashes are dealt by a seed: no order changes a bit."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jr_dist.bank.client import BankClient
from jr_dist.bank.desk import Request, ShardDesk, StaleIncarnationError
from jr_dist.bank.layout import BankLayout, cut
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.bank.shard import BankShard, Update
from jr_dist.data.transfer import read
from jr_dist.errors import InputError
from jr_dist.train.recovery import after_failure, failure_of
from jr_dist.train.run_directory import LAST, checkpoint_path, claim, has_checkpoint, new_checkpoint

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
        [gradients] = read(pulled.gradients())
        client.push(pulled.rows, gradients, NUM_TARGETS, Update(0.05))
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
