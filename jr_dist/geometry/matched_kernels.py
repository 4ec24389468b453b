"""The GPU kernel of matched_sums.py, in Triton. This file is imported on a GPU only: chamfer_triton.py launches it."""

# What Triton makes of these functions is not what their Python types say.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl


@triton.jit
def match_parts(
    moved, canonical, part_index, y, y_rows, indices, match_sums, num_x, num_y, num_queries, num_parts, num_blocks,
    FROM_X: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fifteen float64 sums a part over a block of queries: match_sums [M, num_blocks, P, 3, 5] of 1, q, q^2, r, r q.

    Queries are the points of x (FROM_X) or of y; either way r = y - x, and q and the part are those of the point of x.
    A program adds up its block for one part after another, in a fixed order: the same bits every time.
    """
    program = tl.program_id(0)
    pair = (program // num_blocks).to(tl.int64)
    n = (program % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = n < num_queries
    nearest = tl.load(indices + pair * num_queries + n, mask=mask, other=0)
    if FROM_X:
        on = n
        at = nearest
    else:
        on = nearest
        at = n
    part = tl.load(part_index + pair * num_x + on, mask=mask, other=-1).to(tl.int32)
    moved += (pair * num_x + on) * 3
    canonical += (pair * num_x + on) * 3
    y += (tl.load(y_rows + pair) * num_y + at) * 3
    match_sums += program.to(tl.int64) * num_parts * 15
    for axis in tl.static_range(3):
        q = tl.load(canonical + axis, mask=mask, other=0.0).to(tl.float64)
        x = tl.load(moved + axis, mask=mask, other=0.0).to(tl.float64)
        r = tl.load(y + axis, mask=mask, other=0.0).to(tl.float64) - x
        qq = q * q
        rq = r * q
        for p in range(num_parts):
            own = part == p
            out = match_sums + p * 15 + axis * 5
            tl.store(out, tl.sum(own.to(tl.int32), axis=0).to(tl.float64))
            tl.store(out + 1, tl.sum(tl.where(own, q, 0.0), axis=0))
            tl.store(out + 2, tl.sum(tl.where(own, qq, 0.0), axis=0))
            tl.store(out + 3, tl.sum(tl.where(own, r, 0.0), axis=0))
            tl.store(out + 4, tl.sum(tl.where(own, rq, 0.0), axis=0))
