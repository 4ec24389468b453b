"""How much of each piece of a surface lies near each other piece: even samples, counted on a grid."""

import numba
import numpy as np
from jaxtyping import Float, Int

from jr_dist.geometry.sampling import triangle_areas

# Roberts' R2 sequence: points of a triangle that spread more evenly than random ones, the same every time.
_R2 = (0.7548776662466927, 0.5698402909980532)


def even_samples(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    labels: Int[np.ndarray, " F"],
    *,
    num_points: int,
    minimum: int,
) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, " N"]]:
    """About `num_points` points, by area and at least `minimum` a label, spread evenly without randomness;
    their labels.
    """
    areas = triangle_areas(vertices, faces)
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(areas[order])
    share = np.bincount(labels, areas)
    counts = np.maximum(np.rint(num_points * share / share.sum()).astype(np.int64), minimum)
    label = np.repeat(np.arange(len(counts)), counts)
    step = np.arange(len(label)) - np.repeat(np.cumsum(counts) - counts, counts)
    along = (np.cumsum(share) - share)[label] + (step + 0.5) / counts[label] * share[label]
    # Sums of floats may reach over a label's end: keep every sample on a face of its own label.
    last = np.cumsum(np.bincount(labels))
    rank = np.clip(np.searchsorted(ends, along), (last - np.bincount(labels))[label], last[label] - 1)
    a, b, c = (vertices[faces[order[rank], corner]] for corner in range(3))
    u, v = ((0.5 + step * ratio) % 1.0 for ratio in _R2)
    root, v = np.sqrt(u)[:, None], v[:, None]
    return (1 - root) * a + root * (1 - v) * b + root * v * c, label


def contact_counts(
    points: Float[np.ndarray, "N 3"], label: Int[np.ndarray, " N"], num_labels: int, radius: float
) -> Int[np.ndarray, "C C"]:
    """[i, j]: how many points of label i lie within `radius` of a point of label j; 0 on the diagonal."""
    return _count(points - points.min(axis=0), label, num_labels, radius, *_grid(points, radius))


def nearest_label(
    queries: Float[np.ndarray, "M 3"], points: Float[np.ndarray, "N 3"], label: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " M"]:
    """Label of a point near each query: within a factor of four as near as the nearest one, at a bounded
    price a query.
    """
    low = np.minimum(points.min(axis=0), queries.min(axis=0))
    span = float(np.linalg.norm(np.maximum(points.max(axis=0), queries.max(axis=0)) - low)) or 1.0
    result = np.full(len(queries), -1)
    for level in range(7, -1, -1):  # ever wider cells, ever fewer points: at most eight a cell
        radius = span / 2**level
        _, first = np.unique(_keys((points - low) / (radius / 2)), return_index=True)
        left = np.flatnonzero(result < 0)
        kept = points[first] - low
        found = _nearest(queries[left] - low, kept, radius, *_grid(kept, radius, low=np.zeros(3)))
        result[left] = np.where(found >= 0, label[first][found], -1)
    return result


def _keys(scaled: np.ndarray) -> np.ndarray:
    cell = scaled.astype(np.int64) + 1
    return cell[:, 0] << 42 | cell[:, 1] << 21 | cell[:, 2]


def _grid(
    points: np.ndarray, radius: float, low: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points by cell: their order, the key of each occupied cell (ascending), where each cell begins in the
    order.
    """
    key = _keys((points - (points.min(axis=0) if low is None else low)) / radius)
    order = np.argsort(key, kind="stable")
    cells, starts = np.unique(key[order], return_index=True)
    return order, cells, np.append(starts, len(order))


@numba.njit(cache=True)
def _cell_of(point, radius, dx, dy, dz):
    x = np.int64(point[0] / radius) + 1 + dx
    y = np.int64(point[1] / radius) + 1 + dy
    z = np.int64(point[2] / radius) + 1 + dz
    return x << 42 | y << 21 | z


@numba.njit(cache=True)
def _squared(p, q):
    return (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 + (p[2] - q[2]) ** 2


@numba.njit(cache=True)
def _count(points, label, num_labels, radius, order, cells, starts):
    counts = np.zeros((num_labels, num_labels), np.int64)
    seen = np.full(num_labels, -1)
    for i in range(len(points)):
        for neighbour in range(27):
            key = _cell_of(points[i], radius, neighbour // 9 - 1, neighbour // 3 % 3 - 1, neighbour % 3 - 1)
            k = np.searchsorted(cells, key)
            if k == len(cells) or cells[k] != key:
                continue
            for m in range(starts[k], starts[k + 1]):
                j = order[m]
                if label[j] == label[i] or seen[label[j]] == i:
                    continue
                if _squared(points[i], points[j]) <= radius * radius:
                    seen[label[j]] = i
                    counts[label[i], label[j]] += 1
    return counts


@numba.njit(cache=True)
def _nearest(queries, points, radius, order, cells, starts):
    """Index of the nearest point in the 27 cells around each query, -1 where they are empty."""
    found = np.full(len(queries), -1)
    for i in range(len(queries)):
        best = np.inf
        for neighbour in range(27):
            key = _cell_of(queries[i], radius, neighbour // 9 - 1, neighbour // 3 % 3 - 1, neighbour % 3 - 1)
            k = np.searchsorted(cells, key)
            if k == len(cells) or cells[k] != key:
                continue
            for m in range(starts[k], starts[k + 1]):
                distance = _squared(queries[i], points[order[m]])
                if distance < best:
                    best, found[i] = distance, order[m]
    return found
