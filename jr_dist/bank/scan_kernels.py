"""The compiled loops of the scan: sixteen targets in lanes, the rows of the copy streamed past them once.

Per block of rows: d^2 of 16 targets, eight rows side by side so that their sums hide each other's latency; the largest
logit; then sum exp and the Gumbel draw in one pass. A source enters the k best only if its noise g >= floor - logit,
and 1 - u <= -log u = exp(-g), so only if 1 - u <= exp(logit - floor). That is compared with exp replaced by something
slightly larger (see `_more_than_exp`), and only the few survivors pay for two logarithms.

Every number of a row and a target comes from that row and that target by one sequence of roundings, and lists merge to
the same best whatever rows went into which. So neither blocks nor threads nor floors can change an answer.
"""

import math

import numpy as np
from numba import uint32

from jr_dist.bank.noise_kernels import gumbel, insert
from jr_dist.bank.scan_lanes import (
    GOLDEN,
    add,
    broadcast,
    divide,
    from_above,
    mixed,
    multiply_subtract,
    prefetch,
    scaled,
    with_bits,
)
from jr_dist.geometry.simd import (
    LANES,
    bits,
    compiled,
    less,
    load,
    lowest_bit,
    maximum,
    minimum,
    multiply_add,
    splat,
    store,
    subtract,
)

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "d4f9013cc2f8697c"

#: rows whose sums run side by side, and those of a block, which stays in the cache for all targets
SIDE_BY_SIDE, BLOCK = 8, 256
#: floats between what is read and what is asked for, 16 kB
AHEAD = 4096

_ALL = np.uint32(0xFFFF)
_GOLDEN = np.uint64(GOLDEN)
_ZERO, _ONE = np.float32(0), np.float32(1)
#: exp below this is as good as 0, and above it a normal number
_LOWEST = np.float32(-87)
_LOG2_E = np.float32(1 / math.log(2))
_LN2_HIGH = np.float32(0.693359375)  # few bits: n times it is exact
_LN2_LOW = np.float32(math.log(2) - 0.693359375)
_ROUNDER = np.float32(1.5 * 2**23)
_TAYLOR = tuple(np.float32(1 / math.factorial(n)) for n in range(8))
_EXPONENT = np.float32(2**23)
_BIAS = np.float32((127 + 31) * 2**23)


# ---- distances ---------------------------------------------------------------------------------


@compiled
def _add_square(copy, at, target, total):
    """total + (w_j t_j - w_j s_j)^2, of the row whose w_j lies at `at`."""
    difference = multiply_subtract(broadcast(copy, at), target, broadcast(copy, at + SIDE_BY_SIDE))
    return multiply_add(difference, difference, total)


