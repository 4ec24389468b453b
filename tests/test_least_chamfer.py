"""The k nearest deformed sources, pruned, against the plain scan: the same rows, the same bits, whatever the case."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from geometry_cases import box_source, part_geometry
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from jr_dist.errors import InputError
from jr_dist.geometry import distance_field, leaves
from jr_dist.geometry import least_chamfer_kernels as kernels
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer, spatial_order
from jr_dist.geometry.least_chamfer import Least, OrderedSources, least_chamfers, nothing_yet, ordered_sources
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.simd import LANES, OPTIONS, load, store

Case = tuple[PartGeometry, torch.Tensor, torch.Tensor, torch.Tensor]


def a_case(
    seed: int, *, num_sources=12, num_targets=3, num_points=150, target_points=170, amount=0.3, thin=False
) -> Case:
    """Sources of 1 to 5 boxes, some of them alike; boxes moved at random; targets that some sources come close to."""
    rng = np.random.default_rng(seed)
    makes = [box_source(int(rng.integers(1, 6)), rng, num_points=num_points, thin=thin) for _ in range(num_sources)]
    geometry = part_geometry(makes, num_points=num_points)
    shape = (num_targets, num_sources, *geometry.centre.shape[1:])
    centre = geometry.centre + torch.tensor(rng.normal(0, amount, shape) / 3, dtype=torch.float32)
    half_extent = geometry.half_extent * torch.tensor(np.exp(rng.normal(0, amount, shape)), dtype=torch.float32)
    targets = []
    for number in range(num_targets):
        like = makes[int(rng.integers(num_sources))]
        chosen = like.points[rng.choice(len(like.points), target_points)]
        noise = rng.normal(0, rng.choice([0.0, 0.02, 0.3]), chosen.shape)
        targets.append(chosen * rng.choice([1.0, 0.7, 3.0]) + noise + number * 0.05)
    return geometry, torch.tensor(np.stack(targets), dtype=torch.float32), centre, half_extent


def plain(case: Case, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs by `chamfer(deform(...))`, sorted; of equals the lower row first."""
    geometry, targets, centre, half_extent = case
    order, same = spatial_order(geometry.points), torch.zeros(len(rows), dtype=torch.int64)
    found = [
        chamfer(deform(geometry, c, h), target[None], y_index=same, x_order=order).numpy()
        for target, c, h in zip(targets, centre, half_extent, strict=True)
    ]
    best = np.stack([np.lexsort((rows, values))[:k] for values in found])
    return np.take_along_axis(np.stack(found), best, 1), rows[best]


def pruned(case: Case, k: int, rows: np.ndarray, visits: np.ndarray, **options) -> Least:
    geometry, targets, centre, half_extent = case
    known = nothing_yet(len(targets), k)
    return least_chamfers(ordered_sources(geometry, rows), targets, centre, half_extent, visits, known, **options)


def check(case: Case, k: int, seed: int = 0) -> Least:
    """In a random order, in the best and in the worst."""
    rng = np.random.default_rng(seed)
    num_targets, num_sources = case[2].shape[:2]
    rows = rng.permutation(num_sources) + 100
    values, names = plain(case, num_sources, rows)
    by_fit = np.argsort(rows)[np.searchsorted(np.sort(rows), names)]
    orders = (by_fit[:, ::-1], rng.permuted(np.tile(np.arange(num_sources), (num_targets, 1)), axis=1), by_fit)
    found = None
    for visits in orders:
        found = pruned(case, k, rows, visits)
        np.testing.assert_array_equal(found.chamfer[:, :num_sources], values[:, :k])
        np.testing.assert_array_equal(found.rows[:, :num_sources], names[:, :k])
    assert found is not None
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
    st.integers(1, 120),
    st.integers(1, 200),
    st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    st.booleans(),
)
def test_equals_the_plain_scan_bit_for_bit(seed, k, num_points, target_points, amount, thin):
    case = a_case(seed, num_points=num_points, target_points=target_points, amount=amount, thin=thin)
    check(case, k, seed % 1000)


