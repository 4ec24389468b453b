"""Peers and yardstick of chamfer_gpu.py, in Triton: nearest neighbours one direction at a time, and bare arithmetic.

This file is imported on a GPU only.
"""

# What Triton makes of these functions is not what their Python types say.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

#: distances of a program in `arithmetic` at a time, and instructions that each takes: six and two minima
ARITHMETIC_ELEMENTS, ARITHMETIC_INSTRUCTIONS = 8 * 128, 8


@triton.jit
def one_direction(
    queries, cloud, distances, indices, num_queries, num_points, num_blocks,
    QUERIES: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """Squared distance and index of the nearest of cloud[m] to each of queries[m], as kernels of two passes do it.

    A program holds QUERIES queries and walks along the cloud, POINTS at a time; the least distance and its index are
    kept apart for each of the POINTS places and compared at the end, which beats a reduction at every step.
    """
    program = tl.program_id(0)
    pair = (program // num_blocks).to(tl.int64)
    n = (program % num_blocks) * QUERIES + tl.arange(0, QUERIES)
    mask = n < num_queries
    queries += (pair * num_queries + n) * 3
    x0 = tl.load(queries, mask=mask, other=0.0)[:, None]
    x1 = tl.load(queries + 1, mask=mask, other=0.0)[:, None]
    x2 = tl.load(queries + 2, mask=mask, other=0.0)[:, None]
    cloud += pair * num_points * 3
    least = tl.full([QUERIES, POINTS], float("inf"), tl.float32)
    found = tl.zeros([QUERIES, POINTS], tl.int32)
    place = tl.arange(0, POINTS)
    for start in range(0, num_points, POINTS):
        k = start + place
        a = x0 - tl.load(cloud + k * 3, mask=k < num_points, other=1e30)[None, :]
        b = x1 - tl.load(cloud + k * 3 + 1, mask=k < num_points, other=1e30)[None, :]
        c = x2 - tl.load(cloud + k * 3 + 2, mask=k < num_points, other=1e30)[None, :]
        squared = tl.fma(c, c, tl.fma(b, b, a * a))
        nearer = squared < least
        least = tl.where(nearer, squared, least)
        found = tl.where(nearer, start, found)
    nearest = tl.min(least, axis=1)
    index = tl.min(tl.where(least == nearest[:, None], found + place[None, :], 2**31 - 1), axis=1)
    tl.store(distances + pair * num_queries + n, nearest, mask=mask)
    tl.store(indices + pair * num_queries + n, index.to(tl.int64), mask=mask)


@triton.jit
def arithmetic(out, seed, rounds):
    """What a squared distance and its two comparisons take, again and again, with nothing to load or to wait for.

    Each of `rounds` rounds takes a difference in three axes, squares and adds them, and compares the sum twice, for
    ARITHMETIC_ELEMENTS elements a program.
    """
    n = tl.program_id(0) * 1024 + tl.arange(0, 8)[:, None] * 128 + tl.arange(0, 128)[None, :]
    a = n.to(tl.float32)
    b = a + 0.5
    c = a + 0.25
    step0 = tl.load(seed)
    step1 = tl.load(seed + 1)
    step2 = tl.load(seed + 2)
    low = a
    high = a
    for _ in range(rounds):
        a = a - step0
        b = b - step1
        c = c - step2
        squared = tl.fma(c, c, tl.fma(b, b, a * a))
        low = tl.minimum(low, squared)
        high = tl.maximum(high, squared)
    tl.store(out + n, low + high)
