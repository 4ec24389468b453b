"""Rates of workers whose starts and ends are left out (benchmarks/workers.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from workers import steady_rate, table


def log(start: float, every: float, count: int, amount: float = 16) -> list[tuple[float, float]]:
    return [(start + every * number, amount) for number in range(1, count + 1)]


def test_what_comes_before_the_first_entry_is_not_counted():
    assert steady_rate([log(1000, 2, 10)]) == pytest.approx(8)
    assert steady_rate([[(1000, 999), *log(1000, 2, 10)]]) == pytest.approx(8)


def test_only_the_time_counts_in_which_all_are_at_work():
    fast_then_alone = log(0, 2, 10) + log(20, 1, 50)  # alone it is twice as fast
    assert steady_rate([fast_then_alone, log(0, 2, 10)]) == pytest.approx(16)
    assert steady_rate([fast_then_alone]) > 12


def test_processes_that_start_at_different_times_add_up():
    assert steady_rate([log(0, 2, 50), log(30.5, 4, 10)]) == pytest.approx(8 + 4)


def test_workers_who_share_a_log_count_from_when_all_have_begun_until_one_has_nothing_left():
    both = log(0, 1, 20)
    late, last = (-9.0, 16.0), (29.0, 16.0)
    assert steady_rate([[late, *both, last]], at_once=2) == pytest.approx(16)
    assert steady_rate([[late, *both, last]]) < 10


def test_the_time_in_which_one_may_still_be_starting_is_left_out():
    one, both = log(0, 2, 5), log(10, 1, 20)
    assert steady_rate([[*one, *both]], starting=9.0) == pytest.approx(16)
    assert steady_rate([[*one, *both]]) < 14


def test_what_comes_together_was_finished_before():
    blocks = [(second + 0.001 * file, 1.0) for second in range(0, 40, 4) for file in range(8)]
    assert steady_rate([blocks]) == pytest.approx(2)


def test_shares_are_taken_round_by_round():
    rates = {"one process": [10, 20], "two processes": [20, 40], "1 worker": [9, 18], "2 workers": [18, 30]}
    [_, _, line] = table({"train": rates})
    assert line.endswith("| 1.83 (1.67 to 2) | 0.825 (0.75 to 0.9) |")