@compiled
def _block_distances(copy, first, stop, queries, distances):
    """d^2 of rows first:stop to 16 targets, [stop - first, 16] flat, and of what fills up the last eight.

    copy: [R / 8, D, 2, 8] flat (see scan.ScanCopy); queries: [D, 16] flat; first: a multiple of 8.
    """
    for row in range(first, stop, SIDE_BY_SIDE):
        d0 = d1 = d2 = d3 = d4 = d5 = d6 = d7 = splat(_ZERO)
        at = row * (len(queries) // LANES) * 2
        for j in range(0, len(queries), LANES):
            prefetch(copy, at + AHEAD)
            target = load(queries, j)
            d0 = _add_square(copy, at, target, d0)
            d1 = _add_square(copy, at + 1, target, d1)
            d2 = _add_square(copy, at + 2, target, d2)
            d3 = _add_square(copy, at + 3, target, d3)
            d4 = _add_square(copy, at + 4, target, d4)
            d5 = _add_square(copy, at + 5, target, d5)
            d6 = _add_square(copy, at + 6, target, d6)
            d7 = _add_square(copy, at + 7, target, d7)
            at += 2 * SIDE_BY_SIDE
        to = (row - first) * LANES
        store(distances, to, d0)
        store(distances, to + LANES, d1)
        store(distances, to + 2 * LANES, d2)
        store(distances, to + 3 * LANES, d3)
        store(distances, to + 4 * LANES, d4)
        store(distances, to + 5 * LANES, d5)
        store(distances, to + 6 * LANES, d6)
        store(distances, to + 7 * LANES, d7)


@compiled
def distance_blocks(copy, queries, result, start, stop):
    """d^2 [B, R] of blocks start:stop. queries: [G, D * 16], of which the first B columns count."""
    distances = np.empty(BLOCK * LANES, np.float32)
    for first in range(start * BLOCK, min(stop * BLOCK, result.shape[1]), BLOCK):
        end = min(first + BLOCK, result.shape[1])
        for group in range(len(queries)):
            _block_distances(copy, first, end, queries[group], distances)
            for b in range(group * LANES, min(group * LANES + LANES, len(result))):
                for row in range(first, end):
                    result[b, row] = distances[(row - first) * LANES + b % LANES]
    return 0


# ---- the draw ----------------------------------------------------------------------------------


@compiled
def _floor(score):
    """Less than `score` by more than all roundings of a comparison with it."""
    return np.float32(score - (abs(score) * np.float32(2.0**-22) + np.float32(1e-4)))


@compiled
def _exp(x):
    """exp of x in [-87, 0], to 2e-7."""
    exponent = multiply_add(x, splat(_LOG2_E), splat(_ROUNDER))
    n = subtract(exponent, splat(_ROUNDER))
    r = multiply_subtract(n, splat(-_LN2_LOW), multiply_subtract(n, splat(_LN2_HIGH), x))
    value = splat(_TAYLOR[7])
    value = multiply_add(value, r, splat(_TAYLOR[6]))
    value = multiply_add(value, r, splat(_TAYLOR[5]))
    value = multiply_add(value, r, splat(_TAYLOR[4]))
    value = multiply_add(value, r, splat(_TAYLOR[3]))
    value = multiply_add(value, r, splat(_TAYLOR[2]))
    value = multiply_add(value, r, splat(_ONE))
    value = multiply_add(value, r, splat(_ONE))
    return scaled(value, exponent)


@compiled
def _more_than_exp(x):
    """2^31 exp(min(x, 0)) or up to 6 % more: x / log 2 put into a float's exponent runs linearly between powers of 2,
    and exp is convex. Below -87 as at -87."""
    x = minimum(maximum(x, splat(_LOWEST)), splat(_ZERO))
    return with_bits(multiply_add(x, splat(np.float32(_LOG2_E * _EXPONENT)), splat(_BIAS)))


# ---- some blocks a call ------------------------------------------------------------------------


@compiled
def scan_blocks(copy, source_ids, queries, keys, divisor, num_targets, found, own, start, stop):
    """Blocks start:stop of rows into list `own` of `found` (scan._Found); 0, or 1 where a logit is not finite.

    copy: [R / 8, D, 2, 8] flat; queries: [G, D * 16]; keys: [G * 16]; divisor: -sigma0^2, float32.
    """
    logits = np.empty(BLOCK * LANES, np.float32)
    floors = np.empty(len(keys), np.float32)
    for b in range(num_targets):
        floors[b] = _floor(found.scores[own, b, -1])
    for block in range(start, stop):
        first, end = block * BLOCK, min((block + 1) * BLOCK, len(source_ids))
        for group in range(len(queries)):
            begin = group * LANES
            _block_distances(copy, first, end, queries[group], logits)
            if not _to_logits(logits, end - first, divisor, found.tops[block], begin):
                return 1
            _draw_block(logits, source_ids, first, end, keys, floors, found, own, begin, num_targets)
    return 0


@compiled
def _to_logits(distances, count, divisor, tops, begin):
    """d^2 -> -d^2 / sigma0^2 in place, the largest into `tops`; whether all are finite."""
    top, check = splat(np.float32(-np.inf)), splat(_ZERO)
    for at in range(0, count * LANES, LANES):
        logit = divide(load(distances, at), splat(divisor))
        store(distances, at, logit)
        top = maximum(top, logit)
        check = multiply_add(logit, splat(_ZERO), check)  # 0, or NaN once any is NaN or infinite
    store(tops, begin, top)
    return bits(less(check, splat(_ONE))) == _ALL


@compiled
def _draw_block(logits, source_ids, first, end, keys, floors, found, own, begin, num_targets):
    """Of a block: sum exp and the mean, relative to its largest logit; what enters the lists; the nearest."""
    block, count = first // BLOCK, min(LANES, num_targets - begin)
    real = _ALL >> np.uint32(LANES - count)
    top = load(found.tops[block], begin)
    total = weighted = splat(_ZERO)
    for i in range(end - first):
        logit = load(logits, i * LANES)
        below = maximum(subtract(logit, top), splat(_LOWEST))
        weight = _exp(below)
        total = add(total, weight)
        weighted = multiply_add(weight, below, weighted)
        source = source_ids[first + i]
        noise = from_above(mixed(keys, begin, np.uint64(source) * _GOLDEN))
        survivors = (bits(less(_more_than_exp(subtract(logit, load(floors, begin))), noise)) ^ _ALL) & real
        while survivors != 0:
            lane = lowest_bit(survivors)
            survivors &= survivors - uint32(1)
            b = begin + lane
            scores = found.scores[own, b]
            insert(scores, found.ids[own, b], logits[i * LANES + lane] + gumbel(keys[b], source), source)
            floors[b] = max(floors[b], _floor(scores[-1]))
    store(found.totals[block], begin, total)
    store(found.weighted[block], begin, weighted)
    for lane in range(count):
        best = found.tops[block, begin + lane]
        if best >= found.nearest_scores[own, begin + lane]:
            for i in range(end - first):
                if logits[i * LANES + lane] == best:
                    insert(
                        found.nearest_scores[own, begin + lane : begin + lane + 1],
                        found.nearest[own, begin + lane : begin + lane + 1],
                        best,
                        source_ids[first + i],
                    )
