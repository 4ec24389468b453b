"""The chamfer: its definition in float64, its invariances, its gradient, and both backends alike."""

import os
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nearest import KINDS, a_cloud

from jr_dist.errors import InputError
from jr_dist.geometry.chamfer import (
    Backend,
    chamfer,
    chamfer_matrix,
    choose_backend,
    nearest_neighbours,
    one_sided,
    spatial_order,
)

#: test_chamfer_triton.py runs these tests again where Triton's kernels work on the CPU
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS: tuple[Backend, ...] = ("numba", "torch", "triton") if INTERPRETED else ("numba", "torch")


def clouds(num_pairs: int, num_points: int, seed: int, kind: str = "normal") -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([a_cloud(kind, num_points, rng) for _ in range(num_pairs)]))


def by_definition(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The sum of both means of squared nearest distances, in float64, differentiable."""
    squared = (x.double()[:, :, None] - y.double()[:, None]).square().sum(-1)
    return squared.min(2).values.mean(1) + squared.min(1).values.mean(1)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS), st.sampled_from(KINDS), st.integers(1, 120), st.integers(1, 120), st.integers(-4, 4),
    st.integers(0, 2**31),
)  # fmt: skip
def test_equals_its_definition(backend, kind_x, kind_y, num_x, num_y, exponent, seed):
    x = clouds(2, num_x, seed, kind_x) * 10.0**exponent
    y = clouds(2, num_y, seed + 1, kind_y) * 10.0**exponent
    torch.testing.assert_close(chamfer(x, y, backend=backend).double(), by_definition(x, y), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("backend", BACKENDS)
def test_symmetric_in_its_clouds_and_zero_on_itself(backend):
    x, y = clouds(3, 100, 0), clouds(3, 77, 1)
    torch.testing.assert_close(chamfer(x, y, backend=backend), chamfer(y, x, backend=backend), rtol=1e-6, atol=0)
    assert (chamfer(x, x, backend=backend) == 0).all()
    shuffled = x[:, torch.randperm(100)]
    assert (chamfer(x, shuffled, backend=backend) == 0).all()
    assert (chamfer(x, y, backend=backend) > 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_sides_add_up(backend):
    x, y = clouds(3, 100, 0), clouds(3, 77, 1)
    both = one_sided(x, y, backend=backend) + one_sided(y, x, backend=backend)
    torch.testing.assert_close(both, chamfer(x, y, backend=backend), rtol=1e-6, atol=0)
    far = torch.cat([y, y + 100], 1)  # whatever lies beyond what x is near doesn't count in this direction
    assert torch.equal(one_sided(x, far, backend=backend), one_sided(x, y, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_of_points_does_not_matter(backend):
    x, y = clouds(2, 100, 0), clouds(2, 77, 1)
    here, there = torch.randperm(100), torch.randperm(77)
    plain, _ = gradients(partial(chamfer, backend=backend), x, y, torch.ones(2))
    shuffled, _ = gradients(partial(chamfer, backend=backend), x[:, here], y[:, there], torch.ones(2))
    torch.testing.assert_close(shuffled, plain[:, here], rtol=1e-5, atol=1e-8)


def test_scales_with_the_square_and_ignores_where_the_origin_is():
    x, y = clouds(2, 300, 0), clouds(2, 200, 1)
    torch.testing.assert_close(chamfer(8 * x, 8 * y), 64 * chamfer(x, y), rtol=0, atol=0)
    torch.testing.assert_close(chamfer(x + 2, y + 2), chamfer(x, y), rtol=1e-5, atol=0)


def gradients(function, x, y, weights):
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    return tuple(g.double() for g in torch.autograd.grad((function(x, y) * weights.to(x.dtype)).sum(), (x, y)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [(300, 300), (300, 77), (5, 40), (1, 1), (1024, 1024)])
def test_gradient_equals_float64_autograd(backend, sizes):
    x, y = clouds(3, sizes[0], 5), clouds(3, sizes[1], 6)
    weights = torch.tensor([1.0, -0.5, 3.0])
    found = gradients(lambda a, b: chamfer(a, b, backend=backend), x, y, weights)
    expected = gradients(by_definition, x.double(), y.double(), weights)
    for ours, true in zip(found, expected, strict=True):
        assert (ours - true).norm() <= 1e-5 * true.norm()


def test_gradient_of_a_cloud_with_copies_descends():
    """Among equal points any may be the nearest: each choice is a gradient, so a small step makes the loss smaller."""
    x, y = clouds(4, 200, 1, "grid"), clouds(4, 150, 2, "copies")
    slope, _ = gradients(chamfer, x, y, torch.ones(4))
    assert (chamfer(x - 0.5 * slope.float(), y) < chamfer(x, y)).all()


@pytest.mark.parametrize("two_sided", [True, False])
def test_gradient_in_float64_passes_gradcheck(two_sided):
    x, y = clouds(2, 9, 0).double().requires_grad_(), clouds(2, 7, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(chamfer if two_sided else one_sided, (x, y))


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_what_is_asked_for_gets_a_gradient(backend):
    x, y = clouds(2, 50, 0), clouds(2, 50, 1).requires_grad_()
    with torch.no_grad():
        assert not chamfer(x, y, backend=backend).requires_grad
    chamfer(x, y, backend=backend).sum().backward()
    assert x.grad is None and y.grad is not None
    (alone,) = torch.autograd.grad(one_sided(x, y, backend=backend).sum(), (y,))
    assert alone.norm() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_y_index_equals_repetition(backend):
    x, y = clouds(7, 60, 0), clouds(3, 90, 1)
    index = torch.tensor([2, 0, 1, 1, 2, 0, 2])
    weights = torch.arange(1.0, 8.0)
    indexed = gradients(lambda a, b: chamfer(a, b, y_index=index, backend=backend), x, y, weights)
    repeated = gradients(lambda a, b: chamfer(a, b[index], backend=backend), x, y, weights)
    assert torch.equal(chamfer(x, y, y_index=index, backend=backend), chamfer(x, y[index], backend=backend))
    for ours, true in zip(indexed, repeated, strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_matrix_equals_a_loop(backend):
    x, y = clouds(5, 60, 0), clouds(19, 45, 1)
    loop = torch.stack([torch.stack([chamfer(a[None], b[None], backend=backend)[0] for b in y]) for a in x])
    assert torch.equal(chamfer_matrix(x, y, backend=backend), loop)
    if backend == "numba":  # the sum of both directions does not depend on which comes first
        assert torch.equal(chamfer_matrix(y, x, backend=backend), loop.T)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_sided_matrix_equals_a_loop(backend):
    x, y = clouds(5, 60, 0), clouds(19, 45, 1)
    for a, b in ((x, y), (y, x)):
        loop = torch.stack([torch.stack([one_sided(p[None], q[None], backend=backend)[0] for q in b]) for p in a])
        assert torch.equal(chamfer_matrix(a, b, two_sided=False, backend=backend), loop)


@pytest.mark.parametrize("shape", [(2, 5), (5, 2)])
def test_matrix_names_the_cloud_that_is_bad(shape):
    for which in (0, 1):
        both = [clouds(count, 30, count) for count in shape]
        both[which][1, 4, 2] = float("nan")
        with pytest.raises(InputError, match=f"cloud 1 of {'xy'[which]}"):
            chamfer_matrix(*both, backend="numba")


@pytest.mark.parametrize(
    ("backend", "num_points"),
    [("numba", size) for size in range(1, 41)] + [("triton", size) for size in range(1, 41, 5) if INTERPRETED],
)
def test_backends_agree_on_every_small_size(backend, num_points):
    x, y = clouds(2, num_points, num_points), clouds(2, 41 - num_points, 99)
    weights = torch.ones(2)
    for function in (chamfer, one_sided):
        ours, plain = (gradients(partial(function, backend=k), x, y, weights) for k in (backend, "torch"))
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-7)
    distances, indices = zip(*(nearest_neighbours(x, y, backend=k) for k in (backend, "torch")), strict=True)
    torch.testing.assert_close(distances[0], distances[1], rtol=1e-6, atol=0)
    assert torch.equal(indices[0], indices[1])


def test_given_orders_change_nothing_but_time():
    x, y = clouds(4, 333, 0), clouds(2, 130, 1)
    index, weights = torch.tensor([1, 0, 0, 1]), torch.ones(4)
    moved = x * torch.tensor([2.0, 0.5, 1.0]) + 0.1
    shuffled = torch.stack([torch.randperm(130, dtype=torch.int32) for _ in range(2)])  # as bad as an order can be

    def ordered(a, b):
        return chamfer(a, b, y_index=index, x_order=spatial_order(x), y_order=shuffled)

    found = gradients(ordered, moved, y, weights)
    expected = gradients(lambda a, b: chamfer(a, b, y_index=index), moved, y, weights)
    torch.testing.assert_close(ordered(moved, y), chamfer(moved, y, y_index=index), rtol=1e-6, atol=0)
    for ours, true in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-5, atol=1e-8)


def test_the_number_of_threads_does_not_change_a_bit():
    x, y = clouds(9, 300, 0), clouds(9, 200, 1)
    before, answers = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            answers.append((chamfer(x, y), *gradients(chamfer, x, y, torch.ones(9))))
    finally:
        torch.set_num_threads(before)
    for answer in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answer, answers[0], strict=True))


def test_tensors_that_are_not_contiguous_are_taken_as_they_are():
    x, y = clouds(6, 80, 0), clouds(3, 90, 1)
    apart = chamfer(x[::2, ::2], y.transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(apart, chamfer(x[::2, ::2].contiguous(), y))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_pairs_at_all(backend):
    assert chamfer(torch.zeros(0, 5, 3), torch.zeros(0, 4, 3), backend=backend).shape == (0,)
    assert chamfer_matrix(torch.zeros(0, 5, 3), torch.zeros(2, 4, 3), backend=backend).shape == (0, 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_coordinate_that_is_not_finite_is_refused(backend, bad):
    x, y = clouds(2, 40, 0), clouds(2, 30, 1)
    y[1, 3, 0] = bad
    for function in (chamfer, one_sided, nearest_neighbours, chamfer_matrix):
        for pair in ((x, y), (y, x)):
            with pytest.raises(InputError, match="NaN"):
                function(*pair, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_clouds_are_refused(backend):
    for x, y in ((torch.zeros(2, 0, 3), clouds(2, 3, 0)), (clouds(2, 3, 0), torch.zeros(2, 0, 3))):
        for function in (chamfer, one_sided, nearest_neighbours, chamfer_matrix):
            with pytest.raises(InputError, match="at least one point"):
                function(x, y, backend=backend)


def test_what_cannot_be_paired_or_computed_is_refused():
    x, y = clouds(2, 10, 0), clouds(3, 10, 1)
    with pytest.raises(InputError, match="y_index"):
        chamfer(x, y)
    with pytest.raises(InputError, match="float32"):
        chamfer(x.double(), x.double(), backend="numba")
    with pytest.raises(InputError, match="quick"):
        choose_backend("quick", x, x)
    with pytest.raises(AssertionError):
        chamfer(x, y, y_index=torch.tensor([0, 3]))
    with pytest.raises(AssertionError):
        chamfer(x, x, x_order=torch.full((2, 10), 10, dtype=torch.int32))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_equals_cpu_and_repeats_itself():
    x, y = clouds(4, 300, 0), clouds(2, 200, 1)
    index, weights = torch.tensor([0, 1, 1, 0]), torch.ones(4)
    here = gradients(lambda a, b: chamfer(a, b, y_index=index), x, y, weights)
    there = [
        gradients(lambda a, b: chamfer(a, b, y_index=index.cuda()), x.cuda(), y.cuda(), weights.cuda())
        for _ in range(2)
    ]
    for ours, first, second in zip(here, *there, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first.cpu(), ours, rtol=1e-5, atol=1e-7)
