"""The desk of a shard by hand: whatever the order in which requests come, each is served once, in its turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from jr_dist.bank.desk import Request, ShardDesk, StaleIncarnationError
from jr_dist.bank.layout import BankLayout
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.bank.shard import BankShard, Update

LAYOUT = BankLayout((2, 1, 3, 2, 1), 3, 2, 4, learned_embedding=True, block_size=2, seed=1)
NUM_STEPS = 5


@dataclass
class Caller:
    """What became of the requests of all ranks."""

    desk: ShardDesk
    answers: dict[tuple[int, int], Any] = field(default_factory=dict)
    failures: dict[tuple[int, int], Exception] = field(default_factory=dict)
    order: list[tuple[int, int]] = field(default_factory=list)

    def send(self, request: Request) -> None:
        key = (request.rank, request.number)

        def answer(value: Any) -> None:
            assert key not in self.answers, f"{key} answered twice"
            self.answers[key] = value
            self.order.append(key)

        self.desk.submit(request, answer, lambda error: self.failures.update({key: error}))


def caller_of(num_ranks: int, incarnation: int = 1) -> Caller:
    shard = BankShard(LAYOUT, range(LAYOUT.num_blocks), RowOptimiser("adam"), num_ranks=num_ranks)
    return Caller(ShardDesk(shard, incarnation))


def push(rank: int, number: int, step: int, value: float = 1.0, incarnation: int = 1) -> Request:
    rows = np.array([rank, 4])
    gradients = {"global_code": np.full((2, 3), value, np.float32)}
    return Request(incarnation, rank, number, step, "push", (step, rank, rows, gradients, 4, Update(0.1)))


def pull(rank: int, number: int, version: int, incarnation: int = 1) -> Request:
    return Request(incarnation, rank, number, version, "pull", (np.arange(5),))


def requests_of(rank: int) -> list[Request]:
    """A pull and a push a step, as a worker sends them."""
    value = np.random.default_rng(rank).normal(size=NUM_STEPS)
    return [
        request
        for step in range(NUM_STEPS)
        for request in (pull(rank, 2 * step, step), push(rank, 2 * step + 1, step, value[step]))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_no_order_of_arrival_changes_an_answer(seed):
    num_ranks = 1 + seed % 4
    requests = [request for rank in range(num_ranks) for request in requests_of(rank)]
    straight, shuffled = caller_of(num_ranks), caller_of(num_ranks)
    for request in sorted(requests, key=lambda request: (request.version, request.number, request.rank)):
        straight.send(request)
    for number in np.random.default_rng(seed).permutation(len(requests)):
        shuffled.send(requests[number])
    assert straight.answers.keys() == shuffled.answers.keys() == {(each.rank, each.number) for each in requests}
    assert not straight.failures and not shuffled.failures
    for key, answer in straight.answers.items():
        if answer is not None:
            assert all(np.array_equal(answer[name], shuffled.answers[key][name]) for name in answer), key
    for rank in range(num_ranks):
        assert [number for who, number in shuffled.order if who == rank] == list(range(2 * NUM_STEPS))
    assert shuffled.desk.shard.version == NUM_STEPS


def test_a_request_waits_for_those_before_it_and_for_its_step():
    caller = caller_of(num_ranks=2)
    caller.send(push(0, 1, 0))  # overtook request 0
    caller.send(pull(1, 0, 1))  # the codes after a step that nobody has pushed for yet
    assert caller.order == []
    caller.send(pull(0, 0, 0))
    assert caller.order == [(0, 0), (0, 1)]
    # Rank 1 asks for step 1 before it has pushed for step 0: it waits behind itself, as a wrong program would.
    caller.send(push(1, 1, 0))
    assert caller.order == [(0, 0), (0, 1)]


def test_of_several_that_can_be_served_the_first_rank_goes_first():
    caller = caller_of(num_ranks=3)
    for rank in (2, 1, 0):
        caller.send(push(rank, 0, 0))
        caller.send(pull(rank, 1, 1))
    assert caller.order == [(2, 0), (1, 0), (0, 0), (1, 1), (2, 1), (0, 1)]


def test_a_push_from_before_a_failure_is_refused_and_leaves_no_trace():
    caller = caller_of(num_ranks=1, incarnation=2)
    before = {name: table.copy() for name, table in caller.desk.shard.tables.items()}
    for incarnation in (0, 1, 3):
        with pytest.raises(StaleIncarnationError, match=f"push of start {incarnation} to a shard of start 2"):
            caller.send(push(0, 0, 0, incarnation=incarnation))
    assert all(np.array_equal(before[name], table) for name, table in caller.desk.shard.tables.items())
    caller.send(push(0, 0, 0, incarnation=2))  # its number is still free
    assert caller.desk.shard.version == 1 and not caller.failures


@pytest.mark.parametrize("served", [True, False])
def test_a_request_that_comes_twice_is_refused(served):
    caller = caller_of(num_ranks=1 if served else 2)
    first = push(0, 0, 0) if served else pull(0, 0, 1)
    caller.send(first)
    assert ((0, 0) in caller.answers) == served
    with pytest.raises(ValueError, match="request 0 of rank 0 came twice"):
        caller.send(first)
    assert caller.desk.shard.version == int(served)


def test_a_push_sent_again_under_a_new_number_is_applied_once():
    once, again = caller_of(num_ranks=2), caller_of(num_ranks=2)
    for caller in (once, again):
        caller.send(push(0, 0, 0))
    again.send(push(0, 1, 0))
    for caller in (once, again):
        caller.send(push(1, 0, 0))
    assert once.desk.shard.version == again.desk.shard.version == 1
    assert (once.desk.shard.slots["global_code"]["count"] == again.desk.shard.slots["global_code"]["count"]).all()
    assert np.array_equal(once.desk.shard.tables["global_code"], again.desk.shard.tables["global_code"])


def test_what_fails_is_told_to_its_caller_and_the_next_is_served():
    caller = caller_of(num_ranks=1)
    caller.send(pull(0, 1, 0))
    caller.send(Request(1, 0, 0, 0, "pull", (np.array([5]),)))
    assert "rows of another shard" in str(caller.failures[0, 0])
    assert caller.order == [(0, 1)]


def test_a_request_for_a_step_that_is_over_fails():
    caller = caller_of(num_ranks=1)
    caller.send(push(0, 0, 0))
    caller.send(pull(0, 1, 0))
    assert "asks for step 0, the shard is at 1" in str(caller.failures[0, 1])
