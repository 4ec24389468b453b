"""Components and their grouping: touching solids stay apart, copies stay apart, nothing depends on frame or
order.
"""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.geometry.mesh_components import face_components, repeated_faces, weld
from jr_dist.geometry.segmentation import MAX_PARTS, segment
from jr_dist.geometry.surface_contacts import contact_counts, even_samples, nearest_label


def box(extents, centre):
    mesh = trimesh.creation.box(extents)
    mesh.apply_translation(centre)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def joined(*meshes):
    """Vertices, faces and which mesh each face is of."""
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    faces = [faces + start for (_, faces), start in zip(meshes, starts)]
    which = np.repeat(np.arange(len(meshes)), [len(faces) for _, faces in meshes])
    return np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(faces), which


def table():
    legs = [box((0.06, 0.7, 0.06), (x, 0.35, z)) for x in (-0.5, 0.5) for z in (-0.3, 0.3)]
    return joined(box((1.2, 0.05, 0.8), (0, 0.725, 0)), *legs)


def same_partition(a, b):
    """Whether two labellings put the same things together."""
    return len(set(zip(a.tolist(), b.tolist()))) == len(set(a.tolist())) == len(set(b.tolist()))


def components(vertices, faces, **options):
    return face_components(vertices, faces, weld(vertices), **options)


def soup(vertices, faces):
    """The same triangles, none sharing a vertex."""
    return vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)


# --- welding
# -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_weld_joins_what_is_near_and_only_chains_of_it(seed, exponent):
    rng = np.random.default_rng(seed)
    anchors = rng.random((12, 3))
    points = np.concatenate([anchors, anchors[rng.integers(12, size=30)] + rng.normal(0, 3e-6, (30, 3))])
    points = (points - 0.3) * 10**exponent
    place = weld(points)
    cell = 1e-5 * np.linalg.norm(np.ptp(points, axis=0))
    near = np.abs(points[:, None] - points[None]).max(axis=2) < 0.999 * cell
    for _ in range(6):
        near = near @ near  # chains
    assert (place[:, None] == place[None])[near].all()
    assert not (place[:, None] == place[None])[
        ~near & (np.abs(points[:, None] - points[None]).max(axis=2) > 30 * cell)
    ].any()


def test_weld_of_a_single_place():
    assert weld(np.ones((5, 3))).tolist() == [0] * 5


# --- components
# --------------------------------------------------------------------------------------------------


def test_a_soup_of_triangles_is_put_together_again():
    vertices, faces, which = joined(box((1, 1, 1), (0, 0, 0)), box((1, 1, 1), (3, 0, 0)))
    assert np.array_equal(components(*soup(vertices, faces)), which)


@pytest.mark.parametrize("shift", [(1, 0, 0), (1, 1, 0), (1, 1, 1), (0.5, 1, 0), (1, 0.5, 0.5)])
def test_touching_boxes_stay_two(shift):
    vertices, faces, which = joined(box((1, 1, 1), (0, 0, 0)), box((1, 1, 1), shift))
    assert np.array_equal(components(*soup(vertices, faces)), which)


def test_a_wall_of_boxes_that_share_all_their_faces():
    boxes = [box((1, 1, 1), (x, y, 0)) for x in range(3) for y in range(3)]
    vertices, faces, which = joined(*boxes)
    assert np.array_equal(components(vertices, faces), which)


def test_sheets_drawn_on_both_sides_are_one():
    vertices, faces, which = joined(box((1, 1, 1), (0, 0, 0)), box((1, 1, 1), (2, 0, 0)))
    both = np.concatenate([faces, faces[:, ::-1]])
    assert np.array_equal(components(vertices, both), np.tile(which, 2))


def test_a_lining_belongs_to_what_it_lines():
    inner_and_outer = [box((1, 1, 1), (0, 0, 0)) for _ in range(2)]
    inner_and_outer[1] = (inner_and_outer[1][0], inner_and_outer[1][1][:, ::-1])
    ball = trimesh.creation.icosphere(subdivisions=2)
    ball.apply_translation((3, 0, 0))
    vertices, faces, which = joined(*inner_and_outer, (np.asarray(ball.vertices), np.asarray(ball.faces)))
    assert np.array_equal(components(vertices, faces), np.where(which == 2, 1, 0))


