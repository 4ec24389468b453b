"""PointNet runs in a few passes over its points and is the plain sequence of its layers all the same."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from test_step_waits import JOINT, a_run
from torch import Tensor, nn

from jr_dist.models import largest_product, point_layer
from jr_dist.models.encoders import PointNet
from jr_dist.models.largest_product import largest_product as largest
from jr_dist.train.candidates import begin_draw
from jr_dist.train.step import joint_step


def plain(encoder: PointNet, points: Tensor) -> Tensor:
    """The layers one after the other, as torch has them."""
    clouds, count, _ = points.shape
    features = encoder.point_layers(points.reshape(clouds * count, 3)).view(clouds, count, -1)
    return encoder.head(torch.relu(features.max(dim=1).values))


def encoder_with_norms_that_fall() -> PointNet:
    """Weights and biases of batch norm anywhere, some weights negative."""
    torch.manual_seed(0)
    encoder = PointNet((8, 16, 24), 5)
    with torch.no_grad():
        for norm in encoder.modules():
            if isinstance(norm, nn.BatchNorm1d):
                norm.weight.normal_()
                norm.bias.normal_()
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.5, 2)
    return encoder.double()


@pytest.fixture
def small_tiles(monkeypatch):
    """Several tiles, the last one short."""
    monkeypatch.setattr(point_layer, "TILE", 17)
    monkeypatch.setattr(largest_product, "TILE", 11)


@pytest.mark.parametrize("training", [True, False])
def test_a_pointnet_is_its_layers_one_after_the_other(small_tiles, training):
    ours = encoder_with_norms_that_fall().train(training)
    theirs = deepcopy(ours)
    points = torch.rand(4, 50, 3, dtype=torch.float64)
    ours_points, their_points = (points.clone().requires_grad_() for _ in range(2))
    codes, expected = ours(ours_points), plain(theirs, their_points)
    assert torch.allclose(codes, expected, rtol=0, atol=1e-12)
    pull = torch.randn_like(codes)
    for one in (codes, expected):
        (one * pull).sum().backward()
    pairs = [("points", ours_points, their_points)]
    pairs += [(name, mine, theirs.get_parameter(name)) for name, mine in ours.named_parameters()]
    for name, mine, other in pairs:
        assert mine.grad is not None and other.grad is not None
        assert torch.allclose(mine.grad, other.grad, rtol=0, atol=1e-11), name
    for (name, mine), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(mine, other, rtol=0, atol=1e-14), name


def test_float32_codes_are_nearer_to_float64_than_those_of_the_layers():
    torch.manual_seed(1)
    encoder = PointNet((64, 64, 64, 128, 1024), 32)
    points = torch.rand(3, 1000, 3)
    exact, theirs = plain(deepcopy(encoder).double(), points.double()), plain(deepcopy(encoder), points)
    ours_off, theirs_off = ((codes - exact).square().mean().sqrt() for codes in (encoder(points), theirs))
    assert ours_off < 0.5 * theirs_off
    assert ours_off < 1e-6 * exact.std()


@pytest.mark.parametrize(("weight", "bias"), [(1.0, 0.0), (0.3, 1.0), (0.1, 3.0), (0.03, 3.0)])
def test_codes_are_nearer_to_float64_than_those_of_torchs_layers(weight, bias):
    """Also where batch norm leaves features that hardly vary about a large mean."""
    torch.manual_seed(2)
    encoder = PointNet((64, 128, 256), 16)
    for norm in encoder.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.constant_(norm.weight, weight)
            nn.init.constant_(norm.bias, bias)
    points = torch.rand(8, 1024, 3)
    exact = plain(deepcopy(encoder).double(), points.double())
    ours, theirs = (
        run(deepcopy(encoder)).double() - exact for run in (lambda e: e(points), lambda e: plain(e, points))
    )
    assert ours.abs().max() <= theirs.abs().max()


def test_points_that_are_all_alike_leave_no_trace_of_rounding():
    encoder = PointNet((16, 32, 64), 8)
    for norm in encoder.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.constant_(norm.bias, 3.0)
    code = encoder(torch.full((2, 700, 3), 0.3))
    assert code.isfinite().all()
    assert all(values.isfinite().all() for values in encoder.state_dict().values())


def last_norm(encoder: PointNet) -> nn.BatchNorm1d:
    return [module for module in encoder.modules() if isinstance(module, nn.BatchNorm1d)][-1]


def test_a_norm_whose_weight_is_zero_has_its_gradient():
    torch.manual_seed(3)
    ours = PointNet((8, 16), 4).double()
    norm = last_norm(ours)
    nn.init.zeros_(norm.weight)
    nn.init.ones_(norm.bias)
    theirs, points = deepcopy(ours), torch.rand(3, 40, 3, dtype=torch.float64)
    pull = torch.randn(3, 4, dtype=torch.float64)
    (ours(points) * pull).sum().backward()
    # torch gives the gradient of a maximum among equals to the first: ours is that of a weight a little above zero
    with torch.no_grad():
        last_norm(theirs).weight.fill_(1e-9)
    (plain(theirs, points) * pull).sum().backward()
    other = last_norm(theirs).weight.grad
    assert norm.weight.grad is not None and other is not None
    assert torch.allclose(norm.weight.grad, other, atol=1e-6)


class InFloat64(nn.Module):
    """An encoder's layers, one after the other, in float64; its codes in float32."""

    def __init__(self, encoder: PointNet) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder).double()

    def forward(self, points: Tensor) -> Tensor:
        return plain(self.encoder, points.double()).float()


