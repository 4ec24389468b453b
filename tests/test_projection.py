"""Connectivity: what may move, what stays closed, and what never turns inside out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from geometry_cases import box_source, part_geometry, random_delta
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.geometry.joints import joint_gaps
from jr_dist.geometry.projection import (
    axis_projections,
    by_axis,
    by_part,
    constraint_rows,
    null_space_dimensions,
    part_parameters,
    step_back,
)

SEEDS = st.integers(0, 2**31)
NO_JOINTS = np.zeros((0, 2), dtype=np.int64), np.zeros((0, 2, 3))


def _source(seed, **how):
    rng = np.random.default_rng(seed)
    return rng, box_source(int(rng.integers(2, 8)), rng, num_points=120, **how)


def _projection(source, **how):
    return axis_projections(source.joints.parts, source.joints.coordinates, len(source.centre), **how)


def _stacked(source):
    """p0 of each axis, [3, 2P]."""
    return np.concatenate([source.centre, source.half_extent]).T


@given(SEEDS, st.booleans(), st.sampled_from([0.05, 0.4]))
@settings(max_examples=40, deadline=None)
def test_projections_are_symmetric_idempotent_and_close_every_joint(seed, thin, tolerance):
    # The wide tolerance joins nearly every pair: cycles, and more rows than unknowns.
    _, source = _source(seed, thin=thin, tolerance=tolerance)
    projection = _projection(source)
    rows = constraint_rows(source.joints.parts, source.joints.coordinates, len(source.centre))
    for axis in range(3):
        np.testing.assert_array_equal(projection[axis], projection[axis].T)
        np.testing.assert_allclose(projection[axis] @ projection[axis], projection[axis], atol=1e-9)
        np.testing.assert_allclose(rows[axis] @ projection[axis], 0, atol=2e-6)
        expected = np.eye(len(projection[axis])) - np.linalg.pinv(rows[axis], rcond=1e-6) @ rows[axis]
        np.testing.assert_allclose(projection[axis], expected, atol=1e-6)


@given(SEEDS, st.booleans(), st.sampled_from([0.05, 0.4]))
@settings(max_examples=40, deadline=None)
def test_translation_and_scale_of_the_whole_are_free(seed, thin, tolerance):
    _, source = _source(seed, thin=thin, tolerance=tolerance)
    num_parts = len(source.centre)
    projection = _projection(source)
    translation = np.repeat([1.0, 0.0], num_parts)
    for axis, scale in enumerate(_stacked(source)):
        np.testing.assert_allclose(projection[axis] @ translation, translation, atol=1e-8)
        np.testing.assert_allclose(projection[axis] @ scale, scale, atol=1e-8)
    free = null_space_dimensions(source.joints.parts, source.joints.coordinates, num_parts)
    assert (free >= 2).all()
    np.testing.assert_allclose(np.trace(projection, axis1=1, axis2=2), free, atol=1e-9)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_joints_rounded_to_float32_leave_the_same_freedom(seed):
    _, source = _source(seed, tolerance=0.4)
    args = source.joints.parts, source.joints.coordinates, len(source.centre)
    rounded = args[0].astype(np.int32), args[1].astype(np.float32), args[2]
    np.testing.assert_array_equal(null_space_dimensions(*args), null_space_dimensions(*rounded))


def test_a_joint_said_twice_counts_once():
    _, source = _source(5)
    twice = np.tile(source.joints.parts, (2, 1)), np.tile(source.joints.coordinates, (2, 1, 1))
    np.testing.assert_allclose(axis_projections(*twice, len(source.centre)), _projection(source), atol=1e-9)


def test_no_joints_leave_everything_free():
    np.testing.assert_array_equal(axis_projections(*NO_JOINTS, 3), np.tile(np.eye(6), (3, 1, 1)))
    np.testing.assert_array_equal(null_space_dimensions(*NO_JOINTS, 3), [6, 6, 6])


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_padding_and_order_of_parts_do_not_matter(seed):
    rng, source = _source(seed)
    num_parts, pad_to = len(source.centre), len(source.centre) + 3
    projection, padded = _projection(source), _projection(source, pad_to=pad_to)
    real = np.concatenate([np.arange(num_parts), pad_to + np.arange(num_parts)])
    np.testing.assert_array_equal(padded[:, real[:, None], real], projection)
    assert np.count_nonzero(padded) == np.count_nonzero(projection)
    order = rng.permutation(num_parts)
    permuted = axis_projections(np.argsort(order)[source.joints.parts], source.joints.coordinates, num_parts)
    both = np.concatenate([order, num_parts + order])
    np.testing.assert_allclose(permuted, projection[:, both[:, None], both], atol=1e-9)


def test_unknowns_by_axis_and_by_part_are_inverse():
    rng = np.random.default_rng(0)
    first, second = (torch.tensor(rng.normal(size=(2, 4, 3))) for _ in range(2))
    unknowns = by_axis(first, second)
    assert unknowns.shape == (2, 3, 8)
    assert torch.equal(unknowns[1, 2, 3], first[1, 3, 2]) and torch.equal(unknowns[1, 2, 4], second[1, 0, 2])
    assert all(torch.equal(a, b) for a, b in zip(by_part(unknowns), (first, second)))


@given(SEEDS, st.booleans())
@settings(max_examples=20, deadline=None)
def test_no_delta_gives_the_bits_of_the_source(seed, connectivity):
    _, source = _source(seed, thin=True)
    geometry = part_geometry([source], pad_to=9)
    delta = torch.zeros(1, 9, 6)
    centre, half_extent = part_parameters(geometry, delta, connectivity=connectivity)
    assert torch.equal(centre, geometry.centre) and torch.equal(half_extent, geometry.half_extent)


@given(SEEDS, st.booleans(), st.sampled_from([0.3, 3.0]))
@settings(max_examples=40, deadline=None)
def test_joints_stay_closed_and_half_extents_positive(seed, thin, scale):
    rng, source = _source(seed, thin=thin)
    num_parts = len(source.centre)
    geometry = part_geometry([source])
    centre, half_extent = part_parameters(geometry, random_delta(geometry, rng, scale), minimum_scale=0.05)
    assert (half_extent >= 0.05 * geometry.half_extent).all()
    assert not torch.equal(centre, geometry.centre)
    gaps = joint_gaps(source.joints, centre[0, :num_parts].numpy(), half_extent[0, :num_parts].numpy())
    assert gaps.max(initial=0.0) < 1e-6


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_where_no_bound_binds_it_is_the_formula_of_the_paper(seed):
    rng, source = _source(seed)
    geometry = part_geometry([source], dtype=torch.float64)
    delta = random_delta(geometry, rng, 0.02)
    # Pi (p0 + alpha delta), paper section 3.2, one flat projection an axis
    start = by_axis(geometry.centre, geometry.half_extent)
    step = by_axis(delta[..., :3], delta[..., 3:])
    expected = by_part((geometry.projection @ (start + 0.1 * step).unsqueeze(-1)).squeeze(-1))
    for got, wanted in zip(part_parameters(geometry, delta, minimum_scale=0.0), expected):
        torch.testing.assert_close(got, wanted, atol=1e-8, rtol=0)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_pairs_padding_and_order_of_parts_do_not_matter_to_parameters(seed):
    rng, source = _source(seed, thin=True)
    _, other = _source(seed + 1)
    num_parts = len(source.centre)
    alone = part_geometry([source], dtype=torch.float64)
    delta = random_delta(alone, rng)
    expected = part_parameters(alone, delta)
    together = part_geometry([other, source], pad_to=10, dtype=torch.float64)
    wide = random_delta(together, rng)
    wide[:, num_parts:] = float("nan")
    wide[1, :num_parts] = delta[0]
    for got, wanted in zip(part_parameters(together, wide), expected):
        torch.testing.assert_close(got[1, :num_parts], wanted[0], atol=1e-12, rtol=0)
    centre, half_extent = part_parameters(together, wide)
    assert torch.equal(centre[1, num_parts:], together.centre[1, num_parts:])
    assert torch.equal(half_extent[1, num_parts:], together.half_extent[1, num_parts:])
    order = torch.tensor(rng.permutation(num_parts))
    both = torch.cat([order, num_parts + order])
    permuted = replace(
        alone,
        centre=alone.centre[:, order],
        half_extent=alone.half_extent[:, order],
        projection=alone.projection[:, :, both][..., both],
    )
    for got, wanted in zip(part_parameters(permuted, delta[:, order]), expected):
        torch.testing.assert_close(got, wanted[:, order], atol=1e-9, rtol=0)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_mirrored_input_gives_mirrored_output(seed):
    rng, source = _source(seed)
    geometry = part_geometry([source], dtype=torch.float64)
    flip = torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    coordinates = source.joints.coordinates * flip.numpy()
    projection = axis_projections(source.joints.parts, coordinates, len(source.centre))
    mirrored = replace(geometry, centre=geometry.centre * flip, projection=torch.tensor(projection)[None])
    delta = random_delta(geometry, rng)
    centre, half_extent = part_parameters(geometry, delta)
    twin = part_parameters(mirrored, delta * torch.cat([flip, torch.ones(3)]))
    torch.testing.assert_close(twin[0], centre * flip, atol=1e-9, rtol=0)
    torch.testing.assert_close(twin[1], half_extent, atol=1e-9, rtol=0)


def _unjoined(num_parts=3):
    geometry = part_geometry([box_source(num_parts, np.random.default_rng(7))], dtype=torch.float64)
    return replace(geometry, projection=torch.eye(2 * num_parts, dtype=torch.float64).expand(1, 3, -1, -1))


def test_scale_about_a_parts_centre_keeps_the_centre():
    geometry = _unjoined()
    delta = torch.zeros(1, 3, 6, dtype=torch.float64)
    delta[..., 3:] = 0.5
    centre, half_extent = part_parameters(geometry, delta)
    assert torch.equal(centre, geometry.centre)
    torch.testing.assert_close(half_extent, geometry.half_extent + 0.05)


def test_where_no_joint_ties_them_a_thin_part_holds_nothing_back():
    geometry = _unjoined()
    geometry.half_extent[0, 1, 0] = 0.01
    delta = torch.ones(1, 3, 6, dtype=torch.float64)
    delta[0, 1, 3] = -1.0  # would shrink part 1 along x from 0.01 to -0.09
    centre, half_extent = part_parameters(geometry, delta)
    torch.testing.assert_close(centre - geometry.centre, torch.full((1, 3, 3), 0.1).double())
    assert 0.05 * 0.01 <= half_extent[0, 1, 0] <= 0.01


def test_step_back_tells_the_part_that_binds():
    geometry = _unjoined()
    geometry.half_extent[0, 1, 0] = 0.01
    growth = torch.full((1, 3, 3), 0.1, dtype=torch.float64)
    growth[0, 1, 0] = -0.1
    growth.requires_grad_()
    share = step_back(geometry.half_extent, growth, 0.05 * geometry.half_extent)
    expected = torch.tensor([(1 - 0.05) * 0.01 / 0.1, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(share[0, 0], expected, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(share[0, 0, 0], growth)
    assert gradient[0, 1, 0] > 0 and gradient.count_nonzero() == 1


@pytest.mark.parametrize("scale", [0.05, 6.0])
def test_gradient_equals_finite_differences(scale):
    rng, source = _source(11)
    geometry = part_geometry([source], dtype=torch.float64)
    delta = random_delta(geometry, rng, scale)
    binds = part_parameters(geometry, delta)[1] - geometry.half_extent
    free = 0.1 * (geometry.projection @ by_axis(delta[..., :3], delta[..., 3:]).unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(binds, by_part(free)[1]) == (scale < 1)
    delta.requires_grad_()
    assert torch.autograd.gradcheck(lambda d: part_parameters(geometry, d), delta)


def test_step_back_is_exactly_one_where_it_need_not_act():
    extent = torch.full((1, 2, 3), 0.2)
    step = torch.tensor([[[0.5, -0.1, -0.4], [0.5, 0.0, 0.1]]])
    share = step_back(extent, step, 0.05 * extent)
    assert share.shape == (1, 1, 3)
    assert torch.equal(share[0, 0, :2], torch.ones(2))
    torch.testing.assert_close(share[0, 0, 2].item(), 0.475, rtol=1e-5, atol=0)


def test_a_thin_part_does_not_hold_back_the_whole_source():
    """A slab between two blocks is asked to vanish: the blocks still grow, joints closed, the slab left positive."""
    thin = 0.01
    centre = np.array([[0.0, -0.31, 0.0], [0.0, 0.0, 0.0], [0.0, 0.31, 0.0]])
    half_extent = np.array([[0.3, 0.3, 0.3], [0.3, thin, 0.3], [0.3, 0.3, 0.3]])
    parts = np.array([[0, 1], [1, 2]])
    coordinates = np.array([[[0, 1.0, 0], [0, -1.0, 0]], [[0, 1.0, 0], [0, -1.0, 0]]])
    projection = torch.tensor(axis_projections(parts, coordinates, 3))[None]
    geometry = replace(
        _unjoined(),
        centre=torch.tensor(centre)[None],
        half_extent=torch.tensor(half_extent)[None],
        projection=projection,
    )
    delta = torch.zeros(1, 3, 6, dtype=torch.float64)
    delta[0, :, 4] = torch.tensor([2.0, -2.0, 2.0])  # the blocks are to grow by 0.2, the slab to shrink by 0.2
    grown = part_parameters(geometry, delta)[1][0, :, 1]
    wanted = (torch.matmul(projection, by_axis(0.1 * delta[..., :3], 0.1 * delta[..., 3:]).unsqueeze(-1)))[0, 1, 3, 0]
    assert wanted > 0.05
    assert grown[0] - 0.3 > 0.5 * wanted and grown[2] - 0.3 > 0.5 * wanted
    assert grown[1] >= 0.05 * thin
    back = step_back(
        geometry.half_extent,
        torch.tensor([[[0.0, float(wanted), 0], [0, -0.2, 0], [0, 0, 0]]]),
        0.05 * geometry.half_extent,
    )
    assert back[0, 0, 1] < 0.1, "stepping back alone would leave a tenth of the step at most"
