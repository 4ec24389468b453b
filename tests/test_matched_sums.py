"""Sums over matches: what a plain loop over nearest neighbours gives, whichever way they are computed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chamfer import INTERPRETED

from jr_dist.errors import InputError
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer, one_sided, spatial_order
from jr_dist.geometry.matched_sums import matched_sums
from jr_dist.geometry.part_geometry import PartGeometry

HOWS = ("triton",) if INTERPRETED else ("compiled", "ordered", "float64", "torch")


def _case(seed, dtype=torch.float32):
    """Five sources of 3 parts and one without points, new boxes for them, two targets, and whose is whose."""
    rng = np.random.default_rng(seed)
    num_points, num_others = (int(n) for n in rng.integers(1, 70, 2))

    def random(*shape):
        return torch.tensor(rng.normal(size=shape), dtype=dtype)

    parts = torch.tensor(rng.integers(0, 3, (5, num_points)))
    boxes = random(5, 4, 3), random(5, 4, 3).abs() + 0.1
    real, projection = torch.ones(5, 4, dtype=torch.bool), torch.eye(8).expand(5, 3, -1, -1)
    geometry = PartGeometry(random(5, num_points, 3), random(5, num_points, 3), parts, *boxes, real, projection)
    moves = 0.1 * random(2, 5, 4, 3)
    targets, target_index = random(2, num_others, 3), torch.tensor(rng.integers(0, 2, 5))
    return geometry, boxes[0] + moves[0], boxes[1] + moves[1], targets, target_index


def _by_a_plain_loop(geometry, centre, half_extent, targets, target_index, two_sided):
    points, num_parts = deform(geometry, centre, half_extent), centre.shape[1]
    sums = np.zeros((len(points), num_parts, 3, 5))
    for m, row in enumerate(target_index):
        x, q, y = (t.double().numpy() for t in (points[m], geometry.canonical[m], targets[row]))
        distance = ((x[:, None] - y[None]) ** 2).sum(axis=-1)
        matches = [(n, k, 1 / len(y)) for k, n in enumerate(distance.argmin(axis=0))]
        if two_sided:
            matches += [(n, k, 1 / len(x)) for n, k in enumerate(distance.argmin(axis=1))]
        for n, k, w in matches:
            r = y[k] - x[n]
            sums[m, geometry.part_index[m, n]] += w * np.stack([r**0, q[n], q[n] ** 2, r, r * q[n]], axis=-1)
    return sums


@given(st.integers(0, 2**31), st.booleans(), st.sampled_from(HOWS))
@settings(max_examples=5 if INTERPRETED else 40, deadline=None)
def test_on_the_cpu_or_interpreted_sums_are_those_of_a_plain_loop_and_the_loss_is_the_chamfer(seed, two_sided, how):
    case = _case(seed, torch.float64 if how == "float64" else torch.float32)
    geometry, *boxes, targets, target_index = case
    orders = (spatial_order(geometry.points), spatial_order(targets)) if how == "ordered" else None
    backend = how if how in ("torch", "triton") else "auto"
    loss, sums = matched_sums(*case, two_sided=two_sided, orders=orders, backend=backend)
    np.testing.assert_allclose(sums, _by_a_plain_loop(*case, two_sided), atol=1e-12, rtol=1e-12)
    points = deform(geometry, *boxes)
    if two_sided:
        expected = chamfer(points, targets, y_index=target_index)
    else:
        expected = one_sided(targets[target_index], points)
    torch.testing.assert_close(loss, expected.double(), rtol=1e-6, atol=1e-9)


def test_coordinates_that_are_not_finite_are_refused():
    geometry, centre, half_extent, targets, target_index = _case(0)
    targets[int(target_index[2]), 0, 1] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        matched_sums(geometry, centre, half_extent, targets, target_index)


@pytest.mark.gpu
@pytest.mark.parametrize("two_sided", [True, False])
def test_a_gpu_gives_the_sums_of_the_cpu_and_the_same_bits_twice(two_sided):
    geometry, *others = _case(1)
    loss, sums = matched_sums(geometry, *others, two_sided=two_sided)
    away = geometry.to("cuda"), *(tensor.cuda() for tensor in others)
    loss_there, sums_there = matched_sums(*away, two_sided=two_sided)
    torch.testing.assert_close(loss_there.cpu(), loss, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(sums_there.cpu(), sums, rtol=1e-12, atol=1e-12)
    again = matched_sums(*away, two_sided=two_sided)
    assert torch.equal(again[0], loss_there) and torch.equal(again[1], sums_there)
