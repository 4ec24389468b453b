"""Refinement: never worse than from any start, within joints and bounds, and of use where a shape is seen in part."""

import numpy as np
import pytest
import torch
from geometry_cases import BoxSource, box_source, box_surface, part_geometry, random_delta
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.errors import InputError
from jr_dist.geometry.boxes import deform, part_boxes
from jr_dist.geometry.chamfer import chamfer, one_sided
from jr_dist.geometry.joints import find_joints, joint_gaps
from jr_dist.geometry.projection import part_parameters
from jr_dist.models.ido import optimise_inner
from jr_dist.models.refine import Refinement, mirror_plane, refine, spacing, spread_alike, with_mirror_image

PARTIAL = {"one_sided": True, "prior_weight": 0.02}
SEEDS = st.integers(0, 2**31)


def _problem(seed, count=4):
    """Sources, targets that are other sources deformed, and parameters as a network would give them."""
    rng = np.random.default_rng(seed)
    sources = [box_source(int(rng.integers(2, 7)), rng, num_points=120) for _ in range(count)]
    geometry = part_geometry(sources, pad_to=8, num_points=200)
    targets = deform(geometry, *part_parameters(geometry, random_delta(geometry, rng))).roll(1, dims=0)
    network = part_parameters(geometry, random_delta(geometry, rng, 0.5))
    return sources, geometry, targets, torch.arange(count), network


def _widest_gap(sources, centre, half_extent):
    boxes = [
        (centre[m, : len(s.centre)].numpy(), half_extent[m, : len(s.centre)].numpy()) for m, s in enumerate(sources)
    ]
    return max(joint_gaps(s.joints, *box).max(initial=0.0) for s, box in zip(sources, boxes, strict=True))


@given(SEEDS, st.booleans(), st.booleans(), st.integers(0, 4))
@settings(max_examples=8, deadline=None)
def test_never_worse_than_from_any_start_and_within_its_limits(seed, partial, given_network, iterations):
    sources, geometry, targets, index, network = _problem(seed)
    how = Refinement(iterations, **(PARTIAL if partial else {}))
    undeformed = geometry.centre, geometry.half_extent
    fit = refine(geometry, targets, index, network if given_network else None, how)
    starts = [
        undeformed,
        *([network] if given_network else []),
        *([] if partial else [spread_alike(geometry, targets)]),
    ]
    prior = {"prior": network if given_network else undeformed, "prior_weight": how.prior_weight} if partial else {}
    alone = [
        optimise_inner(geometry, targets, index, start=start, iterations=iterations, one_sided=partial, **prior)
        for start in starts
    ]
    assert torch.equal(fit.objective, torch.stack([one.objective for one in alone]).amin(dim=0))
    points = deform(geometry, fit.centre, fit.half_extent)
    loss = one_sided(targets, points) if partial else chamfer(points, targets)
    torch.testing.assert_close(fit.loss, loss, rtol=1e-4, atol=1e-7)
    assert (fit.half_extent > 0).all()
    assert _widest_gap(sources, fit.centre, fit.half_extent) < 1e-5
    padded = ~geometry.part_mask
    assert torch.equal(fit.centre[padded], geometry.centre[padded])
    assert torch.equal(fit.half_extent[padded], geometry.half_extent[padded])


def test_with_one_start_it_is_ido():
    _, geometry, targets, index, _ = _problem(1)
    fit = refine(geometry, targets, index, None, Refinement(6, **PARTIAL))
    prior = geometry.centre, geometry.half_extent
    same = optimise_inner(geometry, targets, index, iterations=6, one_sided=True, prior=prior, prior_weight=0.02)
    for name in ("centre", "half_extent", "loss", "objective"):
        assert torch.equal(getattr(fit, name), getattr(same, name))


def test_several_starts_end_lower():
    _, geometry, targets, index, network = _problem(2, count=24)
    alone = optimise_inner(geometry, targets, index).loss
    fit = refine(geometry, targets, index, network, Refinement())
    assert (fit.loss <= alone).all()
    assert (fit.loss < 0.99 * alone).any()
    assert fit.loss.mean() < 0.98 * alone.mean()


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_a_source_spread_like_its_target_keeps_its_joints(seed):  # what is thinner than 0.01 counts as that thick
    sources, geometry, targets, _, _ = _problem(seed)
    centre, half_extent = spread_alike(geometry, targets)
    assert _widest_gap(sources, centre, half_extent) < 1e-5
    points = deform(geometry, centre, half_extent)
    torch.testing.assert_close(points.mean(dim=1), targets.mean(dim=1), atol=1e-4, rtol=0)
    before, wanted = geometry.points.std(dim=1), targets.std(dim=1)
    torch.testing.assert_close(
        points.std(dim=1), before * wanted.clamp(min=0.01) / before.clamp(min=0.01), atol=1e-4, rtol=1e-2
    )


