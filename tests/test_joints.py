"""Joints: where parts touch, whatever the order, the side and the sampling."""

import numpy as np
import pytest
from geometry_cases import box_source, box_surface
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from jr_dist.geometry.boxes import part_boxes
from jr_dist.geometry.joint_kernels import agreed_coordinates
from jr_dist.geometry.joints import KEY_POINTS, Joints, find_joints, joint_gaps, num_connected_components
from jr_dist.geometry.projection import null_space_dimensions

SEEDS = st.integers(0, 2**31)


def _by_the_definition(points, part_index, centre, half_extent, tolerance):
    """Every pair of samples compared; the joint in the frame of the points."""
    found = {}
    num_parts = len(centre)
    own = [points[part_index == part] for part in range(num_parts)]
    snapped = []
    for part in range(num_parts):
        keys = centre[part] + half_extent[part] * KEY_POINTS
        distance = np.linalg.norm(keys[:, None] - own[part][None], axis=-1)
        snapped.append(own[part][distance.argmin(axis=1)])
    for i in range(num_parts):
        for j in range(i + 1, num_parts):
            if np.linalg.norm(own[i][:, None] - own[j][None], axis=-1).min() < tolerance:
                distance = np.linalg.norm(snapped[i][:, None] - snapped[j][None], axis=-1)
                a, b = np.unravel_index(distance.argmin(), distance.shape)
                found[i, j] = (snapped[i][a] + snapped[j][b]) / 2
    return found


def _positions(joints, centre, half_extent):
    return centre[joints.parts[:, 0]] + half_extent[joints.parts[:, 0]] * joints.coordinates[:, 0]


def test_there_are_26_key_points():
    assert KEY_POINTS.shape == (26, 3)
    kinds = np.abs(KEY_POINTS).sum(axis=1)
    assert [(kinds == k).sum() for k in (1, 2, 3)] == [6, 12, 8]


@given(SEEDS, st.floats(0.01, 0.3), st.booleans())
@settings(max_examples=25, deadline=None)
def test_joints_are_those_of_the_definition(seed, tolerance, thin):
    rng = np.random.default_rng(seed)
    source = box_source(5, rng, num_points=120, thin=thin, tolerance=tolerance, agree_within=0.0)
    expected = _by_the_definition(source.points, source.part_index, source.centre, source.half_extent, tolerance)
    assert [tuple(pair) for pair in source.joints.parts] == sorted(expected)
    if expected:
        np.testing.assert_allclose(
            _positions(source.joints, source.centre, source.half_extent),
            [expected[pair] for pair in sorted(expected)],
            atol=1e-9,
        )


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_joints_are_closed_where_nothing_moved_and_opened_by_a_known_amount(seed):
    rng = np.random.default_rng(seed)
    source = box_source(6, rng, num_points=300, thin=True)
    assume(len(source.joints) > 0)
    gaps = joint_gaps(source.joints, source.centre, source.half_extent)
    assert gaps.shape == (len(source.joints),)
    assert gaps.max() < 1e-12
    i, j = source.joints.parts[0]
    moved = source.centre.copy()
    moved[i, 1] += 0.25
    gaps = joint_gaps(source.joints, moved, source.half_extent)
    np.testing.assert_allclose(gaps[0], 0.25, atol=1e-12)
    np.testing.assert_allclose(gaps, np.where((source.joints.parts == i).any(axis=1), 0.25, 0), atol=1e-12)
    assert j != i


@given(SEEDS)
@example(285)  # joints in the middle of two others
@example(213064437)
@settings(max_examples=25, deadline=None)
def test_permuted_parts_give_the_same_joints(seed):
    rng = np.random.default_rng(seed)
    source = box_source(6, rng, num_points=150)
    order = rng.permutation(6)
    where = np.argsort(order)
    joints = find_joints(source.points, where[source.part_index], source.centre[order], source.half_extent[order])
    before = {
        frozenset(pair.tolist()): position
        for pair, position in zip(source.joints.parts, _positions(source.joints, source.centre, source.half_extent))
    }
    positions = _positions(joints, source.centre[order], source.half_extent[order])
    after = {frozenset(order[pair].tolist()): position for pair, position in zip(joints.parts, positions)}
    assert before.keys() == after.keys()
    for pair, position in before.items():
        np.testing.assert_allclose(after[pair], position, atol=1e-9)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_a_mirrored_source_has_mirrored_joints(seed):
    source = box_source(6, np.random.default_rng(seed), num_points=150)
    flip = np.array([-1.0, 1.0, 1.0])
    joints = find_joints(source.points * flip, source.part_index, source.centre * flip, source.half_extent)
    np.testing.assert_array_equal(joints.parts, source.joints.parts)
    np.testing.assert_allclose(joints.coordinates, source.joints.coordinates * flip, atol=1e-9)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-0.04, 0.0, 0.04], [-0.04, 0.0, 0.04]),  # the middle one would go to either
        ([-0.02, 0.0, 0.02], [0.0, 0.0, 0.0]),
        ([-0.04, 0.0, 0.03], [-0.04, 0.015, 0.015]),
        ([-0.04, 0.0, 0.04, 0.3, 0.34], [-0.04, 0.0, 0.04, 0.32, 0.32]),  # those elsewhere agree all the same
        ([0.0, 0.01, 0.045, 0.055], [0.005, 0.005, 0.05, 0.05]),
        ([], []),
    ],
)
def test_joints_in_the_middle_of_two_others_agree_with_neither(values, expected):
    rng = np.random.default_rng(0)
    parts = np.stack([np.zeros(len(values), dtype=np.int64), np.arange(1, len(values) + 1)], axis=1)
    for sign in (1.0, -1.0):
        order = rng.permutation(len(values))
        given_values = sign * np.array(values, dtype=np.float64)[order]
        found = agreed_coordinates(given_values, parts[order], len(values) + 1, 0.05, 1e-6)
        np.testing.assert_allclose(found, sign * np.array(expected)[order], atol=1e-12)


