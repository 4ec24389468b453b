"""Sums over matches: what a plain loop over nearest neighbours gives, whichever way they are computed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.errors import InputError
from jr_dist.geometry import matched_sums as module
from jr_dist.geometry.chamfer import chamfer, one_sided, spatial_order
from jr_dist.geometry.matched_sums import matched_sums


def _case(seed, dtype=torch.float32):
    rng = np.random.default_rng(seed)
    num_points, num_others = (int(n) for n in rng.integers(1, 70, 2))
    points, canonical = (torch.tensor(rng.normal(size=(5, num_points, 3)), dtype=dtype) for _ in range(2))
    parts = torch.tensor(rng.integers(0, 3, (5, num_points)))
    targets = torch.tensor(rng.normal(size=(2, num_others, 3)), dtype=dtype)
    return points, canonical, parts, targets, torch.tensor(rng.integers(0, 2, 5))


def _by_a_plain_loop(points, canonical, parts, targets, target_index, num_parts, two_sided):
    sums = np.zeros((len(points), num_parts, 3, 5))
    for m, row in enumerate(target_index):
        x, q, y = (t.double().numpy() for t in (points[m], canonical[m], targets[row]))
        distance = ((x[:, None] - y[None]) ** 2).sum(axis=-1)
        matches = [(n, k, 1 / len(y)) for k, n in enumerate(distance.argmin(axis=0))]
        if two_sided:
            matches += [(n, k, 1 / len(x)) for n, k in enumerate(distance.argmin(axis=1))]
        for n, k, w in matches:
            r = y[k] - x[n]
            sums[m, parts[m, n]] += w * np.stack([r**0, q[n], q[n] ** 2, r, r * q[n]], axis=-1)
    return sums


@given(st.integers(0, 2**31), st.booleans(), st.sampled_from(["compiled", "ordered", "float64"]))
@settings(max_examples=40, deadline=None)
def test_sums_are_those_of_a_plain_loop_and_the_loss_is_the_chamfer(seed, two_sided, how):
    case = _case(seed, torch.float64 if how == "float64" else torch.float32)
    points, _, _, targets, target_index = case
    orders = (spatial_order(points), spatial_order(targets)) if how == "ordered" else None
    loss, sums = matched_sums(*case, 4, two_sided=two_sided, orders=orders)
    np.testing.assert_allclose(sums, _by_a_plain_loop(*case, 4, two_sided), atol=1e-9)
    if two_sided:
        expected = chamfer(points, targets, y_index=target_index)
    else:
        expected = one_sided(targets[target_index], points)
    torch.testing.assert_close(loss, expected.double(), rtol=1e-6, atol=1e-9)


def test_coordinates_that_are_not_finite_are_refused():
    points, canonical, parts, targets, target_index = _case(0)
    targets[int(target_index[2]), 0, 1] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        matched_sums(points, canonical, parts, targets, target_index, 3)


def test_cached_code_is_keyed_to_its_helpers():
    """numba looks only at matched_sums.py when it decides whether cached machine code is still good."""
    geometry = Path(module.__file__).parent
    text = b"".join((geometry / name).read_bytes() for name in ("simd.py", "leaves.py", "nearest.py"))
    digest = hashlib.sha256(text).hexdigest()[:16]
    assert digest == module.HELPERS, f'put HELPERS = "{digest}" into matched_sums.py'


@pytest.mark.gpu
def test_a_gpu_gives_the_sums_of_the_cpu():
    case = _case(1)
    loss, sums = matched_sums(*case, 3)
    points, canonical, parts, targets, target_index = (t.cuda() for t in case)
    loss_there, sums_there = matched_sums(points, canonical, parts, targets, target_index, 3)
    torch.testing.assert_close(loss_there.cpu(), loss, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(sums_there.cpu(), sums, rtol=1e-6, atol=1e-9)
