"""What is observed of a target: exact shares, normalised by what is seen alone, led back to the whole."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.errors import InputError
from jr_dist.geometry.frames import apply_transform
from jr_dist.geometry.observation import (
    PROTOCOLS,
    Observed,
    check_protocols,
    generator,
    hidden_behind,
    observe,
    posed,
    rotations,
    training_cut,
)

CUTS = [name for name in PROTOCOLS if name.startswith(("partial", "view"))]
LEFT = {"25": 0.75, "50": 0.5, "75": 0.25}


def cloud(seed: int, num_points: int = 200) -> np.ndarray:
    """A cloud of any proportions in its canonical frame."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (num_points, 3)) * rng.uniform(0.1, 1, 3)
    points -= (points.min(axis=0) + points.max(axis=0)) / 2
    return (points / np.linalg.norm(points.max(axis=0))).astype(np.float32)


def back(observed: Observed) -> np.ndarray:
    return apply_transform(observed.transform, observed.points.astype(np.float64))


def rows_of(observed: Observed, points: np.ndarray) -> np.ndarray:
    """Which of the points are observed, and that they are those points."""
    distance = np.linalg.norm(back(observed)[:, None] - points[None], axis=2)
    assert distance.min(axis=1).max() < 1e-6
    return distance.argmin(axis=1)


def is_normalised(observed: Observed) -> bool:
    low, high = observed.points.min(axis=0), observed.points.max(axis=0)
    return bool(np.abs(low + high).max() < 1e-6 and abs(np.linalg.norm(high - low) / 2 - 1) < 1e-6)


def test_full_is_the_cloud_itself():
    points = cloud(0)
    observed = observe(points, "full", generator(0))
    assert observed.points is points
    np.testing.assert_array_equal(observed.transform, np.eye(4))
    assert observed.scale == 1
    assert observed.seen_from_here(points).tobytes() == points.tobytes()


@pytest.mark.parametrize("protocol", CUTS)
@given(seed=st.integers(0, 2**31), num_points=st.sampled_from([64, 131, 200]))
@settings(max_examples=15)
def test_exactly_the_share_asked_for_is_missing(protocol, seed, num_points):
    points = cloud(seed, num_points)
    observed = observe(points, protocol, np.random.default_rng(seed))
    assert len(observed.points) == num_points - round(num_points * (1 - LEFT[protocol[-2:]]))
    rows = rows_of(observed, points)
    assert (np.diff(rows) > 0).all(), "each point once, in the order they had"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_observations_have_one_size_and_are_normalised_by_themselves(protocol):
    sizes = set()
    for seed in range(5):
        points = cloud(seed)
        observed = observe(points, protocol, generator(seed, protocol))
        again = observe(points.copy(), protocol, generator(seed, protocol))
        other = observe(points, protocol, generator(seed + 1, protocol))
        sizes.add(len(observed.points))
        assert observed.points.dtype == np.float32
        assert is_normalised(observed)
        assert observed.points.tobytes() == again.points.tobytes()
        assert observed.transform.tobytes() == again.transform.tobytes()
        assert (observed.points.tobytes() == other.points.tobytes()) == (protocol == "full")
        # A similarity: turned and scaled, nothing else; and what leads back leads here.
        linear = observed.transform[:3, :3] / observed.scale
        np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(linear) > 0
        np.testing.assert_allclose(observed.seen_from_here(back(observed)), observed.points, atol=1e-6)
    assert len(sizes) == 1


@pytest.mark.parametrize("protocol", ["partial-50", "partial-75"])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=15)
def test_what_is_hidden_leaves_no_trace(protocol, seed):
    """Hidden points are moved away, blown up and shuffled, still beyond the cut: the observation keeps its bits."""
    points = cloud(seed)
    observed = observe(points, protocol, generator(seed))
    seen = np.zeros(len(points), bool)
    seen[rows_of(observed, points)] = True
    # The first numbers of the generator are the direction of the cut.
    normal = generator(seed).normal(size=3)
    normal /= np.linalg.norm(normal)
    assert (points[seen] @ normal).max() <= (points[~seen] @ normal).min()
    rng = np.random.default_rng(seed)
    changed = points.copy()
    away = points[~seen] + normal * rng.uniform(0, 5, ((~seen).sum(), 1)) + np.cross(normal, rng.normal(size=3))
    changed[~seen] = rng.permutation(away)
    after = observe(changed, protocol, generator(seed))
    assert after.points.tobytes() == observed.points.tobytes()
    assert after.transform.tobytes() == observed.transform.tobytes()


