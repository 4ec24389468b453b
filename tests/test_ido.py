"""IDO: exact where the answer is known, never worse than its start, joints closed, as good as the paper's SGD."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from geometry_cases import box_source, part_geometry, random_delta
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer, one_sided
from jr_dist.geometry.joints import joint_gaps
from jr_dist.geometry.projection import by_axis, part_parameters
from jr_dist.models.ido import optimise_inner, optimise_inner_sgd
from jr_dist.models.inner_problem import RIDGE, InnerProblem, bounded_step, null_space_basis

SEEDS = st.integers(0, 2**31)


def _sources(seed, count, *, thin=False, num_points=250):
    rng = np.random.default_rng(seed)
    sources = [box_source(int(rng.integers(2, 7)), rng, num_points=150, thin=thin) for _ in range(count)]
    return rng, sources, part_geometry(sources, pad_to=8, num_points=num_points)


def _strangers(seed, count=8, **how):
    """Sources to be fitted to deformed other sources."""
    rng, sources, geometry = _sources(seed, count, **how)
    other = part_geometry(sources, pad_to=8, num_points=10**6)
    targets = deform(other, *part_parameters(other, random_delta(other, rng)))[:, -200:].contiguous()
    return rng, sources, geometry, targets, torch.tensor(np.roll(np.arange(count), 1))


def _assert_allowed(geometry, sources, fit, minimum_scale=0.05):
    assert (fit.half_extent >= minimum_scale * geometry.half_extent).all()
    padded = ~geometry.part_mask
    assert torch.equal(fit.centre[padded], geometry.centre[padded])
    assert torch.equal(fit.half_extent[padded], geometry.half_extent[padded])
    for m, source in enumerate(sources):
        real = len(source.centre)
        gaps = joint_gaps(source.joints, fit.centre[m, :real].numpy(), fit.half_extent[m, :real].numpy())
        size = max(1.0, float(fit.centre[m].abs().max()))  # one-sided, an unseen part may go far: float32
        assert gaps.max(initial=0.0) < 1e-6 * size


def test_a_known_small_deformation_of_the_source_itself_is_recovered():
    rng, sources, geometry = _sources(0, 6, num_points=10**6)
    centre, half_extent = part_parameters(geometry, random_delta(geometry, rng, 0.03))
    target = deform(geometry, centre, half_extent)
    fit = optimise_inner(geometry, target, torch.arange(6), iterations=60)
    start = chamfer(geometry.points, target)
    # Neighbours can settle wrong where parts slide along each other: most pairs come home exactly, none stays put.
    assert (fit.loss < 0.2 * start).all()
    exact = (fit.centre - centre).abs().amax(dim=(1, 2)) < 1e-4
    assert exact.sum() >= 4
    torch.testing.assert_close(fit.half_extent[exact], half_extent[exact], atol=1e-4, rtol=0)
    _assert_allowed(geometry, sources, fit)


@given(SEEDS, st.integers(0, 5), st.booleans(), st.booleans())
@settings(max_examples=15, deadline=None)
def test_never_worse_than_the_start_and_within_its_limits(seed, iterations, sided, thin):
    rng, sources, geometry, targets, index = _strangers(seed, 4, thin=thin)
    start = part_parameters(geometry, random_delta(geometry, rng))
    fit = optimise_inner(geometry, targets, index, start=start, iterations=iterations, one_sided=sided)
    assert fit.centre.shape == geometry.centre.shape and fit.loss.shape == (4,)

    def loss(centre, half_extent):
        points = deform(geometry, centre, half_extent)
        return one_sided(targets[index], points) if sided else chamfer(points, targets, y_index=index)

    torch.testing.assert_close(fit.loss, loss(fit.centre, fit.half_extent), rtol=1e-4, atol=1e-8)
    assert (fit.loss <= loss(*start) * (1 + 1e-6)).all()
    assert torch.equal(fit.loss, fit.objective)
    _assert_allowed(geometry, sources, fit)
    if iterations == 0:
        torch.testing.assert_close(fit.centre, start[0], rtol=0, atol=0)


def test_more_iterations_are_never_worse():
    _, _, geometry, targets, index = _strangers(1)
    losses = [optimise_inner(geometry, targets, index, iterations=n).loss for n in (0, 1, 3, 9, 27)]
    for before, after in pairwise(losses):
        assert (after <= before).all()
    assert losses[-1].median() < 0.6 * losses[0].median()


def test_it_ends_where_the_gradient_descent_of_the_paper_ends():
    _, _, geometry, targets, index = _strangers(2, 16)
    ours = optimise_inner(geometry, targets, index, iterations=25, minimum_scale=float("-inf"))
    paper = optimise_inner_sgd(geometry, targets, index, iterations=600)
    assert 0.9 < (ours.loss / paper.loss).median() < 1.005
    bounded = optimise_inner(geometry, targets, index, iterations=25)
    assert (ours.half_extent < 0).any() and (bounded.half_extent > 0).all()
    assert bounded.loss.mean() < 1.2 * ours.loss.mean()


def test_without_connectivity_parts_fit_better_and_joints_open():
    _, sources, geometry, targets, index = _strangers(3)
    free = optimise_inner(geometry, targets, index, connectivity=False)
    tied = optimise_inner(geometry, targets, index)
    assert free.loss.mean() < tied.loss.mean()
    real = len(sources[0].centre)
    gaps = joint_gaps(sources[0].joints, free.centre[0, :real].numpy(), free.half_extent[0, :real].numpy())
    assert gaps.max() > 1e-3


def test_a_partial_target_does_not_collapse_the_source():
    rng, sources, geometry = _sources(4, 12, num_points=10**6)
    whole = deform(geometry, *part_parameters(geometry, random_delta(geometry, rng, 0.3)))
    half = whole[..., 0].argsort(dim=1, descending=True)[:, : whole.shape[1] // 2]
    seen, index = whole.gather(1, half.unsqueeze(-1).expand(-1, -1, 3)), torch.arange(12)

    def width(points):
        return points[..., 0].amax(dim=1) - points[..., 0].amin(dim=1)

    def fitted(**how):
        fit = optimise_inner(geometry, seen, index, **how)
        _assert_allowed(geometry, sources, fit)
        return deform(geometry, fit.centre, fit.half_extent)

    prior = geometry.centre, geometry.half_extent
    pulled = fitted(one_sided=True, prior=prior, prior_weight=0.02)
    assert (width(pulled) > 0.8 * width(whole)).all()
    assert (width(fitted()) < 0.8 * width(whole)).all()  # two-sided, what was not seen is taken away
    assert chamfer(pulled, whole).mean() < 0.5 * chamfer(geometry.points, whole).mean()


def test_the_weight_of_the_prior_goes_from_none_to_all():
    rng, _, geometry, targets, index = _strangers(5)
    prior = part_parameters(geometry, random_delta(geometry, rng, 0.3))
    fits = [
        optimise_inner(geometry, targets, index, start=prior, prior=prior, prior_weight=w, iterations=30)
        for w in (1e-3, 0.1, 1e6)
    ]
    away = [(fit.centre - prior[0]).square().sum() + (fit.half_extent - prior[1]).square().sum() for fit in fits]
    assert away[0] > away[1] > away[2]
    assert away[2] < 1e-8
    assert fits[0].loss.mean() < fits[1].loss.mean() < fits[2].loss.mean()
    for fit, weight in zip(fits, (1e-3, 0.1, 1e6)):
        squared = (fit.centre - prior[0]).square() + (fit.half_extent - prior[1]).square()
        penalty = weight * (squared * geometry.part_mask.unsqueeze(-1)).sum(dim=(1, 2))
        torch.testing.assert_close(fit.objective, fit.loss + penalty, rtol=1e-3, atol=1e-5)


def test_a_mirrored_problem_has_the_mirrored_answer_and_pairs_do_not_feel_each_other():
    _, _, geometry, targets, index = _strangers(6)
    flip = torch.tensor([-1.0, 1.0, 1.0])
    num_parts = geometry.part_mask.shape[1]
    sign = torch.cat([torch.full((num_parts,), -1.0), torch.ones(num_parts)])
    projection = geometry.projection.clone()
    projection[:, 0] *= sign[:, None] * sign
    mirrored = replace(
        geometry,
        points=geometry.points * flip,
        canonical=geometry.canonical * flip,
        centre=geometry.centre * flip,
        projection=projection,
    )
    fit = optimise_inner(geometry, targets, index, iterations=4)
    twin = optimise_inner(mirrored, targets * flip, index, iterations=4)
    torch.testing.assert_close(twin.loss, fit.loss, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(twin.centre, fit.centre * flip, rtol=0, atol=1e-4)
    alone = optimise_inner(geometry.take(torch.tensor([3])), targets, index[3:4], iterations=4)
    torch.testing.assert_close(alone.centre[0], fit.centre[3], rtol=0, atol=1e-5)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_the_basis_spans_the_null_space_of_the_joints(seed):
    _, _, geometry = _sources(seed, 3, thin=True)
    projection = geometry.projection.double()
    basis = null_space_basis(projection)
    rank = torch.linalg.matrix_rank(projection, tol=1e-3)
    assert torch.equal((basis != 0).any(dim=-2).sum(dim=-1), rank)
    torch.testing.assert_close(projection @ basis, basis, atol=1e-5, rtol=0)
    torch.testing.assert_close(basis @ torch.linalg.pinv(basis, rtol=1e-6), projection, atol=1e-4, rtol=0)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_the_bounded_step_meets_the_optimality_conditions(seed):
    rng = np.random.default_rng(seed)
    count, num_parts = 4, 5

    def random(*shape):
        return torch.tensor(rng.normal(size=shape))

    w, q = random(count, 3, num_parts).square() + 0.1, random(count, 3, num_parts) * 0.3
    problem = InnerProblem(
        torch.zeros(count), torch.zeros(count), random(count, 3, 2 * num_parts), w, w * q, w * (q**2 + 0.2)
    )
    basis = random(count, 3, 2 * num_parts, 4)
    extent, bound = random(count, 3, num_parts).square() + 0.05, torch.full((count, 3, num_parts), 0.04)
    step = bounded_step(problem, basis, extent, bound)
    room = extent + step[..., num_parts:] - bound
    assert room.min() > -1e-6
    # What is left of the pull within the basis is made of bounds that bind, each pushing outwards.
    c, s = step[..., :num_parts], step[..., num_parts:]
    curved = torch.cat([w * c + w * q * s, w * q * c + w * (q**2 + 0.2) * s], dim=-1) + RIDGE * step
    left = (basis.transpose(-1, -2) @ (curved - problem.pull).unsqueeze(-1)).squeeze(-1)
    binds = room < 1e-6
    outward = basis[..., num_parts:, :] * binds.unsqueeze(-1)
    multipliers = torch.linalg.lstsq(outward.transpose(-1, -2), left.unsqueeze(-1), driver="gelsd").solution
    torch.testing.assert_close((outward.transpose(-1, -2) @ multipliers).squeeze(-1), left, atol=1e-5, rtol=1e-5)
    few = binds.sum(dim=-1) <= 4  # more could be told apart in several ways
    assert (multipliers.squeeze(-1)[few] > -1e-3).all()
    # Over-relaxed, it still lowers the quadratic.
    far = bounded_step(problem, basis, extent, bound, relaxation=1.9)
    c, s = far[..., :num_parts], far[..., num_parts:]
    value = w * c**2 + 2 * w * q * c * s + w * (q**2 + 0.2) * s**2
    assert (value.sum(dim=-1) - 2 * (problem.pull * far).sum(dim=-1) <= 1e-9).all()


def test_no_pairs_are_no_trouble():
    _, _, geometry, targets, index = _strangers(9, 2)
    none = index[:0]
    fit = optimise_inner(geometry.take(none), targets, none)
    assert fit.centre.shape == (0, 8, 3) and fit.loss.shape == (0,)


@pytest.mark.gpu
def test_a_gpu_fits_as_the_cpu_does():
    _, _, geometry, targets, index = _strangers(7)
    here = optimise_inner(geometry, targets, index, iterations=3)
    there = optimise_inner(geometry.to("cuda"), targets.cuda(), index.cuda(), iterations=3)
    torch.testing.assert_close(there.loss.cpu(), here.loss, rtol=1e-4, atol=1e-8)


def test_unknowns_are_what_the_projection_is_made_for():
    _, _, geometry = _sources(8, 2)
    start = by_axis(geometry.centre, geometry.half_extent)
    real = geometry.part_mask.repeat(1, 2).unsqueeze(1)
    kept = (geometry.projection @ start.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(kept, start * real, atol=1e-5, rtol=0)
