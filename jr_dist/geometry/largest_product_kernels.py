"""Compiled loops of models/largest_product.py; those over start to stop return 0 for `blocks.run_blocks`."""

from jr_dist.geometry.simd import compiled

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "46c0ef11756dc7f5"


@compiled
def raise_to(products, first, best, where):
    """Raise best [D] to the largest of products [T, D] with the points from `first` on, noting where; NaN stays."""
    for n in range(products.shape[0]):
        for d in range(products.shape[1]):
            value = products[n, d]
            higher = (value > best[d]) | (value != value)
            best[d] = value if higher else best[d]
            where[d] = first + n if higher else where[d]


@compiled
def pull_points(gradient, index, weight, to_points, start, stop):
    """The gradient of points [M, N, C], clouds start to stop."""
    for m in range(start, stop):
        for d in range(gradient.shape[1]):
            row, scale = index[m, d], gradient[m, d]
            for c in range(weight.shape[1]):
                to_points[m, row, c] += scale * weight[d, c]
    return 0


@compiled
def pull_weight(gradient, index, points, to_weight, start, stop):
    """The gradient of weight [D, C], rows start to stop."""
    for m in range(gradient.shape[0]):
        for d in range(start, stop):
            row, scale = index[m, d], gradient[m, d]
            for c in range(points.shape[2]):
                to_weight[d, c] += scale * points[m, row, c]
    return 0
