"""Soft retrieval over the rows of a shard (Eq. 1): the k best noisy logits in one pass over a copy made for it.

The copy holds w_r and w_r s_r: d^2 = sum_j (w_rj t_bj - w_rj s_rj)^2 is the difference form, at two multiply-adds an
element and without the cancellation of |t|^2 - 2 t s + |s|^2. Answers do not depend on the number of threads, nor on
which other targets are asked for at once, nor does a row's score on which other rows are there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from jr_dist.bank.noise_kernels import NO_SOURCE, target_keys, uniform_block
from jr_dist.bank.scan_kernels import BLOCK, SIDE_BY_SIDE, distance_blocks, scan_blocks
from jr_dist.geometry.blocks import run_blocks
from jr_dist.geometry.simd import LANES


@dataclass(frozen=True)
class ScanCopy:
    """w_r and w_r s_r of R rows in the order in which they are read: one cache line for a dimension of eight rows."""

    num_rows: int
    values: np.ndarray  # [R / 8 rounded up, D, 2, 8] float32


@dataclass(frozen=True)
class Scan:
    """The k sources of the largest noisy logits for each target, best first, and sums over all of them.

    Logits are -d^2 / sigma0^2. Of equal scores the smaller source id comes first.
    """

    rows: np.ndarray  # [B, k] int64: source ids
    scores: np.ndarray  # [B, k] float32: logit + Gumbel noise
    log_total: np.ndarray  # [B] float32: log sum exp of the logits
    mean_score: np.ndarray  # [B] float32: mean of the logits under their softmax, for the entropy of Eq. 1
    nearest: np.ndarray  # [B] int64: the source of the largest logit
    nearest_score: np.ndarray  # [B] float32: that logit


class _Found(NamedTuple):
    """What the kernel fills: lists of each thread, sums of each block; B rounded up to whole lanes."""

    scores: np.ndarray  # [T, B, k] float32
    ids: np.ndarray  # [T, B, k] int64
    nearest_scores: np.ndarray  # [T, B] float32
    nearest: np.ndarray  # [T, B] int64
    tops: np.ndarray  # [N, B] float32: largest logit
    totals: np.ndarray  # [N, B] float32: sum exp(logit - top)
    weighted: np.ndarray  # [N, B] float32: sum exp(logit - top) (logit - top)


def new_scan_copy(num_rows: int, dimensions: int) -> ScanCopy:
    """Room for the copy, all zeros."""
    return ScanCopy(num_rows, np.zeros((-(-num_rows // SIDE_BY_SIDE), dimensions, 2, SIDE_BY_SIDE), np.float32))


def set_scan_rows(copy: ScanCopy, rows: np.ndarray, weight: np.ndarray, embedding: np.ndarray) -> None:
    """Put weights w and embeddings s, [n, D] float32 each, into places `rows` of the copy."""
    group, place = np.divmod(rows, SIDE_BY_SIDE)
    copy.values[group, :, 0, place] = weight
    copy.values[group, :, 1, place] = weight * embedding


def scan(
    copy: ScanCopy,
    source_ids: np.ndarray,
    queries: np.ndarray,
    target_ids: np.ndarray,
    k: int,
    sigma0: float,
    *,
    seed: int,
    step: int,
    num_threads: int,
) -> Scan:
    """The k (all R if fewer) largest of -d^2 / sigma0^2 + Gumbel(seed, step, target, source), of R rows for B targets.

    source_ids: [R] int64, unique; queries: [B, D] float32; the noise is that of `noise.gumbel_noise`.
    Raises `FloatingPointError` where a logit is NaN or infinite.
    """
    num_targets, num_rows = len(queries), copy.num_rows
    assert len(source_ids) == num_rows > 0, f"{num_rows} rows with {len(source_ids)} ids"
    ids = np.ascontiguousarray(source_ids, np.int64)
    packed = _packed(copy, queries)
    keys = _keys(target_ids, num_targets, seed, step)
    found = _nothing_found(num_rows, num_threads, len(keys), min(k, num_rows))
    divisor = np.float32(-sigma0 * sigma0)
    blocks = partial(scan_blocks, copy.values.reshape(-1), ids, packed, keys, divisor, num_targets, found)
    if _with_lists(blocks, len(found.tops), num_threads):
        raise FloatingPointError("a distance to a source, or it over sigma0^2, is NaN or infinite")
    rows, scores = _merge(found.ids, found.scores, num_targets)
    nearest, nearest_score = _merge(found.nearest[:, :, None], found.nearest_scores[:, :, None], num_targets)
    log_total, mean_score = _sums(*(part[:, :num_targets] for part in (found.tops, found.totals, found.weighted)))
    return Scan(rows, scores, log_total, mean_score, nearest[:, 0], nearest_score[:, 0])


def distances(copy: ScanCopy, queries: np.ndarray, *, num_threads: int) -> np.ndarray:
    """d^2 [B, R] float32, the very numbers that `scan` uses."""
    result = np.empty((len(queries), copy.num_rows), np.float32)
    blocks = partial(distance_blocks, copy.values.reshape(-1), _packed(copy, queries), result)
    run_blocks(blocks, -(-copy.num_rows // BLOCK), num_threads)
    return result


def uniform_best(
    num_sources: int, k: int, target_ids: np.ndarray, *, seed: int, step: int, num_threads: int
) -> np.ndarray:
    """The k (all if fewer) of S sources with the largest `noise.uniform_noise`, [B, k] int64, largest first."""
    num_targets = len(target_ids)
    keys = _keys(target_ids, num_targets, seed, step)
    shape = (num_threads, len(keys), min(k, num_sources))
    numbers, ids = np.zeros(shape, np.uint64), np.full(shape, NO_SOURCE)
    _with_lists(partial(uniform_block, keys, num_targets, numbers, ids), num_sources, num_threads)
    # 52 bits: exact as float64, and so is their order
    return _merge(ids, numbers.astype(np.float64), num_targets)[0]


def _padded(targets: np.ndarray) -> np.ndarray:
    """Up to whole lanes, by repeating the last: what is drawn for it is thrown away."""
    assert len(targets) > 0, "no targets"
    return np.concatenate([targets, np.repeat(targets[-1:], -len(targets) % LANES, axis=0)])


def _packed(copy: ScanCopy, queries: np.ndarray) -> np.ndarray:
    """[B, D] -> [G, D * 16]: groups of sixteen targets, dimension by dimension."""
    dimensions = copy.values.shape[1]
    assert queries.shape[1] == dimensions, f"queries of {queries.shape[1]} dimensions, rows of {dimensions}"
    groups = _padded(np.asarray(queries, np.float32)).reshape(-1, LANES, dimensions)
    return np.ascontiguousarray(groups.transpose(0, 2, 1)).reshape(len(groups), -1)


def _keys(target_ids: np.ndarray, num_targets: int, seed: int, step: int) -> np.ndarray:
    assert len(target_ids) == num_targets, f"{num_targets} targets with {len(target_ids)} ids"
    return target_keys(np.int64(seed), np.int64(step), _padded(np.asarray(target_ids, np.int64)))


def _with_lists(block: Callable[[int, int, int], int], count: int, num_threads: int) -> int:
    """run_blocks of block(own, start, stop), where `own` numbers a list that no other thread is at."""
    free = list(range(num_threads))

    def with_list(start: int, stop: int) -> int:
        own = free.pop()
        code = block(own, start, stop)
        free.append(own)
        return code

    return run_blocks(with_list, count, num_threads)


def _nothing_found(num_rows: int, num_threads: int, num_targets: int, k: int) -> _Found:
    lists, sums = (num_threads, num_targets, k), (-(-num_rows // BLOCK), num_targets)
    nothing = np.float32(-np.inf)
    return _Found(
        scores=np.full(lists, nothing),
        ids=np.full(lists, NO_SOURCE),
        nearest_scores=np.full(lists[:2], nothing),
        nearest=np.full(lists[:2], NO_SOURCE),
        tops=np.empty(sums, np.float32),
        totals=np.empty(sums, np.float32),
        weighted=np.empty(sums, np.float32),
    )


def _merge(ids: np.ndarray, scores: np.ndarray, num_targets: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each target over the lists [T, B, k] of all threads."""
    k = ids.shape[2]
    best_ids, best_scores = np.empty((num_targets, k), np.int64), np.empty((num_targets, k), scores.dtype)
    for b in range(num_targets):
        there = ids[:, b] != NO_SOURCE
        some_ids, some_scores = ids[:, b][there], scores[:, b][there]
        order = np.lexsort((some_ids, -some_scores))[:k]
        best_ids[b], best_scores[b] = some_ids[order], some_scores[order]
    return best_ids, best_scores


def _sums(tops: np.ndarray, totals: np.ndarray, weighted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log sum exp and mean logit from those of blocks [N, B], in float64 and in the order of the blocks."""
    top = tops.max(axis=0).astype(np.float64)
    below = tops - top
    scale = np.exp(below)
    total = (scale * totals).sum(axis=0)
    mean = top + (scale * (weighted + below * totals)).sum(axis=0) / total
    return (top + np.log(total)).astype(np.float32), mean.astype(np.float32)