def test_the_losses_of_a_step_are_those_of_float64_encoders(tiny_dataset, tmp_path):
    losses = []
    for exact in (False, True):
        state, batch = a_run(tiny_dataset, tmp_path / str(exact), model__encoder_channels=(64, 64, 128, 256))
        for name in ("deformation_encoder", "retrieval_encoder") if exact else ():
            encoder = state.networks.get_submodule(name)
            assert isinstance(encoder, PointNet)
            setattr(state.networks, name, InFloat64(encoder))
        losses.append(joint_step(state, batch, JOINT, 1e-3, begin_draw(state, batch, soft=False)))
    for name in ("fit", "loss_deformation", "loss_embedding", "symmetry"):
        assert losses[0][name] == pytest.approx(losses[1][name], rel=1e-6), name


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_largest_product_and_its_gradient(small_tiles, kind):
    torch.manual_seed(3)
    points, weight = (
        torch.randn(3, 40, 6, dtype=kind, requires_grad=True),
        torch.randn(9, 6, dtype=kind).requires_grad_(),
    )
    found, expected = largest(points, weight), (points @ weight.t()).max(dim=1).values
    assert torch.allclose(found, expected, rtol=1e-6)
    pull = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad((value * pull).sum(), (points, weight)) for value in (found, expected))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_a_product_that_is_not_a_number_stays_one(small_tiles):
    points = torch.ones(2, 30, 4)
    points[1, 3, 2] = torch.nan
    found = largest(points, torch.ones(5, 4))
    assert torch.equal(found[0], torch.full((5,), 4.0)) and found[1].isnan().all()


def test_where_it_is_not_compiled_the_largest_product_is_the_same():
    torch.manual_seed(4)
    points, weight = torch.randn(3, 40, 6), torch.randn(9, 6)
    for mine, other in zip(
        largest_product._tiled(points, weight), largest_product._in_chunks(points, weight), strict=True
    ):
        assert torch.allclose(mine.double(), other.double(), rtol=1e-6)


def test_bfloat16_is_of_training_alone():
    torch.manual_seed(5)
    plainly = PointNet((16, 32, 64), 8)
    shortly = PointNet((16, 32, 64), 8, precision=torch.bfloat16)
    shortly.load_state_dict(plainly.state_dict())
    points = torch.rand(4, 64, 3)
    exact, near = plainly(points), shortly(points)
    assert near.dtype == torch.float32 and not torch.equal(near, exact)
    assert (near - exact).abs().mean() <= 0.02 * exact.std()
    for encoder in (plainly, shortly):
        encoder.load_state_dict(plainly.state_dict())
        encoder.eval()
    assert torch.equal(plainly(points), shortly(points))
