"""Connected components of a triangle soup: vertices welded by position, faces joined across edges.

Faces that share an edge belong together where only two meet. Where more meet (solids that touch, sheets
drawn twice), the faces are sorted around the edge and paired across the solid between them, so that two
boxes on top of each other stay two.
"""

import math

import numba
import numpy as np
from jaxtyping import Bool, Float, Int

from jr_dist.geometry.sampling import triangle_areas

WELD_TOLERANCE = 1e-5  # of the box diagonal: far below any detail, far above the rounding of float32
_SAME_ANGLE = math.radians(6.0)  # faces nearer than this around an edge lie on one another
_NO_CREASE = 4.0  # above any angle


def weld(vertices: Float[np.ndarray, "V 3"], *, tolerance: float = WELD_TOLERANCE) -> Int[np.ndarray, " V"]:
    """Index of the place of each vertex: vertices nearer than `tolerance` (a share of the box diagonal)
    share one.

    Distance is the largest difference of a coordinate; chains of near vertices share a place too. O(V log V).
    """
    low = vertices.min(axis=0)
    cell = tolerance * float(np.linalg.norm(vertices.max(axis=0) - low))
    if cell == 0:
        return np.zeros(len(vertices), np.int64)
    scaled = (vertices - low) / cell
    first, place = _by_cell(scaled)
    # Near vertices may straddle the border of a cell. Of the grids of cells twice as wide, shifted by a
    # cell along some axes, one holds them in a single cell.
    points = scaled[first]
    parent = np.arange(len(points))
    for shift in np.ndindex(2, 2, 2):
        _, group = _by_cell((points + np.array(shift)) / 2)
        order = np.argsort(group, kind="stable")
        _join_near(parent, order, group[order], points)
    return np.unique(_roots(parent), return_inverse=True)[1][place]


def repeated_faces(faces: Int[np.ndarray, "F 3"], place: Int[np.ndarray, " V"]) -> Bool[np.ndarray, " F"]:
    """Faces that have the same three places and the same side as one before them, (F,)."""
    corner = place[faces]
    collapsed = (corner == np.roll(corner, 1, axis=1)).any(axis=1)
    return (_first_equal(_cycles(corner)) != np.arange(len(faces))) & ~collapsed


