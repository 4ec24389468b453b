"""The policy of recovery over many histories, and the driver that follows it."""

from __future__ import annotations

import errno
import json
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

from jr_dist.errors import InputError
from jr_dist.train import trainer
from jr_dist.train.recovery import MOST_WITHOUT_PROGRESS, Failure, after_failure, failure_of
from jr_dist.train.run_directory import claim

LOST = RuntimeError("connection closed by peer")
FULL = OSError(errno.ENOSPC, "No space left on device", "bank-000001.safetensors")
REPEATABLE = (
    InputError("checkpoint file is damaged"), FloatingPointError("loss not finite"), AssertionError("rows"),
    ValueError("shape"), TypeError("int"), KeyError("step"), ZeroDivisionError("0"), AttributeError("x"),
    ModuleNotFoundError("jr"), NotImplementedError("mps"), torch.OutOfMemoryError("CUDA out of memory"),
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
        asked: Any = SimpleNamespace(wait=waits.append)  # SIGTERM never comes: the wait ends and says None
        try:
            result: Any = trainer._train_on_ray(settings(run, run), run, None, 1, asked, None)
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