@pytest.mark.parametrize("weight", [0.0, -0.1, float("nan")])
def test_what_is_seen_in_part_needs_a_prior(weight):
    with pytest.raises(InputError, match=r"prior_weight is .*; above 0 is allowed"):
        Refinement(one_sided=True, prior_weight=weight)


def test_a_whole_shape_is_not_mirrored():
    with pytest.raises(InputError, match="allowed is with one_sided"):
        Refinement(mirror=True)


# The mirror plane


def _table(rng):
    """A top on four legs, its own mirror image in x = 0."""
    centre = np.array([[0, 0.3, 0], *([x, -0.15, z] for x in (-0.5, 0.5) for z in (-0.3, 0.3))])
    half_extent = np.array([[0.6, 0.05, 0.4], *([0.06, 0.4, 0.06] for _ in range(4))])
    points = np.concatenate([box_surface(c, s, 300, rng) for c, s in zip(centre, half_extent, strict=True)])
    part_index = np.repeat(np.arange(5), 300)
    order = rng.permutation(len(points))
    points, part_index = points[order], part_index[order]
    boxes = part_boxes(points, part_index, 5)
    return BoxSource(points, part_index, *boxes, find_joints(points, part_index, *boxes, tolerance=0.05))


def test_the_mirror_plane_goes_with_the_parts():
    rng = np.random.default_rng(3)
    geometry = part_geometry([_table(rng)], pad_to=7, num_points=1500)
    torch.testing.assert_close(mirror_plane(geometry, geometry.centre), torch.zeros(1), atol=1e-3, rtol=0)
    shift = torch.tensor([0.2, 0.1, 0.0])
    torch.testing.assert_close(mirror_plane(geometry, geometry.centre + shift), torch.tensor([0.2]), atol=1e-3, rtol=0)
    # The legs apart, as a wider table has them: the plane stays between them.
    wider = geometry.centre * torch.tensor([1.7, 1.0, 1.0]) + shift
    torch.testing.assert_close(mirror_plane(geometry, wider), torch.tensor([0.2]), atol=1e-3, rtol=0)
    # A leg gone astray counts by its share of the points: 1 of 5 parts, twice half of its way.
    astray = geometry.centre + torch.tensor([[[0.0, 0, 0], [0.1, 0, 0], *[[0.0, 0, 0]] * 5]])
    torch.testing.assert_close(mirror_plane(geometry, astray), torch.tensor([0.02]), atol=1e-3, rtol=0)


def test_a_source_without_symmetry_has_its_middle_for_a_plane():
    rng = np.random.default_rng(4)
    source = box_source(1, rng)
    geometry = part_geometry([source], pad_to=2)
    aside = type(geometry)(**{**vars(geometry), "centre": geometry.centre + torch.tensor([0.7, 0, 0])})
    torch.testing.assert_close(mirror_plane(aside, aside.centre)[0], aside.centre[0, 0, 0])


def test_the_mirror_image_lies_behind_the_points():
    points = torch.tensor([[[1.0, 2, 3], [0.5, 0, 1]], [[0.0, 0, 0], [2, 1, 0]]])
    both = with_mirror_image(points, torch.tensor([0.5, 1.0]))
    assert torch.equal(both[:, :2], points)
    assert torch.equal(both[:, 2:], torch.tensor([[[0.0, 2, 3], [0.5, 0, 1]], [[2.0, 0, 0], [0, 1, 0]]]))


