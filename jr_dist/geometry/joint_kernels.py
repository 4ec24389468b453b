"""Compiled loops behind `joints`: which parts come near, samples nearest to key-points, joints that agree.

Samples are sorted by part; `starts` [P + 1] says where the samples of each part begin.
"""

import numpy as np

from jr_dist.geometry.simd import compiled

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "46c0ef11756dc7f5"


@compiled
def touching_parts(points, starts, tolerance):
    """Pairs i < j with samples nearer than `tolerance`; only those near the other's box are compared."""
    num_parts = len(starts) - 1
    low = np.full((num_parts, 3), np.inf)
    high = np.full((num_parts, 3), -np.inf)
    for part in range(num_parts):
        for n in range(starts[part], starts[part + 1]):
            for axis in range(3):
                low[part, axis] = min(low[part, axis], points[n, axis])
                high[part, axis] = max(high[part, axis], points[n, axis])
    pairs = np.empty((num_parts * (num_parts - 1) // 2, 2), dtype=np.int64)
    count = 0
    for i in range(num_parts):
        for j in range(i + 1, num_parts):
            if _any_near(points, starts[i], starts[i + 1], starts[j], starts[j + 1], low, high, i, j, tolerance):
                pairs[count, 0], pairs[count, 1] = i, j
                count += 1
    return pairs[:count]


@compiled
def _any_near(points, i_start, i_end, j_start, j_end, low, high, i, j, tolerance):
    limit = tolerance * tolerance
    for axis in range(3):
        if max(low[i, axis], low[j, axis]) - min(high[i, axis], high[j, axis]) >= tolerance:
            return False
    near_j = np.empty((j_end - j_start, 3))
    num_near = 0
    for n in range(j_start, j_end):
        if _box_distance(points[n], low[i], high[i]) < limit:
            near_j[num_near] = points[n]
            num_near += 1
    for n in range(i_start, i_end):
        if _box_distance(points[n], low[j], high[j]) < limit:
            x, y, z = points[n, 0], points[n, 1], points[n, 2]
            for k in range(num_near):
                dx, dy, dz = near_j[k, 0] - x, near_j[k, 1] - y, near_j[k, 2] - z
                if dx * dx + dy * dy + dz * dz < limit:
                    return True
    return False


@compiled
def _box_distance(point, low, high):
    squared = 0.0
    for axis in range(3):
        gap = max(low[axis] - point[axis], point[axis] - high[axis], 0.0)
        squared += gap * gap
    return squared


@compiled
def snap(points, starts, key_points):
    """Nearest sample of the same part for each key-point [P, 26, 3]; infinity where it has no samples."""
    snapped = np.full(key_points.shape, np.inf)
    for part in range(key_points.shape[0]):
        for k in range(key_points.shape[1]):
            best = np.inf
            for n in range(starts[part], starts[part + 1]):
                squared = 0.0
                for axis in range(3):
                    squared += (points[n, axis] - key_points[part, k, axis]) ** 2
                if squared < best:
                    best = squared
                    snapped[part, k] = points[n]
    return snapped


@compiled
def agreed_coordinates(values, parts, num_parts, tolerance, tie):
    """One coordinate of each joint [J], averaged over groups that hang together by parts and span < tolerance.

    Groups grow by the unions of least span (complete linkage), so that no coordinate moves by the tolerance. Unions
    within `tie` of the least are made together, or not at all where they are too wide together: a joint in the middle
    of two others, as symmetric models have them, would go to either by the order of parts.
    """
    num_joints = len(values)
    low, high, total = values.copy(), values.copy(), values.copy()
    size = np.ones(num_joints)
    group = np.arange(num_joints)
    member = np.zeros((num_joints, num_parts), dtype=np.bool_)
    for joint in range(num_joints):
        member[joint, parts[joint, 0]] = True
        member[joint, parts[joint, 1]] = True
    # What each union would span; infinity where it can't be made.
    span = np.full((num_joints, num_joints), np.inf)
    for a in range(num_joints):
        _measure_unions(a, low, high, size, member, span)
    while num_joints > 0:
        least = span.min()
        if not least < tolerance:
            break
        tied = np.arange(num_joints)  # groups that unions of this turn would join have one number
        for a in range(num_joints):
            for b in range(a + 1, num_joints):
                if span[a, b] <= least + tie and tied[a] != tied[b]:
                    tied[tied == tied[b]] = tied[a]
        for into in range(num_joints):
            joined = np.flatnonzero((tied == tied[into]) & (size > 0))
            if len(joined) < 2 or joined[0] != into:
                continue
            if high[joined].max() - low[joined].min() < tolerance:
                for out in joined[1:]:
                    low[into], high[into] = min(low[into], low[out]), max(high[into], high[out])
                    total[into] += total[out]
                    size[into] += size[out]
                    size[out] = 0.0
                    member[into] |= member[out]
                    group[group == out] = into
                    _measure_unions(out, low, high, size, member, span)
                _measure_unions(into, low, high, size, member, span)
            else:
                for a in joined:
                    for b in joined:
                        if span[a, b] <= least + tie:
                            span[a, b] = np.inf
    return total[group] / size[group]


@compiled
def _measure_unions(a, low, high, size, member, span):
    """Write what the unions of group `a` with each other group span, into its row and column."""
    for b in range(len(size)):
        if b != a:
            possible = size[a] > 0 and size[b] > 0 and (member[a] & member[b]).any()
            span[a, b] = max(high[a], high[b]) - min(low[a], low[b]) if possible else np.inf
            span[b, a] = span[a, b]
