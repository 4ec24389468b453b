"""Compiled loops over the points of parts, over pairs start to stop; they return 0 for `blocks.run_blocks`."""

from jr_dist.geometry.simd import compiled

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "46c0ef11756dc7f5"


@compiled
def move(points, canonical, part_index, shift, growth, out, start, stop):
    """out = points + shift[part] + growth[part] * canonical, all [M, N, 3]."""
    for m in range(start, stop):
        for n in range(points.shape[1]):
            part = part_index[m, n]
            for a in range(3):
                out[m, n, a] = points[m, n, a] + shift[m, part, a] + growth[m, part, a] * canonical[m, n, a]
    return 0


@compiled
def sum_by_part(gradient, canonical, part_index, to_shift, to_growth, start, stop):
    """The gradient of `move`, added to to_shift and to_growth [M, P, 3]."""
    for m in range(start, stop):
        for n in range(gradient.shape[1]):
            part = part_index[m, n]
            for a in range(3):
                to_shift[m, part, a] += gradient[m, n, a]
                to_growth[m, part, a] += gradient[m, n, a] * canonical[m, n, a]
    return 0
