"""Progress: rate and time left from a clock of our own; lines are few, greppable, and the last one is never lost."""

from __future__ import annotations

import io
import itertools
import re

import pytest

from jr_dist.progress import SECONDS_BETWEEN_LINES, STEPS_OF_RATE, duration, progress, shown

LINE = re.compile(r"^train step (\d+)/(\d+)( \w+=\S+)* rate=\S+/s left=(\?|[\d:]+)$")


class Clock:
    """Time that passes when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def report(total: int, seconds_a_step: float, *, done: int = 0, steps: int | None = None, stream=None) -> str:
    """What is printed for `steps` steps (all that are left) of equal length."""
    stream, clock = stream or io.StringIO(), Clock()
    with progress("train", total, done=done, stream=stream, clock=clock) as state:
        for _ in range(total - done if steps is None else steps):
            clock.now += seconds_a_step
            state.advance(loss=0.25)
    return stream.getvalue()


@pytest.mark.parametrize("seconds_a_step", [0.01, 1.0, 7.0])
def test_lines_are_at_least_seconds_apart_and_the_last_one_is_printed(seconds_a_step):
    lines = report(400, seconds_a_step).splitlines()
    assert all(LINE.match(line) for line in lines)
    assert lines[-1].startswith("train step 400/400 loss=0.25 ")
    assert lines[-1].endswith("left=0:00")
    steps = [int(line.split()[2].partition("/")[0]) for line in lines]
    assert steps == sorted(set(steps))
    # Whatever the last line's distance: it is printed when the job ends.
    gaps = [(after - before) * seconds_a_step for before, after in itertools.pairwise(steps[:-1])]
    assert all(gap >= SECONDS_BETWEEN_LINES * 0.999 for gap in gaps)


def test_an_interrupted_job_prints_how_far_it_came():
    assert report(100, 0.01, steps=7).splitlines()[-1].startswith("train step 7/100 ")


def test_rate_and_time_left_are_those_of_the_last_steps():
    clock = Clock()
    with progress("train", 1000, stream=io.StringIO(), clock=clock) as state:
        assert state.seconds_left is None
        clock.now += 60  # the first step compiles
        state.advance()
        for _ in range(STEPS_OF_RATE):
            clock.now += 0.5
            state.advance()
        assert state.rate == pytest.approx(2.0)
        assert state.seconds_left == pytest.approx((1000 - 1 - STEPS_OF_RATE) / 2)


def test_a_resumed_job_does_not_count_earlier_work_into_its_rate():
    assert "train step 150/200 " in report(200, 1.0, done=100, steps=50)
    assert "rate=1/s" in report(200, 1.0, done=100, steps=50).splitlines()[-1]


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown_on_terminal = report(20, 1.0, stream=Terminal())
    assert "━" in shown_on_terminal
    assert "20/20" in shown_on_terminal


def test_a_job_of_one_unit_is_not_reported():
    assert report(1, 60.0) == ""


def test_durations_and_numbers():
    assert [duration(s) for s in (0, 7.4, 754, 3723)] == ["0:00", "0:07", "12:34", "1:02:03"]
    assert [shown(value) for value in (0.123456, 12345.6, 3, "x", 1e-9)] == ["0.123", "1.23e+04", "3", "x", "1e-09"]