def test_repeated_faces_are_found_by_place_and_side():
    vertices, faces = box((1, 1, 1), (0, 0, 0))
    again = np.concatenate([faces, np.roll(faces[:3], 1, axis=1), faces[3:5, ::-1]])
    assert np.flatnonzero(repeated_faces(again, weld(vertices))).tolist() == [12, 13, 14]


def l_shape():
    """An L of 3 x 1 x 1 with a 1 x 2 x 1 arm on top: one closed surface, drawn in a plane and extruded."""
    outline = np.array([(0, 0), (3, 0), (3, 1), (1, 1), (1, 3), (0, 3)], float)
    caps = np.array([(0, 1, 3), (1, 2, 3), (0, 3, 5), (3, 4, 5)])
    bottom = np.column_stack([outline, np.zeros(6)])
    sides = [(i, (i + 1) % 6, (i + 1) % 6 + 6) for i in range(6)] + [(i, (i + 1) % 6 + 6, i + 6) for i in range(6)]
    return np.concatenate([bottom, bottom + np.array((0, 0, 1))]), np.concatenate([caps[:, ::-1], caps + 6, sides])


@pytest.mark.parametrize("turned", [False, True])
def test_concave_creases_are_cut_and_convex_ones_are_not(turned):
    column = trimesh.creation.cylinder(radius=0.3, height=2, sections=16)
    vertices, faces = np.asarray(column.vertices), np.asarray(column.faces)
    assert components(vertices, faces, crease=0.5).max() == 0
    # A thick disc with a stem extruded from its middle: a profile turned around the axis.
    profile = [(0, 0), (1, 0), (1, 0.2), (0.1, 0.2), (0.1, 2), (0, 2)]
    lathe = trimesh.creation.revolve(np.array(profile), sections=24)
    vertices, faces = np.asarray(lathe.vertices), np.asarray(lathe.faces)
    faces = faces[:, ::-1] if turned else faces
    assert components(vertices, faces).max() == 0
    cut = components(vertices, faces, crease=0.5)
    stem = vertices[faces][:, :, 2].max(axis=1) > 0.21
    assert same_partition(cut, stem)
    # An L's crease ends at flat sides: those hold it together.
    assert components(*l_shape(), crease=0.5).max() == 0


# --- contacts
# ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_contact_counts_are_those_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    points, label = rng.normal(size=(200, 3)), rng.integers(5, size=200)
    near = np.linalg.norm(points[:, None] - points[None], axis=2) <= 0.3
    expected = [
        [(near[np.ix_(label == i, label == j)].any(axis=1)).sum() if i != j else 0 for j in range(5)] for i in range(5)
    ]
    assert np.array_equal(contact_counts(points, label, 5, 0.3), expected)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_nearest_label_is_near_enough(seed):
    rng = np.random.default_rng(seed)
    points, label = rng.normal(size=(300, 3)), np.arange(300)
    queries = rng.normal(0, 2, size=(50, 3))
    found = nearest_label(queries, points, label)
    distance = np.linalg.norm(queries[:, None] - points[None], axis=2)
    span = np.linalg.norm(np.ptp(np.concatenate([points, queries]), axis=0))
    assert (distance[np.arange(50), found] <= 4 * distance.min(axis=1) + span / 32).all()


def test_even_samples_lie_on_their_label_and_follow_area():
    vertices, faces, which = table()
    points, label = even_samples(vertices, faces, which, num_points=5000, minimum=24)
    counts = np.bincount(label)
    area = np.bincount(which, trimesh.Trimesh(vertices, faces, process=False).area_faces)
    assert np.allclose(counts / counts.sum(), area / area.sum(), atol=0.01)
    for part in range(5):
        corners = vertices[faces[which == part]].reshape(-1, 3)
        assert (points[label == part] >= corners.min(axis=0) - 1e-9).all()
        assert (points[label == part] <= corners.max(axis=0) + 1e-9).all()


# --- parts
# -------------------------------------------------------------------------------------------------------


def test_a_table_is_a_top_and_four_legs():
    vertices, faces, which = table()
    assert np.array_equal(segment(vertices, faces), which)


