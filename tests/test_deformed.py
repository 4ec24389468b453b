"""The losses of deformed sources: those of the functions one after the other, whichever backend computes them."""

import numpy as np
import pytest
import torch
from geometry_cases import box_source, part_geometry
from test_chamfer import BACKENDS, by_definition, clouds, gradients

from jr_dist.errors import InputError
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer
from jr_dist.geometry.deformed import deformed_losses
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.symmetry import mirror, symmetry_loss

#: of three pairs
INDEX, WEIGHTS = torch.tensor([1, 0, 1]), torch.tensor([1.0, -0.5, 3.0])


def a_case(num_points: int, num_target_points: int) -> tuple[PartGeometry, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three sources of up to 7 parts (8 with padding), new boxes for them, and two targets."""
    rng = np.random.default_rng(num_points)
    sources = [box_source(parts, rng, num_points=max(num_points // parts, 9)) for parts in (1, 4, 7)]
    geometry = part_geometry(sources, pad_to=8, num_points=num_points)
    moves = torch.from_numpy(rng.uniform(-0.1, 0.1, (2, *geometry.centre.shape))).float()
    return geometry, geometry.centre + moves[0], geometry.half_extent + moves[1], clouds(2, num_target_points, 5)


def in_float64(geometry, origin, targets):
    """Both losses as a function of the boxes, by definition."""
    part = geometry.part_index.unsqueeze(-1).expand(-1, -1, 3)

    def losses(centre, half_extent):
        shift, growth = centre - geometry.centre.double(), half_extent - geometry.half_extent.double()
        points = geometry.points.double() + shift.gather(1, part) + growth.gather(1, part) * geometry.canonical.double()
        centred = points - origin[:, None].double()
        return by_definition(points, targets[INDEX]), by_definition(centred, mirror(centred))

    return losses


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [(1, 1), (9, 31), (270, 100)])
def test_values_and_gradients_equal_float64_autograd(backend, sizes):
    geometry, centre, half_extent, targets = a_case(*sizes)
    origin = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (3, 3))).float()
    by_float64 = in_float64(geometry, origin, targets)
    found = deformed_losses(geometry, centre, half_extent, targets, INDEX, origin=origin, backend=backend)
    expected = by_float64(centre.double(), half_extent.double())
    assert torch.equal(found.points, deform(geometry, centre, half_extent)) or backend == "triton"
    torch.testing.assert_close(found.points, deform(geometry, centre, half_extent), rtol=0, atol=2e-7)
    torch.testing.assert_close(found.fitting.double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found.symmetry.double(), expected[1], rtol=1e-6, atol=0)

    for which in ((1, 0), (0, 1), (1, 1)) if max(sizes) < 100 else ((1, 1),):  # either loss alone, and both

        def total(losses, which=which):
            return which[0] * losses[0] + which[1] * losses[1]

        def ours(c, s, total=total):
            return total(deformed_losses(geometry, c, s, targets, INDEX, origin=origin, backend=backend)[1:])

        slopes = gradients(ours, centre, half_extent, WEIGHTS)
        true = gradients(
            lambda c, s, total=total: total(by_float64(c, s)), centre.double(), half_extent.double(), WEIGHTS
        )
        for slope, expected_slope in zip(slopes, true, strict=True):
            assert (slope - expected_slope).norm() <= 1e-5 * expected_slope.norm()


def test_on_the_cpu_they_have_the_bits_of_the_functions_they_are():
    geometry, centre, half_extent, targets = a_case(270, 100)
    found = deformed_losses(geometry, centre, half_extent, targets, INDEX, origin=torch.full((3, 3), 0.1))
    points = deform(geometry, centre, half_extent)
    assert torch.equal(found.fitting, chamfer(points, targets, y_index=INDEX))
    assert found.symmetry is not None and torch.equal(found.symmetry, symmetry_loss(points - 0.1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_what_is_asked_for_is_computed(backend):
    geometry, centre, half_extent, targets = a_case(40, 30)
    found = deformed_losses(geometry, centre.requires_grad_(), half_extent, targets, INDEX, backend=backend)
    assert found.symmetry is None and not found.points.requires_grad and found.fitting.requires_grad
    found.fitting.sum().backward()
    assert centre.grad is not None and (centre.grad[:, -1] == 0).all(), "a part without points stays"
    with torch.no_grad():
        again = deformed_losses(geometry, centre, half_extent, targets, INDEX, backend=backend)
    assert not again.fitting.requires_grad and torch.equal(again.fitting, found.fitting)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_targets_are_refused(backend):
    geometry, centre, half_extent, _ = a_case(40, 30)
    with pytest.raises(InputError, match="at least one point"):
        deformed_losses(geometry, centre, half_extent, torch.zeros(2, 0, 3), INDEX, backend=backend)
