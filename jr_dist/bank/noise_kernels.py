"""The noise of noise.py compiled, lists of the k best, and the k best of uniform noise.

Each thread has a list of its own. What is best is a total order of (score, id), so the merged lists don't depend on
which thread saw which rows, and skipping what is below the last of a list changes nothing.
"""

import math

import numpy as np
from numba import uint32

from jr_dist.bank.scan_lanes import GOLDEN, MIX, less_bits, mixed
from jr_dist.geometry.simd import LANES, bits, compiled, lowest_bit

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "710ebbad1b418684"

#: the id in a place of a list that nothing has taken
NO_SOURCE = np.iinfo(np.int64).max

_ALL = np.uint32(0xFFFF)
_GOLDEN = np.uint64(GOLDEN)
_SHIFTS = np.array([shift for shift, _ in MIX], np.uint64)
_FACTORS = np.array([factor for _, factor in MIX], np.uint64)
#: the lowest bits of a hash have no part in u
_UNUSED = np.uint64(12)


@compiled
def _mix(value):
    for i in range(2):
        value = (value ^ (value >> _SHIFTS[i])) * _FACTORS[i]
    return value ^ (value >> np.uint64(31))


@compiled
def target_keys(seed, step, target_ids):
    """What the hash of each target comes to before a source is added, [B] uint64; see noise.uniform_noise."""
    key = _mix(_mix(np.uint64(seed) * _GOLDEN + np.uint64(1)) + np.uint64(step) * _GOLDEN)
    keys = np.empty(len(target_ids), np.uint64)
    for b in range(len(target_ids)):
        keys[b] = _mix(_mix(key + np.uint64(target_ids[b]) * _GOLDEN) + _GOLDEN)
    return keys


@compiled
def gumbel(key, source):
    """noise.gumbel_noise of one pair, float32."""
    number = _mix(key + np.uint64(source) * _GOLDEN) >> _UNUSED
    return np.float32(-math.log(-math.log((np.float64(number) + 0.5) * 2.0**-52)))


@compiled
def insert(scores, ids, score, source):
    """Into a list with the best first, of equal ones the smaller id, unless it is worse than all in it."""
    at = len(ids) - 1
    if score < scores[at] or (score == scores[at] and source > ids[at]):
        return
    while at > 0 and (score > scores[at - 1] or (score == scores[at - 1] and source < ids[at - 1])):
        scores[at], ids[at] = scores[at - 1], ids[at - 1]
        at -= 1
    scores[at], ids[at] = score, source


@compiled
def uniform_block(keys, num_targets, numbers, ids, own, start, stop):
    """Sources start:stop into list `own` of numbers [T, B, k] and ids: those of the largest 52-bit numbers."""
    limits = np.empty(len(keys), np.uint64)
    for b in range(num_targets):
        limits[b] = numbers[own, b, -1] << _UNUSED
    for source in range(start, stop):
        number = np.uint64(source) * _GOLDEN
        for begin in range(0, num_targets, LANES):
            survivors = bits(less_bits(mixed(keys, begin, number), limits, begin)) ^ _ALL
            survivors &= _ALL >> np.uint32(LANES - min(LANES, num_targets - begin))
            while survivors != 0:
                b = begin + lowest_bit(survivors)
                survivors &= survivors - uint32(1)
                insert(numbers[own, b], ids[own, b], _mix(keys[b] + number) >> _UNUSED, source)
                limits[b] = numbers[own, b, -1] << _UNUSED
    return 0