def test_equals_the_plain_scan_at_full_size_and_spares_most_of_the_work():
    case = a_case(1, num_sources=60, num_points=1024, target_points=1000)
    found = check(case, 3)  # the last order is the best one
    assert found.work[:, kernels.SEARCHED].mean() < 0.5 * 60 * 2024
    given_up = found.work[:, [kernels.BY_BOXES, kernels.BY_FIELD, kernels.BY_SUM]]
    assert (given_up.sum(1) <= 57).all() and (given_up.sum(0)[:2] > 0).all()


@pytest.mark.parametrize("scale", [1e-18, 1e-9, 1e-3, 1e4, 1e12])
def test_any_unit_of_length(scale):
    geometry, targets, centre, half_extent = a_case(2, num_points=64, target_points=64)
    moved = (geometry.points, geometry.centre, geometry.half_extent)
    names = ("points", "centre", "half_extent")
    geometry = replace(geometry, **{n: values * scale for n, values in zip(names, moved, strict=True)})
    check((geometry, targets * scale, centre * scale, half_extent * scale), 3)


@pytest.mark.parametrize("offset", [10.0, 1e3, 1e6])
def test_far_from_the_origin(offset):
    geometry, targets, centre, half_extent = a_case(3, num_points=80)
    geometry = replace(geometry, points=geometry.points + offset, centre=geometry.centre + offset)
    check((geometry, targets + offset, centre + offset, half_extent), 3)


def test_a_speck_of_a_target_and_sources_far_away():
    geometry, targets, centre, half_extent = a_case(15)
    centre[:, 3] += 1e17
    centre[:, 5] += 2e17
    check((geometry, targets * 1e-9, centre, half_extent), 11)


@pytest.mark.parametrize("kind", ["point", "plane", "line"])
def test_flat_targets(kind):
    geometry, targets, centre, half_extent = a_case(4)
    targets[:, :, {"point": [0, 1, 2], "plane": [1], "line": [0, 2]}[kind]] = 0.25
    check((geometry, targets, centre, half_extent), 2)


def test_source_and_target_alike_are_at_no_distance():
    geometry, _, centre, half_extent = a_case(5, num_points=100)
    centre[:], half_extent[:] = geometry.centre, geometry.half_extent
    found = check((geometry, geometry.points[[4, 7, 4]].clone(), centre, half_extent), 2)
    assert (found.chamfer[:, 0] == 0).all()


def test_of_equal_sources_the_lower_row_comes_first():
    geometry, targets, centre, half_extent = a_case(6, num_sources=3)
    copies = torch.arange(3).repeat(5)
    case = (geometry.take(copies), targets, centre[:, copies], half_extent[:, copies])
    for k in (1, 2, 5, 7, 15):
        check(case, k)


def test_fewer_sources_than_asked_for():
    found = check(a_case(7, num_sources=4), 9)
    assert (found.rows[:, 4:] == -1).all() and np.isinf(found.chamfer[:, 4:]).all()


def test_canonical_coordinates_that_do_not_fit_their_points_cost_time_alone():
    geometry, targets, centre, half_extent = a_case(8)
    noise = torch.tensor(np.random.default_rng(0).normal(0, 0.2, geometry.canonical.shape), dtype=torch.float32)
    check((replace(geometry, canonical=geometry.canonical + noise), targets, centre, half_extent), 3)


def test_negative_half_extents():
    geometry, targets, centre, half_extent = a_case(9)
    half_extent[:, ::2, 0, 1] *= -1
    check((geometry, targets, centre, half_extent), 3)


def test_blocks_of_sources_add_up():
    case = a_case(10, num_sources=20)
    geometry, targets, centre, half_extent = case
    rows = np.arange(20)
    least = nothing_yet(len(targets), 4)
    for some in (np.arange(13, 20), np.arange(13)):
        index = torch.from_numpy(some)
        sources = ordered_sources(geometry.take(index), rows[some])
        visits = np.tile(np.arange(len(some)), (len(targets), 1))
        visits[:, 3] = -1  # passed over
        least = least_chamfers(sources, targets, centre[:, index], half_extent[:, index], visits, least)
    kept = np.delete(rows, [3, 16])
    index = torch.from_numpy(kept)
    values, names = plain((geometry.take(index), targets, centre[:, index], half_extent[:, index]), 4, kept)
    np.testing.assert_array_equal(least.chamfer, values)
    np.testing.assert_array_equal(least.rows, names)