def test_the_mirror_image_tells_of_the_hidden_half():
    rng = np.random.default_rng(5)
    geometry = part_geometry([_table(rng)], num_points=1500)
    # The target: wider, longer legs, shorter along z; symmetric, and put aside as an observed frame does.
    scale, shift = torch.tensor([1.25, 1.1, 0.8]), torch.tensor([0.1, 0.0, 0.05])
    legs = torch.tensor([[1.0], *[[1.3]] * 4])  # thicker
    whole = deform(geometry, geometry.centre * scale + shift, geometry.half_extent * scale * legs)
    seen = whole[:, whole[0, :, 0] > 0.1 + 0.02]
    assert len(seen[0]) > 600
    # The network knows where the whole is, not how it looks.
    network = geometry.centre + shift, geometry.half_extent
    index = torch.zeros(1, dtype=torch.int64)
    hidden = whole[:, whole[0, :, 0] < 0.1]

    def error(mirror):
        fit = refine(geometry, seen, index, network, Refinement(**PARTIAL, mirror=mirror))
        return one_sided(hidden, deform(geometry, fit.centre, fit.half_extent)).item()

    start = one_sided(hidden, deform(geometry, *network)).item()
    assert error(mirror=True) < 0.5 * error(mirror=False) < 0.5 * start


def test_the_spacing_is_that_of_a_grid():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(30.0)] * 2, [0.0]), axis=-1).reshape(-1, 3)
    clouds = torch.from_numpy(np.stack([rng.permutation(grid), 0.1 * rng.permutation(grid)])).float()
    torch.testing.assert_close(spacing(clouds) * 2**0.5, torch.tensor([1.0, 0.1]))  # half of a grid has it too
    surface = torch.from_numpy(box_surface(np.zeros(3), np.ones(3), 4000, rng)).float()[None]
    apart = (surface[0, :500, None] - surface[0, None]).norm(dim=-1).topk(2, largest=False).values[:, 1]
    torch.testing.assert_close(spacing(surface)[0], apart.median(), rtol=0.1, atol=0)


@pytest.mark.parametrize("given_network", [False, True])
@pytest.mark.parametrize("partial", [False, True])
def test_what_is_too_thin_to_be_told_keeps_its_share(partial, given_network):
    """A board of 0.02 on four legs, its samples 0.04 apart: a chamfer alone lays one face of it on the other."""
    rng = np.random.default_rng(2)
    feet = [[x, -0.4, z] for x in (-0.45, 0.45) for z in (-0.35, 0.35)]
    boxes = np.array([[0.0, 0.01, 0.0], *feet]), np.array([[0.5, 0.01, 0.4], *[[0.04, 0.4, 0.04]] * 4])
    counts = [600, *[100] * 4]

    def sampled(stretch):
        points = np.concatenate(
            [box_surface(c * stretch, h * stretch, n, rng) for c, h, n in zip(*boxes, counts, strict=True)]
        )
        return points.astype(np.float64), np.repeat(np.arange(5), counts)

    points, part_index = sampled(np.ones(3))
    box = part_boxes(points, part_index, 5)
    source = BoxSource(points, part_index, *box, find_joints(points, part_index, *box))
    geometry = part_geometry([source], num_points=1000)
    target = torch.from_numpy(sampled(np.array([1.2, 0.9, 1.1]))[0]).float()[None]
    network = None
    if given_network:  # closed joints, the board next to nothing
        free = optimise_inner(geometry, target, torch.tensor([0]), iterations=12)
        network = free.centre, free.half_extent
        assert free.half_extent[0, 0, 1] < 0.3 * geometry.half_extent[0, 0, 1]

    def fitted(**more):
        how = Refinement(12, **(PARTIAL if partial else {}), **more)
        return refine(geometry, target, torch.tensor([0]), network, how)

    kept = fitted(thin_scale=0.5)
    scale = (kept.half_extent / geometry.half_extent)[0]
    assert scale[0, 1] >= 0.5
    assert _widest_gap([source], kept.centre, kept.half_extent) < 1e-5
    thick = torch.from_numpy(sampled(np.array([1.2, 0.9, 1.1]))[0]).float()[None]
    assert chamfer(deform(geometry, kept.centre, kept.half_extent), thick) < 1.1 * chamfer(
        deform(geometry, fitted().centre, fitted().half_extent), thick
    )


def test_no_pairs_are_no_trouble():
    _, geometry, targets, index, _ = _problem(6)
    none = geometry.take(index[:0])
    for how in (Refinement(2), Refinement(2, **PARTIAL, mirror=True)):
        fit = refine(none, targets, index[:0], None, how)
        assert fit.centre.shape == (0, 8, 3) and fit.loss.shape == (0,)
