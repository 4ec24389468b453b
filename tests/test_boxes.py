"""Boxes: tight, floored, and moved without a change where nothing moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from geometry_cases import box_source, part_geometry
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.errors import InputError
from jr_dist.geometry.boxes import (
    HALF_EXTENT_FLOOR,
    canonical_coordinates,
    deform,
    deform_vertices,
    part_boxes,
)

SEEDS = st.integers(0, 2**31)


def _case(seed, **how):
    rng = np.random.default_rng(seed)
    sources = [box_source(int(rng.integers(2, 6)), rng, num_points=100, **how) for _ in range(2)]
    return rng, sources, part_geometry(sources, num_points=200, dtype=torch.float64)


def _other_boxes(geometry, rng):
    centre = geometry.centre + torch.tensor(rng.normal(0, 0.1, geometry.centre.shape))
    return centre, geometry.half_extent * torch.tensor(rng.uniform(0.5, 2.0, geometry.centre.shape))


def test_boxes_are_tight_and_flat_parts_get_the_floor():
    points = np.array([[0.0, 0.0, 0.0], [2.0, 4.0, 0.0], [5.0, 5.0, 5.0], [99.0, 99.0, 99.0]])
    centre, half_extent = part_boxes(points, np.array([0, 0, 1, -1]), 2)
    np.testing.assert_array_equal(centre, [[1, 2, 0], [5, 5, 5]])
    np.testing.assert_array_equal(half_extent[0], [1, 2, HALF_EXTENT_FLOOR])
    np.testing.assert_array_equal(half_extent[1], [HALF_EXTENT_FLOOR] * 3)


def test_a_part_without_points_is_refused_by_number():
    with pytest.raises(InputError, match=r"parts \[1\] have no points"):
        part_boxes(np.zeros((2, 3)), np.array([0, 2]), 3)


def test_points_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        part_boxes(np.array([[0.0, np.nan, 0.0]]), np.array([0]), 1)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_canonical_coordinates_span_the_cube(seed):
    _, sources, _ = _case(seed, thin=True)
    for source in sources:
        q = canonical_coordinates(source.points, source.part_index, source.centre, source.half_extent)
        assert np.abs(q).max() <= 1 + 1e-9
        thick = source.half_extent > HALF_EXTENT_FLOOR
        for part in range(len(source.centre)):
            reach = np.abs(q[source.part_index == part]).max(axis=0)
            np.testing.assert_allclose(reach, np.where(thick[part], 1.0, 0.0), atol=1e-9)


@given(SEEDS, st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=20, deadline=None)
def test_the_same_boxes_give_the_same_bits(seed, dtype):
    _, sources, _ = _case(seed, thin=True)
    geometry = part_geometry(sources, dtype=dtype)
    assert torch.equal(deform(geometry, geometry.centre, geometry.half_extent), geometry.points)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_deformed_part_fills_the_box_it_was_given(seed):
    rng, sources, _ = _case(seed)
    geometry = part_geometry(sources[:1], num_points=10**6, dtype=torch.float64)
    centre, half_extent = _other_boxes(geometry, rng)
    moved = deform(geometry, centre, half_extent)
    found = part_boxes(moved[0].numpy(), geometry.part_index[0].numpy(), centre.shape[1])
    np.testing.assert_allclose(found[0], centre[0], atol=1e-12)
    np.testing.assert_allclose(found[1], half_extent[0], atol=1e-12)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_deform_is_the_dense_matrix_of_the_paper(seed):
    rng, sources, geometry = _case(seed, thin=True)
    centre, half_extent = _other_boxes(geometry, rng)
    moved = deform(geometry, centre, half_extent)
    for m, source in enumerate(sources):
        num_points, num_parts = geometry.points.shape[1], len(source.centre)
        matrix = np.zeros((num_points, 3, num_parts, 2, 3))  # A of section 3.2: rows [I | diag q] at the part
        for n, (part, q) in enumerate(zip(geometry.part_index[m].numpy(), geometry.canonical[m].numpy())):
            matrix[n, range(3), part, 0, range(3)] = 1.0
            matrix[n, range(3), part, 1, range(3)] = q
        parameters = torch.stack([centre[m, :num_parts], half_extent[m, :num_parts]], dim=1).numpy()
        np.testing.assert_allclose(moved[m], np.einsum("naptb,ptb->na", matrix, parameters), atol=1e-12)


def test_gradient_equals_finite_differences():
    rng, _, geometry = _case(3)
    geometry = replace(
        geometry,
        points=geometry.points[:, :20],
        canonical=geometry.canonical[:, :20],
        part_index=geometry.part_index[:, :20],
    )
    centre, half_extent = (p.requires_grad_() for p in _other_boxes(geometry, rng))
    assert torch.autograd.gradcheck(lambda c, s: deform(geometry, c, s), (centre, half_extent))


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_permuted_parts_give_the_same_points_and_mirrored_ones_the_mirror_image(seed):
    rng, _, geometry = _case(seed)
    centre, half_extent = _other_boxes(geometry, rng)
    moved = deform(geometry, centre, half_extent)
    order = torch.tensor(rng.permutation(centre.shape[1]))
    permuted = replace(
        geometry,
        centre=geometry.centre[:, order],
        half_extent=geometry.half_extent[:, order],
        part_index=torch.argsort(order)[geometry.part_index],
    )
    assert torch.equal(deform(permuted, centre[:, order], half_extent[:, order]), moved)
    flip = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    mirrored = replace(
        geometry,
        points=geometry.points * flip,
        canonical=geometry.canonical * flip,
        centre=geometry.centre * flip,
    )
    assert torch.equal(deform(mirrored, centre * flip, half_extent), moved * flip)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_vertices_move_as_points_do(seed):
    rng, sources, geometry = _case(seed)
    centre, half_extent = _other_boxes(geometry, rng)
    moved = deform(geometry, centre, half_extent)
    before = geometry.centre[0].numpy(), geometry.half_extent[0].numpy()
    after = centre[0].numpy(), half_extent[0].numpy()
    for part in range(len(sources[0].centre)):
        of_part = geometry.part_index[0] == part
        vertices = geometry.points[0][of_part].numpy()
        np.testing.assert_allclose(deform_vertices(vertices, part, *before, *after), moved[0][of_part], atol=1e-12)
        np.testing.assert_array_equal(deform_vertices(vertices, part, *before, *before), vertices)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_points_and_gradients_of_the_cpu():
    rng, _, geometry = _case(4)
    boxes = _other_boxes(geometry, rng)
    answers = []
    for device in ("cpu", "cuda"):
        boxes_there = [p.detach().to(device).requires_grad_() for p in boxes]
        moved = deform(geometry.to(device), *boxes_there)
        answers.append([moved.detach(), *torch.autograd.grad(moved.square().sum(), boxes_there)])
    for a, b in zip(*answers):
        torch.testing.assert_close(a, b.cpu())