def test_directions_of_cuts_are_uniform_on_the_sphere():
    """Of a sphere, from its centre to what is left: the mean of the directions is none, their spread alike in all."""
    half = np.random.default_rng(0).normal(size=(200, 3))
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    sphere = np.concatenate([half, -half]).astype(np.float32)
    towards = np.stack([back(observe(sphere, "partial-50", generator(i))).mean(axis=0) for i in range(1500)])
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    assert np.abs(towards.mean(axis=0)).max() < 0.08
    np.testing.assert_allclose(towards.T @ towards / len(towards), np.eye(3) / 3, atol=0.04)


def board(axis: int, at: float, rng: np.random.Generator, num_points: int = 500) -> np.ndarray:
    """Points of a square across `axis`."""
    points = rng.uniform(-0.5, 0.5, (num_points, 3))
    points[:, axis] = at
    return points


def test_a_view_of_a_cube_sees_the_sides_turned_to_it():
    rng = np.random.default_rng(0)
    sides = [(axis, at) for axis in range(3) for at in (-0.5, 0.5)]
    points = np.concatenate([board(axis, at, rng) for axis, at in sides])
    towards = np.array([0.6, 0.5, 0.62])
    behind, depth = hidden_behind(points, towards / np.linalg.norm(towards))
    for number, (_, at) in enumerate(sides):
        side = behind[number * 500 : (number + 1) * 500]
        if at > 0:
            assert side.max() < 0.15, "what a slanted side varies by within a few cells"
        else:  # all but the rim, where the side meets a neighbour that is seen
            assert (side > 0.15).mean() > 0.75
    assert np.all(np.abs(depth - 3) <= 1)
    seen = np.concatenate([np.full(500, at > 0) for _, at in sides])
    first = np.lexsort((depth, behind))[:1500]
    assert seen[first].mean() > 0.85


def test_a_view_loses_the_deepest_hidden_first_and_then_the_farthest():
    """Three boards one behind the other, seen from the front: the rear one goes first, then the next."""
    rng = np.random.default_rng(1)
    points = np.concatenate([share * board(2, at, rng) for share, at in ((1, 0.3), (0.7, 0.0), (0.5, -0.6))])
    behind, depth = hidden_behind(points, np.array([0.0, 0.0, 1.0]))
    half = np.linalg.norm(np.ptp(points, axis=0)) / 2
    np.testing.assert_allclose(np.diff(depth[[0, 500, 1000]]), 0.3 / half)
    assert (behind[:500] == 0).all()
    board_of = np.lexsort((depth, behind)) // 500
    for number in range(3):
        assert (board_of[number * 500 : (number + 1) * 500] == number).mean() > 0.95


def test_views_come_from_above_and_all_around():
    """Of a sphere the half turned to the viewpoint is kept: it says where that stands."""
    rng = np.random.default_rng(2)
    ball = rng.normal(size=(600, 3))
    ball = (ball / np.linalg.norm(ball, axis=1, keepdims=True)).astype(np.float32)
    towards = np.stack([back(observe(ball, "view-50", generator("view", i))).mean(axis=0) for i in range(400)])
    elevation = np.arcsin(towards[:, 1] / np.linalg.norm(towards, axis=1))
    np.testing.assert_allclose(np.quantile(np.rad2deg(elevation), [0.05, 0.5, 0.95]), [0, 22, 42], atol=6)
    azimuth = np.sort(np.arctan2(towards[:, 0], towards[:, 2]))
    assert np.diff(azimuth).max() < 0.3


@pytest.mark.parametrize(("protocol", "share"), [("noise-1", 0.01), ("noise-3", 0.03)])
@pytest.mark.parametrize("size", [1.0, 40.0])
def test_noise_is_the_share_of_the_half_diagonal(protocol, share, size):
    points = cloud(3, 4000) * np.float32(size)
    step = back(observe(points, protocol, generator(0))) - points
    np.testing.assert_allclose(step.std(axis=0), share * size, rtol=0.05)
    assert np.abs(step.mean(axis=0)).max() < 0.1 * share * size


