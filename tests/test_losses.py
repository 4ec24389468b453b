"""Eqs. 2 and 4 and the margin loss against the formulas written out."""

import math

import pytest
import torch

from jr_dist.models.retrieval import effective_number, soft_retrieval
from jr_dist.train.losses import (
    deformation_loss,
    embedding_loss,
    fit_probability_entropy,
    fit_probability_learned,
    fit_probability_spread,
    margin_loss,
    matched_sigma,
    spread_of_fit,
)


def softmax(values):
    terms = [math.exp(v) for v in values]
    return [t / sum(terms) for t in terms]


def test_eq_2_by_hand_as_the_paper_writes_it():
    squared, sigma0 = [[4.0, 1.0, 2.0], [0.5, 3.0, 1.0]], 1.5
    fitting, sigma = [[0.2, 0.1, 0.4], [0.3, 0.2, 0.1]], [[0.2, 0.3, 0.1], [0.2, 0.2, 0.5]]
    expected = 0.0
    for d, fit, s in zip(squared, fitting, sigma, strict=True):
        p_r = softmax([-x / sigma0**2 for x in d])
        p_fit = softmax([-(x**2) / y**2 for x, y in zip(fit, s, strict=True)])
        expected += sum(abs(a - b) for a, b in zip(p_r, p_fit, strict=True)) / 2
    loss = embedding_loss(
        soft_retrieval(torch.tensor(squared), sigma0),
        fit_probability_learned(torch.tensor(fitting), torch.tensor(sigma)),
        loss="l1",
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_is_least_where_the_distributions_agree():
    fit = torch.tensor([[0.6, 0.3, 0.1]])
    logits = torch.zeros(1, 3, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=1.0)
    for _ in range(500):
        optimiser.zero_grad()
        embedding_loss(torch.softmax(logits, -1), fit).backward()
        optimiser.step()
    assert torch.allclose(torch.softmax(logits, -1), fit, atol=1e-3)


def test_eq_4_by_hand_and_without_gradient_into_the_weights():
    fitting = torch.tensor([[0.2, 0.4], [0.1, 0.3]], requires_grad=True)
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]], requires_grad=True)
    probability = torch.softmax(logits, -1)
    loss = deformation_loss(fitting, probability)
    p = [softmax([0.0, 1.0]), softmax([2.0, 0.0])]
    assert loss.item() == pytest.approx((p[0][0] * 0.2 + p[0][1] * 0.4 + p[1][0] * 0.1 + p[1][1] * 0.3) / 2, rel=1e-6)
    loss.backward()
    assert logits.grad is None
    assert fitting.grad is not None
    assert torch.allclose(fitting.grad, torch.tensor(p) / 2)


@pytest.mark.parametrize("probability", [
    lambda fit: fit_probability_spread(fit, 3.5, spread_of_fit(fit)),
    lambda fit: fit_probability_entropy(fit, 3.0),
    lambda fit: fit_probability_learned(fit, torch.full_like(fit, 0.1)),
])  # fmt: skip
def test_no_gradient_of_eq_2_reaches_the_deformation(probability):
    fitting = torch.rand(2, 5, requires_grad=True)
    assert not probability(fitting).requires_grad


def test_spread_scale_does_not_depend_on_units():
    fitting = torch.rand(4, 10, generator=torch.Generator().manual_seed(0))
    one, other = (fit_probability_spread(fit, 3.5, spread_of_fit(fit)) for fit in (fitting, fitting * 1000 + 7))
    assert torch.allclose(one, other, atol=1e-4)


def test_entropy_scale_leaves_the_number_of_candidates_asked_for():
    fitting = torch.rand(6, 10, generator=torch.Generator().manual_seed(1)) * 1e-3 + 0.2
    effective = effective_number(fit_probability_entropy(fitting, 3.0))
    assert torch.allclose(effective, torch.full((6,), 3.0), atol=0.02)


def test_matched_sigma_starts_p_fit_near_that_number():
    fitting = torch.rand(64, 10, generator=torch.Generator().manual_seed(2)) * 0.1 + 0.2
    sigma = torch.full_like(fitting, matched_sigma(fitting, 3.0))
    assert effective_number(fit_probability_learned(fitting, sigma)).mean().item() == pytest.approx(3.0, abs=0.7)


def test_identical_fits_give_a_uniform_distribution_and_no_nan():
    fitting = torch.full((2, 4), 0.3)
    spread = fit_probability_spread(fitting, 3.5, spread_of_fit(fitting))
    for probability in (spread, fit_probability_entropy(fitting, 3.0)):
        assert torch.allclose(probability, torch.full((2, 4), 0.25))


def test_the_margin_loss_of_dar_by_hand():
    fitting = torch.tensor([[0.3, 0.1, 0.4, 0.2], [0.1, 0.2, 0.3, 0.4]])
    squared = torch.tensor([[1.0, 4.0, 2.0, 3.0], [0.0, 1.0, 20.0, 5.0]], requires_grad=True)
    # positives of the first are those of .1 and .2, the farther at 4; of the second the nearest two, the farther at 1
    first = (10 + 4 - 1) + (10 + 4 - 2)
    second = 0 + (10 + 1 - 5)
    loss = margin_loss(squared, fitting, num_positives=2, margin=10.0)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)
    loss.backward()
    # the farthest positive is pulled by every negative that is too near, which are pushed; the rest feels nothing
    assert squared.grad is not None
    assert torch.equal(squared.grad, torch.tensor([[-0.5, 1.0, -0.5, 0.0], [0.0, 0.5, 0.0, -0.5]]))


def test_no_gradient_of_the_margin_loss_reaches_the_deformation():
    fitting = torch.rand(2, 5, requires_grad=True)
    assert not margin_loss(torch.rand(2, 5), fitting, num_positives=2, margin=1.0).requires_grad
