"""The symmetry loss: the chamfer with the mirror image, computed in one direction."""

import pytest
import torch
from test_chamfer import BACKENDS, by_definition, clouds

from jr_dist.errors import InputError
from jr_dist.geometry.chamfer import chamfer, spatial_order
from jr_dist.geometry.symmetry import mirror, symmetry_loss


def gradient(function, points, weights):
    points = points.clone().requires_grad_()
    return torch.autograd.grad((function(points) * weights.to(points.dtype)).sum(), points)[0].double()


def test_mirror_is_its_own_inverse_and_keeps_the_plane():
    points = clouds(2, 30, 0)
    assert torch.equal(mirror(mirror(points)), points)
    assert (mirror(points)[..., 0] == -points[..., 0]).all()
    assert torch.equal(mirror(points)[..., 1:], points[..., 1:])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_points", [1, 2, 15, 16, 17, 200, 700])
def test_equals_the_chamfer_with_the_mirror_image(backend, num_points):
    points, weights = clouds(3, num_points, num_points), torch.tensor([1.0, 2.0, -1.0])
    loss = symmetry_loss(points, backend=backend)
    torch.testing.assert_close(loss, chamfer(points, mirror(points)), rtol=1e-6, atol=0)
    torch.testing.assert_close(loss.double(), by_definition(points, mirror(points)), rtol=1e-6, atol=1e-30)
    ours = gradient(lambda x: symmetry_loss(x, backend=backend), points, weights)
    true = gradient(lambda x: by_definition(x, mirror(x)), points.double(), weights)
    assert (ours - true).norm() <= 1e-5 * true.norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_for_a_symmetric_shape_and_not_for_a_shifted_one(backend):
    half = clouds(2, 50, 0)
    whole = torch.cat([half, mirror(half)], 1)
    assert (symmetry_loss(whole, backend=backend) == 0).all()
    assert (symmetry_loss(whole + torch.tensor([0.1, 0, 0]), backend=backend) > 0).all()
    along = symmetry_loss(whole + torch.tensor([0, 0.1, 0.2]), backend=backend)
    assert (along < 1e-12).all()


def test_mirroring_the_input_changes_nothing():
    points = clouds(3, 200, 4)
    torch.testing.assert_close(symmetry_loss(mirror(points)), symmetry_loss(points), rtol=1e-6, atol=0)
    there = gradient(symmetry_loss, mirror(points), torch.ones(3))
    torch.testing.assert_close(mirror(there), gradient(symmetry_loss, points, torch.ones(3)), rtol=1e-5, atol=1e-8)


def test_a_given_order_changes_nothing():
    points = clouds(3, 200, 4)
    order = spatial_order(points * 1.5)
    assert torch.equal(symmetry_loss(points, order=order), symmetry_loss(points))
    with torch.no_grad():
        assert not symmetry_loss(points.requires_grad_()).requires_grad


def test_bad_clouds_are_refused():
    with pytest.raises(InputError, match="at least one point"):
        symmetry_loss(torch.zeros(2, 0, 3))
    for backend in BACKENDS:
        with pytest.raises(InputError, match="NaN"):
            symmetry_loss(torch.full((2, 5, 3), float("nan")), backend=backend)
