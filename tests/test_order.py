"""The order of targets: permutations, the same for any number of workers, different in every epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jr_dist.data.order import batch_indices, global_batch_indices, steps_per_epoch

sizes = st.tuples(st.integers(1, 200), st.integers(1, 12), st.integers(1, 5)).filter(lambda x: x[0] >= x[1] * x[2])
seeds = st.integers(0, 2**40)


def epoch_of(size: tuple[int, int, int], seed: int, epoch: int) -> np.ndarray:
    """[steps, ranks, B]"""
    num_targets, batch_size, world_size = size
    return np.array(
        [
            [
                batch_indices(
                    num_targets, batch_size, seed=seed, epoch=epoch, step=step, rank=rank, world_size=world_size
                )
                for rank in range(world_size)
            ]
            for step in range(steps_per_epoch(num_targets, batch_size, world_size))
        ]
    )


@given(sizes, seeds, st.integers(0, 5))
def test_an_epoch_visits_no_target_twice_and_leaves_less_than_a_step_over(size, seed, epoch):
    num_targets, batch_size, world_size = size
    seen = epoch_of(size, seed, epoch).ravel()
    assert seen.dtype == np.int64
    assert len(np.unique(seen)) == len(seen)
    assert set(seen) <= set(range(num_targets))
    assert num_targets - len(seen) < batch_size * world_size


@given(sizes, seeds)
def test_many_workers_see_what_one_with_a_large_batch_sees(size, seed):
    num_targets, batch_size, world_size = size
    together = epoch_of((num_targets, batch_size * world_size, 1), seed, 0)
    np.testing.assert_array_equal(epoch_of(size, seed, 0).reshape(together.shape), together)


@given(st.integers(1, 60), seeds)
def test_batches_of_one_are_a_permutation(num_targets, seed):
    assert sorted(epoch_of((num_targets, 1, 1), seed, 3).ravel()) == list(range(num_targets))


def test_epochs_and_seeds_differ():
    first = epoch_of((100, 10, 1), 0, 0)
    assert not np.array_equal(first, epoch_of((100, 10, 1), 0, 1))
    assert not np.array_equal(first, epoch_of((100, 10, 1), 1, 0))


def test_the_leftover_moves_on():
    """7 of 23 targets are left over in an epoch; over some epochs each target has its turn, about equally often."""
    visits = np.zeros(23)
    for epoch in range(300):
        np.add.at(visits, epoch_of((23, 8, 2), 0, epoch).ravel(), 1)
    expected = 300 * 16 / 23
    assert np.abs(visits - expected).max() < 5 * np.sqrt(300 * (16 / 23) * (7 / 23))


@given(sizes, seeds, st.integers(0, 300))
def test_steps_counted_over_all_epochs(size, seed, step):
    num_targets, batch_size, world_size = size
    epoch, within = divmod(step, steps_per_epoch(*size))
    for rank in range(world_size):
        np.testing.assert_array_equal(
            global_batch_indices(num_targets, batch_size, seed=seed, step=step, rank=rank, world_size=world_size),
            batch_indices(
                num_targets, batch_size, seed=seed, epoch=epoch, step=within, rank=rank, world_size=world_size
            ),
        )


def test_the_order_is_fixed_for_good():
    """A checkpoint's place in the data means the same in every release."""
    assert batch_indices(10, 5, seed=7, epoch=2, step=1).tolist() == [7, 1, 3, 9, 2]


def test_the_answer_is_the_callers_own():
    batch_indices(10, 5, seed=0, epoch=0, step=0)[:] = -1
    assert batch_indices(10, 5, seed=0, epoch=0, step=0).min() >= 0


def test_too_few_targets():
    assert steps_per_epoch(15, 8, 2) == 0
    assert steps_per_epoch(16, 8, 2) == 1
    with pytest.raises(AssertionError):
        batch_indices(15, 8, seed=0, epoch=0, step=0, rank=0, world_size=2)
