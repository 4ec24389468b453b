"""What this machine has room for on one thread, measured: bare arithmetic, matrix products, reading memory.

A limit in the records is work over one of these rates; which work is said beside it (`limit_is`). It leaves out what
might be done otherwise, so nothing that does this work can surpass it, and nothing that moves data as well comes near.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from harness import clock
from torch import Tensor

from jr_dist.geometry.chamfer import nearest_neighbours, spatial_order
from jr_dist.geometry.nearest import squared_length
from jr_dist.geometry.simd import LANES, compiled, load, maximum, minimum, smallest, store, subtract

#: needed distances: those that boxes of 16 points can't rule out, at the rate of bare arithmetic
SEARCH = "needed distances"
#: the encoders' dense products, forward and backward, at the rate of torch.mm
PRODUCTS = "products of the encoders"
#: all that is searched read once, at the rate of memory
READING = "reading"


def _best(run: Callable[[], object], rounds: int = 5) -> float:
    """Seconds of the fastest of some calls, after one that isn't counted: a limit is what is possible."""
    now, taken = clock(), []
    run()
    for _ in range(rounds):
        start = now()
        run()
        taken.append(now() - start)
    return min(taken)


# ---- rates -------------------------------------------------------------------------------------


@cache
def distances_a_second() -> float:
    """Squared distances, taken as differences and compared twice, with nothing to load or to wait for."""
    repeats = 200_000
    out, seed = np.empty(LANES, np.float32), np.linspace(0.1, 0.9, 9 * LANES, dtype=np.float32)
    return 8 * LANES * repeats / _best(lambda: _arithmetic(seed, repeats, out))


@compiled
def _arithmetic(seed, repeats, out):
    """Eight chains of sixteen lanes, so that no instruction waits for the last one; as in the search, both ways."""
    step = load(seed, 0)
    a0, a1, a2, a3 = load(seed, 16), load(seed, 32), load(seed, 48), load(seed, 64)
    a4, a5, a6, a7 = load(seed, 80), load(seed, 96), load(seed, 112), load(seed, 128)
    low0 = low1 = low2 = low3 = low4 = low5 = low6 = low7 = a0
    top0 = top1 = top2 = top3 = top4 = top5 = top6 = top7 = a1
    for _ in range(repeats):
        # three differences, three multiplications and additions, two comparisons each
        b0, b1, b2, b3 = subtract(a0, step), subtract(a1, step), subtract(a2, step), subtract(a3, step)
        b4, b5, b6, b7 = subtract(a4, step), subtract(a5, step), subtract(a6, step), subtract(a7, step)
        c0, c1, c2, c3 = subtract(step, b0), subtract(step, b1), subtract(step, b2), subtract(step, b3)
        c4, c5, c6, c7 = subtract(step, b4), subtract(step, b5), subtract(step, b6), subtract(step, b7)
        a0, a1, a2, a3 = subtract(b0, c0), subtract(b1, c1), subtract(b2, c2), subtract(b3, c3)
        a4, a5, a6, a7 = subtract(b4, c4), subtract(b5, c5), subtract(b6, c6), subtract(b7, c7)
        d0, d1, d2, d3 = (
            squared_length(a0, b0, c0), squared_length(a1, b1, c1), squared_length(a2, b2, c2),
            squared_length(a3, b3, c3),
        )  # fmt: skip
        d4, d5, d6, d7 = (
            squared_length(a4, b4, c4), squared_length(a5, b5, c5), squared_length(a6, b6, c6),
            squared_length(a7, b7, c7),
        )  # fmt: skip
        low0, low1, low2, low3 = minimum(low0, d0), minimum(low1, d1), minimum(low2, d2), minimum(low3, d3)
        low4, low5, low6, low7 = minimum(low4, d4), minimum(low5, d5), minimum(low6, d6), minimum(low7, d7)
        top0, top1, top2, top3 = maximum(top0, d0), maximum(top1, d1), maximum(top2, d2), maximum(top3, d3)
        top4, top5, top6, top7 = maximum(top4, d4), maximum(top5, d5), maximum(top6, d6), maximum(top7, d7)
    low = minimum(minimum(minimum(low0, low1), minimum(low2, low3)), minimum(minimum(low4, low5), minimum(low6, low7)))
    top = maximum(maximum(maximum(top0, top1), maximum(top2, top3)), maximum(maximum(top4, top5), maximum(top6, top7)))
    store(out, 0, minimum(low, top))
    return smallest(minimum(low, top))


@cache
def products_a_second() -> float:
    """Multiplications (each with its addition) of a float32 matrix product."""
    size = 1024
    a = torch.rand(size, size, generator=torch.Generator().manual_seed(0))
    return size**3 / _best(lambda: a @ a)


@cache
def bytes_a_second() -> float:
    """Reading memory once, far more than caches hold."""
    numbers = torch.ones(2**28)  # 1 GiB
    return 4 * len(numbers) / _best(numbers.sum, 3)


# ---- work --------------------------------------------------------------------------------------


def search_seconds(x: Tensor, y: Tensor) -> float:
    """Least seconds a pair of clouds [M, N, 3] for an exact search of both directions, sorting and boxes for nothing.

    With points in spatial order and boxes around 16 at a time, a packet of 16 queries has to meet each box that is
    nearer to any of them than that one's nearest neighbour, were this known from the start.
    """
    met = [_boxes_met(a[None], b[None]) + _boxes_met(b[None], a[None]) for a, b in zip(x, y, strict=True)]
    return float(np.mean(met)) * LANES**2 / distances_a_second()


def _boxes_met(queries: Tensor, cloud: Tensor) -> int:
    leaves = _packets(cloud)
    low, high = leaves.amin(1), leaves.amax(1)
    packets = _packets(queries)
    distance = nearest_neighbours(packets.reshape(1, -1, 3), cloud)[0].view(packets.shape[:2])
    met = 0
    for packet, least in zip(packets, distance, strict=True):  # [16, 3], [16]
        outside = torch.maximum(low - packet[:, None], packet[:, None] - high).clamp(min=0)
        met += int((outside.square().sum(-1) <= least[:, None]).any(0).sum())
    return met


def _packets(cloud: Tensor) -> Tensor:
    """[1, N, 3] -> [N / 16, 16, 3] in spatial order; a rest that fills no packet is left out."""
    order = spatial_order(cloud)[0].long()
    whole = len(order) // LANES * LANES
    return cloud[0, order[:whole]].view(-1, LANES, 3)