def test_the_axis_rotations_are_the_24_there_are():
    turns = rotations("up")
    assert turns.shape == (24, 3, 3)
    np.testing.assert_array_equal(turns[0], np.eye(3))
    assert len({turn.tobytes() for turn in turns}) == 24
    for turn in turns:
        np.testing.assert_array_equal(turn @ turn.T, np.eye(3))
        assert np.linalg.det(turn) == pytest.approx(1)


def test_yaw_turns_about_y_in_equal_steps():
    turns = rotations("yaw")
    np.testing.assert_array_equal(turns[0], np.eye(3))
    np.testing.assert_array_equal(turns[:, 1], np.tile([0.0, 1.0, 0.0], (len(turns), 1)))
    for turn, following in pairwise([*turns, turns[0]]):
        np.testing.assert_allclose(following, turns[1] @ turn, atol=1e-12)


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name not in ("up", "yaw")])
def test_where_the_pose_is_known_there_is_nothing_to_try(protocol):
    np.testing.assert_array_equal(rotations(protocol), np.eye(3)[None])


@pytest.mark.parametrize(("protocol", "nearness"), [("up", 1e-5), ("yaw", 2 * np.sin(np.deg2rad(5) / 2) + 1e-5)])
def test_one_of_the_turns_sets_an_observation_upright(protocol, nearness):
    for seed in range(20):
        points = cloud(seed)
        observed = observe(points, protocol, generator(seed))
        tried = [posed(observed, turn) for turn in rotations(protocol)]
        for one in tried:
            assert is_normalised(one)
            np.testing.assert_allclose(back(one), points, atol=2e-6)
        turns = [one.transform[:3, :3] / one.scale for one in tried]
        apart = [np.linalg.norm(turn - np.eye(3), ord=2) for turn in turns]
        assert min(apart) <= nearness
        best = tried[int(np.argmin(apart))]
        np.testing.assert_allclose(best.seen_from_here(points), best.points, atol=2e-6)


def test_a_cut_in_training_leaves_a_quarter_or_more_and_depends_on_the_generator_alone():
    points = cloud(4, 400)
    sizes = []
    for number in range(200):
        observed = training_cut(points, generator(0, number))
        assert observed.points.tobytes() == training_cut(points, generator(0, number)).points.tobytes()
        assert is_normalised(observed)
        rows_of(observed, points)
        sizes.append(len(observed.points))
    assert min(sizes) >= 100
    missing = 1 - np.array(sizes) / 400
    np.testing.assert_allclose(np.quantile(missing, [0, 0.5, 1]), [0, 0.375, 0.75], atol=0.08)


def test_keys_give_generators_of_their_own():
    drawn = {
        key: generator(*key).integers(2**63) for key in [("a", 1), ("a", 2), ("a1", ""), ("a", "1", 0), (0, 1), (0,)]
    }
    assert len(set(drawn.values())) == len(drawn)
    assert generator("a", 1).integers(2**63) == drawn["a", 1]


def test_an_unknown_protocol_is_refused_with_what_is_allowed():
    assert check_protocols(["full", "yaw"]) == ("full", "yaw")
    with pytest.raises(InputError, match=r"'partial-60'.*partial-50") as caught:
        check_protocols(["full", "partial-60"])
    assert "\n" not in str(caught.value)
    for call in (lambda: rotations("no"), lambda: observe(cloud(0), "no", generator(0))):
        with pytest.raises(InputError, match="'no'"):
            call()


@pytest.mark.parametrize("points", [np.zeros((0, 3), np.float32), np.ones((40, 3), np.float32)], ids=["none", "one"])
@pytest.mark.parametrize("protocol", [*PROTOCOLS, "training"])
def test_a_target_without_an_extent_is_refused(points, protocol):
    with pytest.raises(InputError) as caught:
        training_cut(points, generator(0)) if protocol == "training" else observe(points, protocol, generator(0))
    assert "\n" not in str(caught.value)


def test_a_cut_that_leaves_a_single_point_is_refused():
    with pytest.raises(InputError, match="half-diagonal 0"):
        observe(cloud(0, 4), "partial-75", generator(0))
