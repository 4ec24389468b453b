"""The GPU kernel of `inner_problem.bounded_step`, in Triton. Imported on a GPU only: step_triton.py starts it.

A program solves for one axis of one pair, start to end: its matrices stay in registers, and each takes as many rounds
as its own bounds need. All is float64.
"""

# What Triton makes of these functions is not what their Python types say.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import triton
import triton.language as tl

from jr_dist.models.inner_problem import MAX_ROUNDS, SLACK, TIED, TRIES

_TIED, _SLACK = tl.constexpr(TIED), tl.constexpr(SLACK)
_MAX_ROUNDS, _TRIES = tl.constexpr(MAX_ROUNDS), tl.constexpr(TRIES)


@triton.jit
def _inverse(matrix, count, SIZE: tl.constexpr):
    """Of a positive definite [SIZE, SIZE] matrix that is the identity beyond `count`, by Gauss-Jordan elimination."""
    index = tl.arange(0, SIZE)
    for k in range(count):
        here = index == k
        column = tl.sum(tl.where(here[None, :], matrix, 0.0), axis=1)
        row = tl.sum(tl.where(here[:, None], matrix, 0.0), axis=0)
        pivot = tl.sum(tl.where(here, row, 0.0), axis=0)
        row = tl.where(here, 1.0, row) / pivot
        left = tl.fma(-column[:, None], row[None, :], tl.where(here[None, :], 0.0, matrix))
        matrix = tl.where(here[:, None], row[None, :], left)
    return matrix


@triton.jit
def _multipliers(between, room, num_parts, PARTS: tl.constexpr):
    """inner_problem._multipliers for one axis of one pair: `between` [PARTS, PARTS] is its inverse, padded by zeros."""
    index = tl.arange(0, PARTS)
    eye = index[:, None] == index[None, :]
    diagonal = tl.sum(tl.where(eye, between, 0.0), axis=1) * _TIED
    result = tl.zeros([PARTS], tl.float64)
    active = (room < 0).to(tl.int32)
    fewest = num_parts + 1
    tries = _TRIES + 0
    rounds = 0
    while rounds < _MAX_ROUNDS:
        rounds += 1
        both = (active[:, None] & active[None, :]) != 0
        added = tl.where(eye, tl.where(active != 0, diagonal, 1.0)[:, None], 0.0)
        inverse = _inverse(tl.where(both, between, 0.0) + added, num_parts, PARTS)
        multipliers = tl.zeros([PARTS], tl.float64)
        slack = room
        for _ in range(2):
            lacking = tl.where(active != 0, -slack, 0.0)
            multipliers += tl.sum(inverse * lacking[None, :], axis=1)
            slack = room + tl.sum(between * multipliers[None, :], axis=1)
        result = tl.maximum(multipliers, 0.0)
        wrong = tl.where(active != 0, multipliers < 0, slack < -_SLACK).to(tl.int32)
        count = tl.sum(wrong, axis=0)
        tries = tl.where(count < fewest, _TRIES, tries - 1)
        fewest = tl.minimum(count, fewest)
        last = tl.max(tl.where(wrong != 0, index, -1), axis=0)
        active = active ^ tl.where(tries >= 0, wrong, (index == last).to(tl.int32))
        if count == 0:
            rounds = _MAX_ROUNDS
    return result


@triton.jit
def bounded_step(rows, basis, step, num_parts, num_columns, PARTS: tl.constexpr, COLUMNS: tl.constexpr):
    """step [M, 3, 2P] from rows [M, 3, 6P] (step_triton.py says what of) and basis [M, 3, 2P, D]."""
    program = tl.program_id(0).to(tl.int64)
    rows += program * num_parts * 6
    basis += program * num_parts * 2 * num_columns
    step += program * num_parts * 2
    d = tl.arange(0, COLUMNS)
    there = d < num_columns
    curvature = tl.zeros([COLUMNS, COLUMNS], tl.float64)
    pull = tl.zeros([COLUMNS], tl.float64)
    for p in range(num_parts):
        c = tl.load(basis + p * num_columns + d, mask=there, other=0.0)
        s = tl.load(basis + (num_parts + p) * num_columns + d, mask=there, other=0.0)
        weight = tl.load(rows + p)
        weight_q = tl.load(rows + num_parts + p)
        weight_qq = tl.load(rows + 2 * num_parts + p)
        curvature += c[:, None] * (weight * c + weight_q * s)[None, :]
        curvature += s[:, None] * (weight_q * c + weight_qq * s)[None, :]
        pull += c * tl.load(rows + 3 * num_parts + p) + s * tl.load(rows + 4 * num_parts + p)
    eye = d[:, None] == d[None, :]
    unused = tl.sum(tl.where(eye, curvature, 0.0), axis=1) == 0
    inverse = _inverse(tl.where(eye & unused[:, None], 1.0, curvature), num_columns, COLUMNS)
    solution = tl.sum(inverse * pull[None, :], axis=1)

    part = tl.arange(0, PARTS)
    real = part < num_parts
    mask = real[:, None] & there[None, :]
    of_centre = tl.load(basis + part[:, None] * num_columns + d[None, :], mask=mask, other=0.0)
    of_extent = tl.load(basis + (num_parts + part[:, None]) * num_columns + d[None, :], mask=mask, other=0.0)
    room = tl.load(rows + 5 * num_parts + part, mask=real, other=1.0) + tl.sum(of_extent * solution[None, :], axis=1)
    if tl.min(room, axis=0) < 0:
        half = tl.zeros([PARTS, COLUMNS], tl.float64)  # of_extent @ inverse
        for k in range(num_columns):
            column = tl.load(basis + (num_parts + part) * num_columns + k, mask=real, other=0.0)
            half += column[:, None] * tl.sum(tl.where((d == k)[:, None], inverse, 0.0), axis=0)[None, :]
        between = tl.zeros([PARTS, PARTS], tl.float64)  # half @ of_extent', column by column
        for p in range(num_parts):
            s = tl.load(basis + (num_parts + p) * num_columns + d, mask=there, other=0.0)
            column = tl.sum(half * s[None, :], axis=1)
            between = tl.where((part == p)[None, :], column[:, None], between)
        multipliers = _multipliers(between, room, num_parts, PARTS)
        solution += tl.sum(half * multipliers[:, None], axis=0)
    tl.store(step + part, tl.sum(of_centre * solution[None, :], axis=1), mask=real)
    tl.store(step + num_parts + part, tl.sum(of_extent * solution[None, :], axis=1), mask=real)