def face_components(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    place: Int[np.ndarray, " V"],
    *,
    crease: float | None = None,
) -> Int[np.ndarray, " F"]:
    """Component of each face, 0 .. C-1 in the order of their first face; `place` as from `weld`.

    Faces drawn twice belong to the component of their twin. With `crease` (radians), components are cut
    along concave edges that bend by more: where a leg meets the seat it was extruded from. Concave is
    judged by the side of the component's volume.
    """
    corner = place[faces]
    same_side, any_side = _first_equal(_cycles(corner)), _first_equal(np.sort(corner, axis=1))
    sheets = _drawn_on_both_sides(same_side, any_side)
    twin = any_side if sheets else same_side  # where two solids touch, each has its own face
    start, end = corner.ravel(), np.roll(corner, -1, axis=1).ravel()
    low, high = np.minimum(start, end), np.maximum(start, end)
    edge = low * (int(place.max()) + 1) + high
    order = np.argsort(edge, kind="stable")
    collapsed = (corner == np.roll(corner, 1, axis=1)).any(axis=1)
    order = order[((twin == np.arange(len(faces))) & ~collapsed)[order // 3]]
    bounds = np.append(np.flatnonzero(np.diff(edge[order], prepend=-1)), len(order))
    apex = np.roll(faces, -2, axis=1).ravel()
    mesh = (vertices, faces.ravel(), apex, start[order] < end[order], order, bounds, sheets)
    parent, flip = twin.copy(), np.zeros(len(faces), np.bool_)
    _join_faces(parent, flip, *mesh, np.ones(len(faces)), _NO_CREASE)
    _join_collapsed(parent, corner, collapsed)
    labels = _numbered(_roots(parent))
    if crease is not None:
        side = _outside(vertices, faces, labels, _flips(parent, flip), twin)
        parent, flip = twin.copy(), np.zeros(len(faces), np.bool_)
        _join_faces(parent, flip, *mesh, side, crease)
        _join_collapsed(parent, corner, collapsed)
        labels = _numbered(_roots(parent))
    return _numbered(_without_linings(labels, any_side, triangle_areas(vertices, faces))[labels])


def _join_collapsed(parent: np.ndarray, corner: np.ndarray, collapsed: np.ndarray) -> None:
    """Unite each face that welding made a line or a point with a face at its first corner, a sound one if possible."""
    by_place = np.full(int(corner.max()) + 1, -1)
    by_place[corner[collapsed].ravel()] = np.repeat(np.flatnonzero(collapsed), 3)
    by_place[corner[~collapsed].ravel()] = np.repeat(np.flatnonzero(~collapsed), 3)
    for face in np.flatnonzero(collapsed):
        _join(parent, face, by_place[corner[face, 0]])


def _cycles(corner: np.ndarray) -> np.ndarray:
    """Corners (F, 3) turned so that the lowest comes first: equal for faces with the same places and the
    same side.
    """
    lowest = np.argmin(corner, axis=1)
    return np.take_along_axis(corner, (lowest[:, None] + np.arange(3)) % 3, axis=1)


def _drawn_on_both_sides(same_side: np.ndarray, any_side: np.ndarray) -> bool:
    """Whether most faces have a twin that looks the other way: then faces say nothing about inside and
    outside.
    """
    backed = np.bincount(any_side, minlength=len(any_side)) > np.bincount(same_side, minlength=len(any_side))
    return bool(backed[any_side].mean() > 0.5)


def _without_linings(labels: np.ndarray, any_side: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Component to join for each component: one whose faces are nearly all drawn in another one too joins
    that one.
    """
    drawn_before = np.flatnonzero(any_side != np.arange(len(labels)))
    one, other = labels[drawn_before], labels[any_side[drawn_before]]
    pairs = np.stack([np.concatenate([one, other]), np.concatenate([other, one])], axis=1)
    area = np.tile(areas[drawn_before], 2)
    own = np.bincount(labels, areas)
    unique, index = np.unique(pairs, axis=0, return_inverse=True)
    shared = np.bincount(index.ravel(), area, len(unique))
    parent = np.arange(len(own))
    for inner, outer in unique[shared > 0.8 * own[unique[:, 0]]]:
        _join(parent, inner, outer)
    return _roots(parent)


def _first_equal(rows: np.ndarray) -> np.ndarray:
    """Index of the first row equal to each row of (F, 3) int64."""
    size = int(rows.max()) + 1
    if size < 1 << 21:  # three numbers fit into one, which sorts faster
        key = (rows[:, 0] * size + rows[:, 1]) * size + rows[:, 2]
        order = np.argsort(key, kind="stable")
    else:
        order = np.lexsort(rows.T)
    ordered = rows[order]
    new = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))
    first = np.empty(len(rows), np.int64)
    first[order] = order[np.flatnonzero(new)][np.cumsum(new) - 1]  # stable: the first of a run comes first
    return first


def _by_cell(scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First point of each occupied unit cell, and the cell of each point. Coordinates in [0, 2^21)."""
    cells = scaled.astype(np.int64)
    key = cells[:, 0] << 42 | cells[:, 1] << 21 | cells[:, 2]
    _, first, cell = np.unique(key, return_index=True, return_inverse=True)
    return first, cell


def _outside(
    vertices: np.ndarray, faces: np.ndarray, labels: np.ndarray, flipped: np.ndarray, twin: np.ndarray
) -> np.ndarray:
    """1 for faces whose normal looks out of their component, -1 for those whose normal looks in, (F,).

    `flipped` tells which faces run against the first of their component; the sign of the volume tells where
    that one looks.
    """
    corners = vertices[faces]
    weight = np.bincount(labels)
    middle = np.stack([np.bincount(labels, corners.mean(axis=1)[:, i]) for i in range(3)], axis=1) / weight[:, None]
    a, b, c = (corners[:, i] - middle[labels] for i in range(3))
    sign = np.where(flipped, -1.0, 1.0)
    counted = np.where(twin == np.arange(len(faces)), sign, 0.0)
    volume = np.bincount(labels, counted * np.einsum("ni,ni->n", np.cross(a, b), c))
    return sign * np.where(volume < 0, -1.0, 1.0)[labels]


def _numbered(roots: np.ndarray) -> np.ndarray:
    """Labels 0, 1, ... in the order in which the roots first occur."""
    _, first, label = np.unique(roots, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[label]


@numba.njit(cache=True)
def _find(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True)
def _join(parent, i, j):
    i, j = _find(parent, i), _find(parent, j)
    parent[max(i, j)] = min(i, j)


@numba.njit(cache=True)
def _find_turned(parent, flip, i):
    """Root of i, and whether i runs against it."""
    turned, j = False, i
    while parent[j] != j:
        turned ^= flip[j]
        j = parent[j]
    root, against = j, turned
    while parent[i] != root and parent[i] != i:  # everything on the way hangs below the root from now on
        above, rest = parent[i], against ^ flip[i]
        parent[i], flip[i] = root, against
        i, against = above, rest
    return root, turned


@numba.njit(cache=True)
def _join_turned(parent, flip, i, j, against):
    """Unite i and j, of which one runs against the other or not."""
    root, turned = _find_turned(parent, flip, i)
    other, other_turned = _find_turned(parent, flip, j)
    if root == other:
        return
    turn = turned ^ other_turned ^ against
    if root > other:
        root, other = other, root
    parent[other], flip[other] = root, turn


@numba.njit(cache=True)
def _flips(parent, flip):
    turned = np.empty(len(parent), np.bool_)
    for i in range(len(parent)):
        turned[i] = _find_turned(parent, flip, i)[1]
    return turned


@numba.njit(cache=True)
def _roots(parent):
    roots = np.empty_like(parent)
    for i in range(len(parent)):
        roots[i] = _find(parent, i)
    return roots


@numba.njit(cache=True)
def _join_near(parent, order, group, points):
    """Unite points of a group (a run in `group`) that are nearer than 1 along every axis."""
    start = 0
    for i in range(len(order)):
        if group[i] != group[start]:
            start = i
        for j in range(start, i):
            p, q = points[order[i]], points[order[j]]
            if max(abs(p[0] - q[0]), abs(p[1] - q[1]), abs(p[2] - q[2])) <= 1.0:
                _join(parent, order[i], order[j])


@numba.njit(cache=True)
def _join_faces(parent, flip, vertices, start, apex, forward, order, bounds, sheets, side, crease):
    """Unite faces across edges. Edge e is half-edges order[bounds[e]:bounds[e+1]]; half-edge h belongs to
    face h // 3.

    `side` (F,) is 1 where normals look out of the solid, -1 where they look in. Sheets end where more than
    two meet.
    """
    for e in range(len(bounds) - 1):
        first, last = bounds[e], bounds[e + 1]
        if last - first == 2:
            g, h = order[first], order[first + 1]
            against = forward[first] == forward[first + 1]  # both faces run along the edge the same way
            if crease >= math.pi or side[g // 3] * _bend(vertices, start, apex, g, h, against) <= crease:
                _join_turned(parent, flip, g // 3, h // 3, against)
        elif last - first > 2 and not sheets:
            _pair_around(parent, flip, vertices, start, apex, forward, order, first, last)


@numba.njit(cache=True)
def _bend(vertices, start, apex, g, h, against):
    """Angle between two faces at their common edge (0 where they lie flat), positive where g's normal looks
    into the bend.
    """
    n, m = _normal(vertices, start, g), _normal(vertices, start, h)
    if against:
        m = -m
    cosine = n @ m / max(math.sqrt((n @ n) * (m @ m)), 1e-300)
    angle = math.acos(min(1.0, max(-1.0, cosine)))
    return angle if n @ (vertices[apex[h]] - vertices[start[g]]) > 0 else -angle


@numba.njit(cache=True)
def _normal(vertices, start, h):
    f = h // 3 * 3
    a, b, c = vertices[start[f]], vertices[start[f + 1]], vertices[start[f + 2]]
    return np.cross(b - a, c - a)


@numba.njit(cache=True)
def _pair_around(parent, flip, vertices, start, apex, forward, order, first, last):
    """Unite the faces that bound one solid at an edge where more than two meet.

    A face that runs along the edge backwards has its inside at larger angles, one that runs forwards at
    smaller ones; so a solid reaches from a backward face to the next forward one. Where faces lie on one
    another, one solid ends before the next begins.
    """
    h = order[first]
    g = h // 3 * 3 + (h + 1) % 3
    origin = vertices[start[h]]
    axis = vertices[start[g]] - origin
    if not forward[first]:
        axis = -axis
    axis = axis / max(math.sqrt(axis @ axis), 1e-300)
    reference = vertices[apex[h]] - origin
    reference = reference - axis * (reference @ axis)
    across = np.cross(axis, reference)
    count = last - first
    angles = np.empty(count)
    for k in range(count):
        towards = vertices[apex[order[first + k]]] - origin
        angles[k] = math.atan2(towards @ across, towards @ reference)
    by_angle = np.argsort(angles)
    turn = _widest_gap(angles[by_angle])
    key, step = np.empty(count, np.int64), 0
    for k in range(count):
        here, before = by_angle[(turn + k) % count], by_angle[(turn + k - 1) % count]
        if k > 0 and (angles[here] - angles[before]) % (2 * math.pi) > _SAME_ANGLE:
            step += 2
        key[here] = step + (0 if forward[first + here] else 1)
    ring = np.argsort(key)
    for k in range(count):
        if forward[first + ring[k]] == forward[first + ring[(k + 1) % count]]:
            return  # not the surfaces of solids: whatever meets here ends here
    for k in range(count):
        i, j = ring[k], ring[(k + 1) % count]
        if not forward[first + i]:
            _join_turned(parent, flip, order[first + i] // 3, order[first + j] // 3, False)


@numba.njit(cache=True)
def _widest_gap(angles):
    """Index of the angle (ascending) that follows the widest gap around the circle."""
    best, widest = 0, angles[0] + 2 * math.pi - angles[-1]
    for k in range(1, len(angles)):
        if angles[k] - angles[k - 1] > widest:
            best, widest = k, angles[k] - angles[k - 1]
    return best
