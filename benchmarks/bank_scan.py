"""Soft retrieval over all sources of a shard (for bank.py): 16 targets, 256 dimensions, the 10 best noisy logits.

Peers are the definition in torch with torch's own random numbers and topk, one target at a time: over all rows, and in
blocks small enough for the cache, the fastest that we found torch to be without the matrix product that cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from harness import Record, compared, interleaved, ratio
from limits import READING, bytes_a_second
from torch import Tensor

from jr_dist.bank.scan import Scan, ScanCopy, new_scan_copy, scan, set_scan_rows

NUM_TARGETS, DIMENSIONS, K, SIGMA0 = 16, 256, 10, 1.0
#: rows a thread that the blocked peer is given at a time, the fastest of 32 to 1024
BLOCK = 256
#: rows drawn at a time, so that a copy of 2 GB needs no other array of its size
DRAWN = 10_000


def rows_of(count: int, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights in (0, 1) and embeddings, [n, D] float32 each."""
    rng = np.random.default_rng(start)
    return rng.random((count, DIMENSIONS), np.float32), rng.standard_normal((count, DIMENSIONS), np.float32)


def copy_of(num_sources: int) -> ScanCopy:
    """The scan's copy of that many sources."""
    copy = new_scan_copy(num_sources, DIMENSIONS)
    for start in range(0, num_sources, DRAWN):
        set_scan_rows(copy, np.arange(start, start + DRAWN), *rows_of(DRAWN, start))
    return copy


def queries() -> np.ndarray:
    """Targets [B, D] as far from the sources as these from each other."""
    return np.random.default_rng(1).standard_normal((NUM_TARGETS, DIMENSIONS), np.float32)


def ours(copy: ScanCopy, targets: np.ndarray) -> Scan:
    """jr_dist's scan."""
    ids, threads = np.arange(copy.num_rows), torch.get_num_threads()
    return scan(copy, ids, targets, np.arange(len(targets)), K, SIGMA0, seed=0, step=0, num_threads=threads)


def in_torch(weight: Tensor, embedding: Tensor, targets: Tensor, generator: torch.Generator, num_rows: int) -> Tensor:
    """Eq. 1 as it is written, `num_rows` at a time, Gumbel noise, topk: rows [B, K]."""
    blocks = zip(weight.split(num_rows), embedding.split(num_rows), strict=True)
    squared = [torch.stack([((w * (target - s)) ** 2).sum(-1) for target in targets]) for w, s in blocks]
    logits = torch.cat(squared, dim=1) / -(SIGMA0**2)
    noise = -torch.log(-torch.log(torch.rand(logits.shape, generator=generator)))
    return (logits + noise).topk(K).indices


def against_torch(rounds: int, num_sources: int = 100_000) -> list[Record]:
    """The scan and torch on the same sources and targets."""
    copy, targets = copy_of(num_sources), queries()
    drawn = [rows_of(DRAWN, start) for start in range(0, num_sources, DRAWN)]
    weight, embedding = (torch.from_numpy(np.concatenate(part)) for part in zip(*drawn, strict=True))
    peer = partial(in_torch, weight, embedding, torch.from_numpy(targets), torch.Generator().manual_seed(0))
    sizes = {"naive": num_sources, "blocked": BLOCK * torch.get_num_threads()}
    contenders: dict[str, Callable[[], object]] = {name: partial(peer, size) for name, size in sizes.items()}
    seconds = interleaved({"ours": partial(ours, copy, targets), **contenders}, rounds)
    milliseconds = {name: [1e3 * s for s in times] for name, times in seconds.items()}
    limit = {"limit": 1e3 * copy.values.nbytes / bytes_a_second(), "limit_is": READING}
    return [
        compared(
            f"bank.propose_vs_{name}_100k", "ms", f"torch, {size} rows at a time", milliseconds["ours"],
            milliseconds[name], **limit,
        )
        for name, size in sizes.items()
    ]  # fmt: skip


def propose(quick: bool) -> list[Record]:
    """Against torch, and how the time grows."""
    rounds = 3 if quick else 9
    return against_torch(rounds) + growth(rounds)


def growth(rounds: int) -> list[Record]:
    """A million sources to a hundred thousand."""
    targets = queries()
    contenders: dict[str, Callable[[], object]] = {
        str(count): partial(ours, copy_of(count), targets) for count in (100_000, 1_000_000)
    }
    seconds = interleaved(contenders, rounds)
    return [Record("bank.propose_1m_over_100k", ratio(seconds["100000"], seconds["1000000"]), "x")]