def test_threads_change_nothing():
    case = a_case(11, num_targets=9)
    visits = np.tile(np.arange(12), (9, 1))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(pruned(case, 3, np.arange(12), visits))
    finally:
        torch.set_num_threads(before)
    for name in ("chamfer", "rows", "work"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))


def test_plain_torch_agrees():
    case = a_case(12)
    visits = np.tile(np.arange(12), (3, 1))
    visits[1, 5] = -1
    ours, scan = (pruned(case, 5, np.arange(12) * 2, visits, backend=backend) for backend in ("numba", "torch"))
    np.testing.assert_array_equal(ours.rows, scan.rows)
    np.testing.assert_allclose(ours.chamfer, scan.chamfer, rtol=1e-5)


def test_what_is_not_finite_is_refused():
    visits = np.tile(np.arange(12), (3, 1))
    for text in ("target 2", "centre", "half_extent"):
        case = a_case(13)
        _, targets, centre, half_extent = case
        broken = {"target 2": targets, "centre": centre, "half_extent": half_extent}[text]
        broken[2].view(-1)[5] = float("nan")
        with pytest.raises(InputError, match=text):
            pruned(case, 12, np.arange(12), visits)
    case = a_case(13)
    case[0].points[7, 3, 2] = float("inf")
    with pytest.raises(InputError, match="source 7"):
        pruned(case, 12, np.arange(12), visits)
    case = a_case(13)
    case[2][2, 4, 0, 1] = 1e25
    with pytest.raises(InputError, match="source 4"):
        pruned(case, 12, np.arange(12), visits)


# ---- bounds ------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _bounds(points, target):
    """The field's bound of each of 16 m points."""
    cloud = leaves.new_cloud(target.shape[0])
    leaves.prepare(target, np.empty((0, 0), np.int32), 0, cloud)
    field = distance_field.new_field()
    distance_field.lay_out(cloud, field)
    rows = points.T.copy()
    found = np.empty(len(points), np.float32)
    for i in range(0, len(points), LANES):
        x, y, z = load(rows[0], i), load(rows[1], i), load(rows[2], i)
        store(found, i, distance_field.lower_bounds(x, y, z, field))
    return found


@pytest.mark.slow  # compiles for half a minute
@pytest.mark.parametrize("seed", range(8))
def test_the_field_is_below_the_distance_and_not_far_below(seed):
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(300, 3)).astype(np.float32) * rng.choice([0.01, 1.0, 1.0], 3).astype(np.float32)
    near = target[rng.integers(300, size=800)] + rng.normal(0, 10.0 ** rng.integers(-6, 0), (800, 3))
    on_vertices = np.round(rng.normal(size=(800, 3)) * 8) / 8
    points = np.concatenate([near, on_vertices, rng.uniform(-6, 6, (1600, 3))]).astype(np.float32)
    exact = ((points[:, None].astype(np.float64) - target[None]) ** 2).sum(-1).min(1)
    found = _bounds(points, target)
    assert (found >= 0).all() and (found <= exact * (1 - 1e-6) + 1e-12).all()
    side = np.ptp(target, axis=0).max() / distance_field.ACROSS
    inside = ((points >= target.min(0)) & (points <= target.max(0))).all(1)
    assert np.median((exact - found)[inside]) < 0.6 * side**2  # the bend of one parabola is side^2 / 2 on average


def test_vertices_fit_into_the_field():
    assert distance_field.VERTICES % 4 == 0 and distance_field.VERTICES >= distance_field.ACROSS + 2


def test_ordered_sources_are_laid_out_once_for_all_targets():
    geometry = a_case(14)[0]
    sources = ordered_sources(geometry, np.arange(12))
    assert isinstance(sources, OrderedSources) and sources.arrays is not None
    order = spatial_order(geometry.points).numpy()
    slots = sources.arrays.points.transpose(0, 2, 1)
    np.testing.assert_array_equal(slots[3, : order.shape[1]], geometry.points[3].numpy()[order[3]])
    assert (slots[3, order.shape[1] :] == slots[3, order.shape[1] - 1]).all()