def test_ties_are_averaged_so_that_a_symmetric_contact_has_a_symmetric_joint():
    grid = np.array([[x, y, z] for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)], dtype=float)
    points = np.concatenate([0.1 * grid, 0.1 * grid + np.array([0.0, 0.2, 0.0])])
    part_index = np.repeat([0, 1], 27)
    joints = find_joints(points, part_index, *part_boxes(points, part_index, 2))
    np.testing.assert_allclose(joints.coordinates, [[[0, 1, 0], [0, -1, 0]]], atol=1e-9)


def test_parts_that_are_apart_share_no_joint():
    rng = np.random.default_rng(0)
    extent = np.full(3, 0.1)
    points = np.concatenate([box_surface(np.array([x, 0, 0.0]), extent, 500, rng) for x in (0.0, 0.26)])
    part_index = np.repeat([0, 1], 500)
    boxes = part_boxes(points, part_index, 2)
    none = find_joints(points, part_index, *boxes, tolerance=0.059)
    assert none.parts.shape == (0, 2) and none.coordinates.shape == (0, 2, 3)
    assert joint_gaps(none, *boxes).shape == (0,)
    assert len(find_joints(points, part_index, *boxes, tolerance=0.0601)) == 1


def test_a_part_without_samples_has_no_joint():
    source = box_source(3, np.random.default_rng(1))
    kept = source.part_index != 1
    joints = find_joints(source.points[kept], source.part_index[kept], source.centre, source.half_extent)
    assert not (joints.parts == 1).any()


@given(SEEDS, st.floats(0.05, 0.3))
@settings(max_examples=25, deadline=None)
def test_joints_agree_only_with_neighbours_and_move_less_than_allowed(seed, within):
    def source(agree_within):
        return box_source(7, np.random.default_rng(seed), num_points=150, tolerance=0.1, agree_within=agree_within)

    apart, agreed = source(0.0), source(within)
    np.testing.assert_array_equal(apart.joints.parts, agreed.joints.parts)
    before, after = (_positions(s.joints, s.centre, s.half_extent) for s in (apart, agreed))
    assert np.abs(after - before).max(initial=0.0) < within
    parts = agreed.joints.parts
    for axis in range(3):
        for value in np.unique(after[:, axis].round(9)):
            group = np.flatnonzero(after[:, axis].round(9) == value)
            np.testing.assert_allclose(before[group, axis].mean(), value, atol=1e-8)
            assert np.ptp(before[group, axis]) < within
            _, label = np.unique(parts[group], return_inverse=True)
            chain = Joints(label.reshape(-1, 2), np.zeros((len(group), 2, 3)))
            assert num_connected_components(chain, int(label.max()) + 1) == 1
    args = [(s.joints.parts, s.joints.coordinates, 7) for s in (apart, agreed)]
    assert (null_space_dimensions(*args[1]) >= null_space_dimensions(*args[0])).all()


def test_three_parts_that_meet_at_a_corner_are_not_made_rigid():
    # A top, a leg and an apron below it, as in a table: each touches both others near one corner.
    rng = np.random.default_rng(3)
    boxes = [
        ([0.0, 0.52, 0.0], [0.5, 0.02, 0.3]),
        ([0.46, 0.25, 0.26], [0.03, 0.25, 0.03]),
        ([0.2, 0.45, 0.26], [0.23, 0.05, 0.01]),
    ]
    points = np.concatenate([box_surface(np.array(c), np.array(s), 2000, rng) for c, s in boxes])
    part_index = np.repeat([0, 1, 2], 2000)
    centre, half_extent = part_boxes(points, part_index, 3)
    freedom = [
        null_space_dimensions(joints.parts, joints.coordinates, 3)
        for joints in (
            find_joints(points, part_index, centre, half_extent, agree_within=within) for within in (0.0, None)
        )
    ]
    assert freedom[0].sum() == 9 and freedom[1].sum() > 9


def test_components_of_the_joint_graph():
    def joints(*pairs):
        return Joints(np.array(pairs, dtype=np.int64).reshape(-1, 2), np.zeros((len(pairs), 2, 3)))

    assert num_connected_components(joints(), 3) == 3
    assert num_connected_components(joints((0, 1), (2, 3)), 5) == 3
    assert num_connected_components(joints((3, 4), (0, 1), (1, 3), (0, 4), (2, 4)), 5) == 1
