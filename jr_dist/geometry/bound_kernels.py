"""The GPU kernel that bounds the chamfer of a deformed source from below, in Triton.

This file is imported on a GPU only: least_chamfer_triton.py launches the kernel. What is bounded and why is told in
least_chamfer_kernels.py and distance_field.py, which do the same on the CPU: from the points of the target to the boxes
of the source's parts, from the points of the source to the target by a field.
"""

# What Triton makes of these functions is not what their Python types say.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

import triton
import triton.language as tl

_FARTHEST = tl.constexpr(3e38)


@triton.jit
def _beyond(v, low, high):
    """How far a coordinate lies outside an interval."""
    return tl.maximum(tl.maximum(low - v, v - high), 0.0)


@triton.jit
def _place(v, low, per_unit, extent):
    """Cell, place in it from 0 to 1, and how many cells it lies outside the field's box, along one axis."""
    at = (v - low) * per_unit
    inside = tl.minimum(tl.maximum(at, 0.0), extent)
    cell = inside.to(tl.int32)
    return cell, inside - cell.to(tl.float32), at - inside


@triton.jit
def _along(field, index, w, mask):
    a = tl.load(field + index, mask=mask, other=0.0)
    return a + w * (tl.load(field + index + 1, mask=mask, other=0.0) - a)


@triton.jit
def _by_field(x0, x1, x2, frame, field, mask, SLACK: tl.constexpr, VERTICES: tl.constexpr):
    """Lower bounds of squared distances to the cloud of `field` [VERTICES^3] (distance_field.lower_bounds)."""
    per_unit = tl.load(frame + 3)
    side = tl.load(frame + 4)
    i, u, x_out = _place(x0, tl.load(frame), per_unit, tl.load(frame + 5))
    j, v, y_out = _place(x1, tl.load(frame + 1), per_unit, tl.load(frame + 6))
    k, w, z_out = _place(x2, tl.load(frame + 2), per_unit, tl.load(frame + 7))
    here = (i * VERTICES + j) * VERTICES + k
    near = _along(field, here, w, mask)
    low = near + v * (_along(field, here + VERTICES, w, mask) - near)
    here += VERTICES * VERTICES
    far = _along(field, here, w, mask)
    high = far + v * (_along(field, here + VERTICES, w, mask) - far)
    interpolated = (low + u * (high - low)) * (1 - SLACK)
    bend = 3 * SLACK + u * (1 - u) + v * (1 - v) + w * (1 - w)
    x_out *= side
    y_out *= side
    z_out *= side
    outside = x_out * x_out + y_out * y_out + z_out * z_out
    return tl.maximum(interpolated - side * side * bend, 0.0) + outside * (1 - SLACK)


@triton.jit
def lower_bounds(
    points, canonical, part_index, shift, growth, low, high, targets, frames, fields, bounds,
    num_sources, num_x, num_y, num_parts,
    SLACK: tl.constexpr, FIELD_SLACK: tl.constexpr, VERTICES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """bounds [T, S] of the chamfer of each source, [S, N, 3] moved by shift and growth [T, S, P, 3], to each target.

    low, high [T, S, P, 3] are boxes that hold the moved points of a part, beyond all bounds where it has none; frames
    [T, 8] and fields [T, VERTICES^3] those of the targets.
    """
    program = tl.program_id(0)
    pair = program.to(tl.int64)
    t = (program // num_sources).to(tl.int64)
    s = (program % num_sources).to(tl.int64)
    n = tl.arange(0, BLOCK)
    targets += t * num_y * 3
    low += pair * num_parts * 3
    high += pair * num_parts * 3
    from_target = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_y, BLOCK):
        mask = start + n < num_y
        at = targets + (start + n) * 3
        y0 = tl.load(at, mask=mask, other=0.0)
        y1 = tl.load(at + 1, mask=mask, other=0.0)
        y2 = tl.load(at + 2, mask=mask, other=0.0)
        least = tl.full([BLOCK], _FARTHEST, tl.float32)
        for p in range(num_parts):
            a = _beyond(y0, tl.load(low + p * 3), tl.load(high + p * 3))
            b = _beyond(y1, tl.load(low + p * 3 + 1), tl.load(high + p * 3 + 1))
            c = _beyond(y2, tl.load(low + p * 3 + 2), tl.load(high + p * 3 + 2))
            least = tl.minimum(least, a * a + b * b + c * c)
        from_target += tl.where(mask, least, 0.0)

    points += s * num_x * 3
    canonical += s * num_x * 3
    part_index += s * num_x
    shift += pair * num_parts * 3
    growth += pair * num_parts * 3
    frames += t * 8
    fields += t * VERTICES * VERTICES * VERTICES
    from_source = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_x, BLOCK):
        mask = start + n < num_x
        part = tl.load(part_index + start + n, mask=mask, other=0) * 3
        at = (start + n) * 3
        x0 = tl.load(points + at, mask=mask, other=0.0) + tl.load(shift + part, mask=mask, other=0.0)
        x1 = tl.load(points + at + 1, mask=mask, other=0.0) + tl.load(shift + part + 1, mask=mask, other=0.0)
        x2 = tl.load(points + at + 2, mask=mask, other=0.0) + tl.load(shift + part + 2, mask=mask, other=0.0)
        q0 = tl.load(canonical + at, mask=mask, other=0.0)
        q1 = tl.load(canonical + at + 1, mask=mask, other=0.0)
        q2 = tl.load(canonical + at + 2, mask=mask, other=0.0)
        x0 += q0 * tl.load(growth + part, mask=mask, other=0.0)
        x1 += q1 * tl.load(growth + part + 1, mask=mask, other=0.0)
        x2 += q2 * tl.load(growth + part + 2, mask=mask, other=0.0)
        found = _by_field(x0, x1, x2, frames, fields, mask, FIELD_SLACK, VERTICES)
        from_source += tl.where(mask, found, 0.0)

    whole = tl.sum(from_target, axis=0) / num_y + tl.sum(from_source, axis=0) / num_x
    tl.store(bounds + pair, whole * (1 - SLACK))
