"""Gumbel noise from a counter: a pure function of (seed, step, target, source), whoever computes it and when."""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014): every input bit reaches every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def uniform_noise(seed: int, step: int, target_ids: np.ndarray, source_ids: np.ndarray) -> np.ndarray:
    """[B, S] float64 in (0, 1), open at both ends."""
    with np.errstate(over="ignore"):
        key = _mix(np.array([seed], np.int64).view(np.uint64) * _GOLDEN + np.uint64(1))
        key = _mix(key + np.array([step], np.int64).view(np.uint64) * _GOLDEN)
        rows = _mix(key + np.asarray(target_ids, np.int64).view(np.uint64) * _GOLDEN)
        # The target's hash is mixed again before the source comes in: ids of both are small consecutive numbers.
        bits = _mix(_mix(rows + _GOLDEN)[:, None] + np.asarray(source_ids, np.int64).view(np.uint64)[None] * _GOLDEN)
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def gumbel_noise(seed: int, step: int, target_ids: np.ndarray, source_ids: np.ndarray) -> np.ndarray:
    """[B, S] float32 standard Gumbel: -log(-log u)."""
    return -np.log(-np.log(uniform_noise(seed, step, target_ids, source_ids))).astype(np.float32)
