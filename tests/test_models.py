"""Encoders, the deformation module and the retrieval distribution."""

import math

import numpy as np
import pytest
import torch

from jr_dist.bank.noise import gumbel_noise, uniform_noise
from jr_dist.models.encoders import PointNet
from jr_dist.models.networks import seeded_networks
from jr_dist.models.retrieval import (
    effective_number,
    soft_retrieval,
    squared_distance,
)
from jr_dist.models.structure_aware import StructureAwareDeformation


def test_pointnet_ignores_the_order_and_the_repetition_of_points():
    torch.manual_seed(0)
    encoder = PointNet((8, 16), 5).eval()
    points = torch.randn(2, 30, 3)
    shuffled = points[:, torch.randperm(30)]
    assert torch.allclose(encoder(points), encoder(shuffled), atol=1e-6)
    assert torch.allclose(encoder(points), encoder(torch.cat([points, points[:, :7]], 1)), atol=1e-6)


def test_deformation_equals_one_mlp_on_concatenated_codes():
    torch.manual_seed(1)
    module = StructureAwareDeformation(4, 3, 2, hidden=(8, 5))
    glob, part, target = torch.randn(3, 4), torch.randn(3, 6, 2), torch.randn(2, 3)
    source_index, target_index = torch.tensor([2, 0, 2, 1]), torch.tensor([0, 1, 1, 0])
    delta = module(glob, part, target, source_index, target_index)
    weight = torch.cat([module.from_global.weight, module.from_target.weight, module.from_part.weight], 1)
    for m, (s, t) in enumerate(zip(source_index.tolist(), target_index.tolist(), strict=True)):
        codes = torch.cat([glob[s].expand(6, -1), target[t].expand(6, -1), part[s]], 1)
        expected = module.rest(codes @ weight.T + module.from_global.bias)
        assert torch.allclose(delta[m], expected, atol=1e-5)


def test_deformation_is_no_affine_map():
    torch.manual_seed(2)
    module = StructureAwareDeformation(4, 3, 2)
    glob, part = torch.randn(2, 4), torch.randn(2, 1, 2)
    first, second = torch.randn(1, 3), torch.randn(1, 3)
    index = torch.tensor([0, 1])
    same = torch.zeros(2, dtype=torch.long)
    moved = module(glob, part, first, index, same) - module(glob, part, second, index, same)
    # an affine network would answer a change of target alike for every source
    assert (moved[0] - moved[1]).abs().max() > 1e-4


def test_permuting_parts_permutes_the_answer():
    torch.manual_seed(3)
    module = StructureAwareDeformation(4, 3, 2)
    glob, part, target = torch.randn(1, 4), torch.randn(1, 5, 2), torch.randn(1, 3)
    index = torch.zeros(1, dtype=torch.long)
    order = torch.tensor([3, 0, 4, 1, 2])
    delta = module(glob, part, target, index, index)
    assert torch.allclose(module(glob, part[:, order], target, index, index), delta[:, order], atol=1e-6)


def test_seeded_networks_leave_the_global_generator_alone():
    sizes = {
        "channels": (4,),
        "hidden": (4, 4),
        "global_code": 3,
        "target_code": 3,
        "part_code": 2,
        "embedding": 3,
    }
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = seeded_networks(5, **sizes), seeded_networks(5, **sizes)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_eq_1_by_hand():
    squared = torch.tensor([[1.0, 4.0, 9.0]])
    sigma0 = 2.0
    terms = [math.exp(-d / sigma0**2) for d in (1.0, 4.0, 9.0)]
    expected = torch.tensor([[term / sum(terms) for term in terms]])
    assert torch.allclose(soft_retrieval(squared, sigma0), expected, atol=1e-7)


def test_eq_1_takes_a_sigma_for_each_source():
    squared, sigma = torch.tensor([[1.0, 4.0]]), torch.tensor([[0.5, 3.0]])
    terms = [math.exp(-1.0 / 0.25), math.exp(-4.0 / 9.0)]
    assert torch.allclose(soft_retrieval(squared, sigma), torch.tensor([[t / sum(terms) for t in terms]]), atol=1e-7)


def test_the_distance_is_asymmetric_the_weight_being_the_sources():
    generator = torch.Generator().manual_seed(0)
    code, weight = torch.randn(2, 8, generator=generator), torch.rand(2, 8, generator=generator) + 0.1
    expected = sum((float(weight[1, j]) * float(code[0, j] - code[1, j])) ** 2 for j in range(8))
    assert squared_distance(code[0], code[1], weight[1]).item() == pytest.approx(expected, rel=1e-5)
    assert squared_distance(code[1], code[0], weight[0]).item() != pytest.approx(expected, rel=1e-3)


def test_effective_number_counts():
    assert effective_number(torch.full((1, 7), 1 / 7)).item() == pytest.approx(7, rel=1e-5)
    assert effective_number(torch.tensor([[0.0, 1.0, 0.0]])).item() == pytest.approx(1, rel=1e-5)


def test_noise_is_uniform_and_uncorrelated_between_neighbours():
    noise = uniform_noise(0, 0, np.arange(400), np.arange(250))
    assert noise.min() > 0 and noise.max() < 1
    counts, _ = np.histogram(noise, bins=50, range=(0, 1))
    expected = noise.size / 50
    assert ((counts - expected) ** 2 / expected).sum() < 49 + 6 * math.sqrt(2 * 49)
    centred = noise - 0.5
    for other in (
        np.roll(centred, 1, 0),
        np.roll(centred, 1, 1),
        uniform_noise(0, 1, np.arange(400), np.arange(250)) - 0.5,
    ):
        assert abs((centred * other).mean() * 12) < 5 / math.sqrt(noise.size)


def test_noise_of_a_source_does_not_depend_on_its_company():
    whole = gumbel_noise(1, 2, np.arange(6), np.arange(10))
    assert np.array_equal(gumbel_noise(1, 2, np.array([4]), np.array([7, 2])), whole[4:5, [7, 2]])