@given(st.permutations(range(3)), st.floats(-6, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_parts_depend_neither_on_frame_nor_on_order(axes, exponent, seed):
    rng = np.random.default_rng(seed)
    vertices, faces, which = table()
    order = rng.permutation(len(faces))
    moved = (vertices[:, axes] + rng.normal(size=3)) * 10**exponent
    assert same_partition(segment(moved, faces[order]), which[order])


def test_a_row_of_slats_is_one_part_and_rungs_far_apart_are_not():
    slats = [box((1.0, 0.02, 0.06), (0, 0.4, 0.08 * i - 0.24)) for i in range(7)]
    posts = [box((0.06, 1.5, 0.06), (x, 0.75, -0.4)) for x in (-0.5, 0.5)]
    rungs = [box((0.94, 0.04, 0.04), (0, y, -0.4)) for y in (0.8, 1.1, 1.4)]
    vertices, faces, which = joined(*slats, *posts, *rungs)
    expected = np.where(which < 7, 0, which)
    assert same_partition(segment(vertices, faces), expected)


def test_fragments_join_their_neighbour():
    vertices, faces, which = table()
    knobs = [box((0.01, 0.01, 0.01), (x, 0.2, 0.335)) for x in (-0.5, 0.5)]
    legs_front = {-0.5: 2, 0.5: 4}
    vertices, faces, all_of = joined((vertices, faces), *knobs)
    expected = np.concatenate([which, np.repeat([legs_front[-0.5], legs_front[0.5]], 12)])
    assert len(all_of) == len(expected)
    assert np.array_equal(segment(vertices, faces), expected)


def test_mirrored_parts_are_joined_together_or_not_at_all():
    rng = np.random.default_rng(3)
    side = [
        box(rng.uniform(0.05, 0.3, 3), (0.5 + rng.uniform(0, 1), rng.uniform(0, 2), rng.uniform(-1, 1)))
        for _ in range(14)
    ]
    other = [(vertices * (-1, 1, 1), faces[:, ::-1]) for vertices, faces in side]
    vertices, faces, which = joined(*side, *other)
    part = segment(vertices, faces)
    groups = [part[which == i][0] for i in range(28)]
    assert max(part) < MAX_PARTS
    assert same_partition(np.array(groups[:14]), np.array(groups[14:]))


@pytest.mark.parametrize("count", [17, 200, 3000])
def test_many_pieces_become_at_most_sixteen_parts(count):
    rng = np.random.default_rng(count)
    boxes = [box(rng.uniform(0.01, 0.1, 3), rng.random(3)) for _ in range(count)]
    vertices, faces, which = joined(*boxes)
    part = segment(vertices, faces)
    assert 2 <= len(set(part.tolist())) <= MAX_PARTS
    assert set(part.tolist()) == set(range(part.max() + 1))
    for i in range(count):
        assert len(set(part[which == i].tolist())) == 1, "a box is not cut"


def test_given_pieces_are_kept_where_there_is_room_and_grouped_where_there_is_not():
    boxes = [box((0.05, 0.05, 0.05), (0.2 * i, 0, 0)) for i in range(20)]
    vertices, faces, which = joined(*boxes)
    few = which < 10
    assert np.array_equal(segment(vertices, faces[few], pieces=which[few], join_below=0.0), which[few])
    part = segment(vertices, faces, pieces=which, join_below=0.0)
    assert 8 <= part.max() < MAX_PARTS


@pytest.mark.parametrize(
    "extents",
    [(1, 1, 0), (1e-7, 1, 1)],
    ids=["flat", "thin"],
)
def test_flat_and_thin_models(extents):
    sheet = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]) * np.array(extents, float)
    faces = np.array([(0, 1, 2), (0, 2, 3)])
    assert segment(sheet, faces).tolist() == [0, 0]
    vertices, faces, which = joined((sheet, faces), (sheet + np.array((3, 0, 0)), faces))
    assert np.array_equal(segment(vertices, faces), which)


@pytest.mark.slow
def test_two_million_triangles():
    steps = np.arange(1001) / 1000
    x, y = np.meshgrid(steps, steps)
    grid = np.stack([x.ravel(), 0.1 * np.sin(9 * x.ravel()), y.ravel()], axis=1)
    corner = (np.arange(1000)[:, None] * 1001 + np.arange(1000)).ravel()
    sheet = np.concatenate(
        [np.stack([corner, corner + 1, corner + 1002], 1), np.stack([corner, corner + 1002, corner + 1001], 1)]
    )
    vertices, faces, which = joined((grid, sheet), box((0.1, 1, 0.1), (0.5, -1, 0.5)))
    assert len(faces) > 2_000_000
    assert np.array_equal(segment(vertices, faces), which)
