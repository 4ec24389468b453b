"""Parts of a mesh that names none: connected components, grouped to at most 16.

After ComplementMe (Sung et al. 2017, section 4.1), whose parts are connected components of a scene graph's
leaves, grouped where they lie in one another, near one another, or are copies: here components of the
welded mesh; slats (rows of copies closer than they are wide) become one part; then the cheapest pair is
joined until no cheap one is left and at most 16 remain. Copies that stand apart, such as four legs, stay
apart as long as there is room, and mirror images are joined alike.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jr_dist.geometry.mesh_components import face_components, weld
from jr_dist.geometry.sampling import triangle_areas
from jr_dist.geometry.surface_contacts import contact_counts, even_samples, nearest_label

MAX_PARTS = 16
# The constants below were chosen on every other model of IKEA-Manual and judged on the rest:
# benchmarks/segmentation.py.
JOIN_BELOW = 0.03  # pairs cheaper than this are joined even where there is room for both
_MAX_COMPONENTS = 256  # smaller ones beyond these join the nearest first, so that time stays bounded
_CREASE = np.radians(35.0)
_SPLIT_ABOVE = 0.3  # components with more than this share of the area are cut at concave creases
_CONTACT = 0.015  # of the box diagonal: surfaces nearer than this touch
_THIN = 0.005  # of the box diagonal: no box counts as thinner
_SAME_COST = 1.02  # costs of mirrored pairs differ by no more: sampling


@dataclass
class _Groups:
    """Pieces of the surface that are being joined, in units of the box diagonal. Rows of joined ones stay,
    unused.
    """

    area: np.ndarray  # [C] share of the whole
    low: np.ndarray  # [C, 3]
    high: np.ndarray  # [C, 3]
    volume: np.ndarray  # [C] of the boxes of the components inside, at most that of the group's box
    samples: np.ndarray  # [C]
    contact: np.ndarray  # [C, C] how many samples of i are near j


def segment(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    *,
    max_parts: int = MAX_PARTS,
    pieces: Int[np.ndarray, " F"] | None = None,
    join_below: float = JOIN_BELOW,
) -> Int[np.ndarray, " F"]:
    """Part of each face, 0 .. P-1 with P <= `max_parts`, in the order of their first face. Any position and
    scale.

    `pieces` (0 .. C-1) are what to group, the components of the mesh where not given. With `join_below=0`
    pieces are joined only where there are too many.
    """
    if pieces is None:
        pieces = split_pieces(vertices, faces)
    pieces = _without_crumbs(vertices, faces, pieces)
    if pieces.max() == 0:
        return pieces
    groups = _measure(vertices, faces, pieces)
    if join_below > 0 or len(groups.area) > max_parts:
        slats = _slats(groups)
        pieces = slats[pieces]
        groups = _measure(vertices, faces, pieces)
    part = _joined(groups, max_parts, join_below)[pieces]
    _, first, part = np.unique(part, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[part]


def split_pieces(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, " F"]:
    """Piece of each face, 0 .. C-1: connected components, those that hold much of the surface cut at their concave
    creases."""
    place = weld(vertices)
    whole = face_components(vertices, faces, place)
    areas = np.bincount(whole, triangle_areas(vertices, faces))
    large = (areas > _SPLIT_ABOVE * areas.sum())[whole]
    if not large.any():
        return whole
    cut = face_components(vertices, faces, place, crease=_CREASE)
    finer = np.where(large, whole.max() + 1 + cut, whole)
    finer = np.unique(finer, return_inverse=True)[1]
    return finer if finer.max() < _MAX_COMPONENTS else whole


def _without_crumbs(vertices: np.ndarray, faces: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """At most `_MAX_COMPONENTS` pieces: the largest, each of the others joined to a near one."""
    areas = np.bincount(pieces, triangle_areas(vertices, faces))
    if len(areas) <= _MAX_COMPONENTS:
        return pieces
    rank = np.argsort(np.argsort(-areas, kind="stable"))
    core = rank[pieces] < _MAX_COMPONENTS
    points, label = even_samples(vertices, faces[core], rank[pieces[core]], num_points=20000, minimum=8)
    crumb_faces = np.flatnonzero(~core)
    crumbs, first = np.unique(pieces[crumb_faces], return_index=True)
    middle = vertices[faces[crumb_faces[first]]].mean(axis=1)
    joined = rank.copy()
    joined[crumbs] = nearest_label(middle, points, label)
    return joined[pieces]


def _measure(vertices: np.ndarray, faces: np.ndarray, pieces: np.ndarray) -> _Groups:
    corners = vertices[faces]
    diagonal = float(np.linalg.norm(corners.max(axis=(0, 1)) - corners.min(axis=(0, 1))))
    count = int(pieces.max()) + 1
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, pieces, corners.min(axis=1) / diagonal)
    np.maximum.at(high, pieces, corners.max(axis=1) / diagonal)
    areas = np.bincount(pieces, triangle_areas(vertices, faces))
    points, label = even_samples(vertices / diagonal, faces, pieces, num_points=20000, minimum=24)
    contact = contact_counts(points, label, count, _CONTACT).astype(np.float64)
    samples = np.bincount(label, minlength=count).astype(np.float64)
    return _Groups(areas / areas.sum(), low, high, _box_volume(high - low), samples, contact)


def _box_volume(extent: np.ndarray) -> np.ndarray:
    return np.maximum(extent, _THIN).prod(axis=-1)


def _slats(groups: _Groups) -> np.ndarray:
    """Group of each piece: three or more equal long pieces side by side, with gaps narrower than they are
    wide, are one.
    """
    extent, centre = groups.high - groups.low, (groups.high + groups.low) / 2
    axis, length, width = extent.argmax(axis=1), extent.max(axis=1), np.sort(extent, axis=1)[:, 1]
    root = np.arange(len(extent))
    long = (length > 5 * width) & (length > 0.05)
    for i in np.flatnonzero(long):
        equal = long & (axis == axis[i]) & (np.abs(extent - extent[i]).max(axis=1) < 0.1 * width[i] + 0.02 * length[i])
        shift = np.abs(centre - centre[i])
        in_row = shift[:, axis[i]] < 0.05 * length[i]
        shift[:, axis[i]] = 0
        near = np.linalg.norm(shift, axis=1) < 1.8 * width[i]
        row = np.flatnonzero(equal & in_row & near)
        root[np.isin(root, root[row])] = root[row].min(initial=root[i])
    alone = np.bincount(root, minlength=len(root))[root] < 3
    return np.unique(np.where(alone, np.arange(len(root)), root), return_inverse=True)[1]


def _joined(groups: _Groups, max_parts: int, join_below: float) -> np.ndarray:
    """Join the cheapest pair until none is cheaper than `join_below` and at most `max_parts` are left;
    group of each piece.
    """
    count = len(groups.area)
    root, alive = np.arange(count), np.ones(count, bool)
    cost = np.stack([_costs(groups, i, alive) for i in range(count)])
    tied = join_below
    for left in range(count, 1, -1):
        i, j = sorted(divmod(int(cost.argmin()), count))
        if left > max_parts:
            tied = max(tied, cost[i, j] * _SAME_COST)
        # What costs the same as the last join is its mirror image; a long row of equals must not fall like dominoes.
        elif cost[i, j] >= (tied if left > 3 * max_parts // 4 else join_below):
            break
        alive[j] = False
        root[root == j] = i
        _join(groups, i, j)
        cost[i] = cost[:, i] = _costs(groups, i, alive)
        cost[j] = cost[:, j] = np.inf
    return np.unique(root, return_inverse=True)[1]


def _costs(groups: _Groups, i: int, alive: np.ndarray) -> np.ndarray:
    """Price (C,) of joining group i with each other: high where the smaller of the two is large, little of
    it touches the other,
    and the box of both is emptier than their own boxes, since a part is deformed by its box."""
    union = _box_volume(np.maximum(groups.high, groups.high[i]) - np.minimum(groups.low, groups.low[i]))
    own = _box_volume(groups.high - groups.low)
    emptier = np.maximum(union / (groups.volume + groups.volume[i]), 1)
    grown = np.maximum(union / (own + own[i]), 1)
    apart = np.maximum(np.maximum(groups.low, groups.low[i]) - np.minimum(groups.high, groups.high[i]), 0)
    smaller = groups.area[i] < groups.area
    touching = np.where(smaller, groups.contact[i] / groups.samples[i], groups.contact[:, i] / groups.samples)
    cost = np.minimum(groups.area, groups.area[i]) ** 0.7 * (1 - 0.3 * touching) * emptier**1.25 * grown**2
    cost *= 1 + 20 * np.linalg.norm(apart, axis=1)
    cost[groups.contact[i] + groups.contact[:, i] == 0] *= 4
    cost[~alive] = np.inf
    cost[i] = np.inf
    return cost


def _join(groups: _Groups, i: int, j: int) -> None:
    """Put group j into group i."""
    groups.area[i] += groups.area[j]
    groups.low[i] = np.minimum(groups.low[i], groups.low[j])
    groups.high[i] = np.maximum(groups.high[i], groups.high[j])
    groups.volume[i] = min(groups.volume[i] + groups.volume[j], _box_volume(groups.high[i] - groups.low[i]))
    groups.samples[i] += groups.samples[j]
    # A sample near both is counted twice, but never more often than there are samples.
    groups.contact[i] = np.minimum(groups.contact[i] + groups.contact[j], groups.samples[i])
    groups.contact[:, i] = np.minimum(groups.contact[:, i] + groups.contact[:, j], groups.samples)
    groups.contact[i, i] = groups.contact[i, j] = groups.contact[j, i] = 0
