"""The order of the training targets: a pure function of seed, epoch, step, rank and world size.

Nothing is remembered, so a run resumes in the middle of an epoch, and W workers with batches of B see what one worker
with batches of W * B sees.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def steps_per_epoch(num_targets: int, batch_size: int, world_size: int = 1) -> int:
    """Full batches over all workers in an epoch; 0 where the targets do not fill one.

    What is left over (fewer than batch_size * world_size targets) is other targets in every epoch.
    """
    return num_targets // (batch_size * max(world_size, 1))


def batch_indices(
    num_targets: int, batch_size: int, *, seed: int, epoch: int, step: int, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """Target rows (batch_size,) int64 of one rank in `step` of `epoch`, counted from 0 in each epoch."""
    assert 0 <= rank < world_size, (rank, world_size)
    assert 0 <= step < steps_per_epoch(num_targets, batch_size, world_size), (step, num_targets, batch_size)
    start = (step * world_size + rank) * batch_size
    return _permutation(num_targets, seed, epoch)[start : start + batch_size].copy()


def global_batch_indices(
    num_targets: int, batch_size: int, *, seed: int, step: int, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """`batch_indices` of a step counted over all epochs."""
    epoch, within = divmod(step, steps_per_epoch(num_targets, batch_size, world_size))
    return batch_indices(num_targets, batch_size, seed=seed, epoch=epoch, step=within, rank=rank, world_size=world_size)


@lru_cache(maxsize=4)
def _permutation(num_targets: int, seed: int, epoch: int) -> np.ndarray:
    # Ranks of raw PCG64 numbers: that stream is fixed for good, while numpy may change how it shuffles.
    raw = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(num_targets)
    order = np.argsort(raw, kind="stable")
    order.setflags(write=False)
    return order
