"""The k nearest deformed sources on a GPU: the plain scan's rows and bits, with a share of its comparisons.

Interpreted on the CPU by `test_chamfer_triton.py`, like the kernels of the chamfer.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_least_chamfer import Case, a_case, pruned
from triton_cases import on_a_device

from jr_dist.errors import InputError
from jr_dist.geometry import least_chamfer_kernels as counts
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer
from jr_dist.geometry.least_chamfer import Least, least_chamfers, ordered_sources

pytest.importorskip("triton", reason="Triton comes with torch on Linux alone")


@pytest.fixture(autouse=True)
def small_fields(monkeypatch):
    """Only speed depends on their size, and interpreted they are most of the work."""
    monkeypatch.setattr("jr_dist.geometry.least_chamfer_triton._ACROSS", 3)
    monkeypatch.setattr("jr_dist.geometry.least_chamfer_triton._VERTICES", 5)


def small(seed: int, **sizes: Any) -> Case:
    """Interpreted kernels are slow."""
    return a_case(seed, **{"num_sources": 5, "num_targets": 2, "num_points": 20, "target_points": 25, **sizes})


def on(device: str, case: Case) -> Case:
    geometry, targets, centre, half_extent = case
    return geometry.to(device), targets.to(device), centre.to(device), half_extent.to(device)


def plain(case: Case) -> np.ndarray:
    """Chamfers of all pairs, [T, S], one target at a time."""
    geometry, targets, centre, half_extent = case
    same = torch.zeros(len(geometry.points), dtype=torch.int64, device=targets.device)
    found = [
        chamfer(deform(geometry, c, h), target[None], y_index=same, backend="triton").cpu().numpy()
        for target, c, h in zip(targets, centre, half_extent, strict=True)
    ]
    return np.stack(found)


def check(case: Case, k: int, rows: np.ndarray | None = None) -> Least:
    """In the best order and in the worst."""
    values = plain(case)
    rows = np.arange(values.shape[1])[::-1] + 50 if rows is None else rows
    found = None
    for visits in (np.argsort(-values, axis=1), np.argsort(values, axis=1)):
        found = pruned(case, k, rows, visits, backend="triton")
        for t, of_target in enumerate(values):
            best = np.lexsort((rows, of_target))[:k]
            np.testing.assert_array_equal(found.chamfer[t, : len(best)], of_target[best])
            np.testing.assert_array_equal(found.rows[t, : len(best)], rows[best])
            assert np.isinf(found.chamfer[t, len(best) :]).all() and (found.rows[t, len(best) :] == -1).all()
    assert found is not None
    return found


@on_a_device
@pytest.mark.parametrize(("seed", "k", "num_points", "thin"), [(0, 1, 1, False), (1, 3, 40, True), (2, 6, 270, False)])
def test_equals_the_plain_scan_bit_for_bit(device, seed, k, num_points, thin):
    check(on(device, small(seed, num_sources=3, num_points=num_points, target_points=num_points + 9, thin=thin)), k)


@on_a_device
@pytest.mark.parametrize("scale", [1e-18, 1e-3, 1e12])
def test_any_unit_of_length(device, scale):
    geometry, targets, centre, half_extent = small(2)
    geometry = replace(
        geometry,
        points=geometry.points * scale,
        centre=geometry.centre * scale,
        half_extent=geometry.half_extent * scale,
    )
    check(on(device, (geometry, targets * scale, centre * scale, half_extent * scale)), 3)


@on_a_device
@pytest.mark.parametrize("offset", [10.0, 1e6])
def test_far_from_the_origin(device, offset):
    geometry, targets, centre, half_extent = small(3)
    geometry = replace(geometry, points=geometry.points + offset, centre=geometry.centre + offset)
    check(on(device, (geometry, targets + offset, centre + offset, half_extent)), 3)


@on_a_device
@pytest.mark.parametrize("kind", ["point", "plane", "line"])
def test_flat_targets(device, kind):
    geometry, targets, centre, half_extent = small(4)
    targets[:, :, {"point": [0, 1, 2], "plane": [1], "line": [0, 2]}[kind]] = 0.25
    check(on(device, (geometry, targets, centre, half_extent)), 2)


@on_a_device
def test_of_equal_sources_the_lower_row_comes_first(device):
    geometry, targets, centre, half_extent = small(6, num_sources=2, num_targets=1)
    copies = torch.arange(2).repeat(4)
    case = on(device, (geometry.take(copies), targets, centre[:, copies], half_extent[:, copies]))
    for k in (1, 5):
        check(case, k)


@on_a_device
def test_most_pairs_are_not_compared(device):
    """Sources that stand where the target is not: some are likely the best, of the others none needs a comparison."""
    geometry, targets, centre, half_extent = small(8, num_sources=16)
    away = torch.zeros(16, 1, 3)
    away[5:] = torch.tensor([4.0, 0.0, 0.0])
    found = check(on(device, (geometry, targets, centre + away, half_extent)), 2)
    num_pairs = found.work[:, counts.SEARCHED] // (20 + 25)
    assert (num_pairs <= 8).all() and (found.work[:, counts.BY_FIELD] == 16 - num_pairs).all()


@on_a_device
def test_what_is_known_is_kept_and_what_is_passed_over_is_not_met(device):
    case = on(device, small(9, num_sources=12))
    values, rows = plain(case), np.arange(12)
    order = np.argsort(values, axis=1)
    visits = order.copy()
    visits[:, 0], visits[:, 5] = -1, -1
    known = Least(
        np.take_along_axis(values, order[:, [0, 9]], 1), order[:, [0, 9]], np.zeros((2, counts.NUM_COUNTS), np.int64)
    )
    geometry, targets, centre, half_extent = case
    found = least_chamfers(
        ordered_sources(geometry, rows), targets, centre, half_extent, visits, known, backend="triton"
    )
    np.testing.assert_array_equal(found.rows, order[:, :2])
    none = least_chamfers(
        ordered_sources(geometry, rows), targets, centre, half_extent, 0 * visits - 1, known, backend="triton"
    )
    np.testing.assert_array_equal(none.rows, known.rows)
    assert not none.work.any()


@on_a_device
def test_what_is_not_finite_is_named(device):
    for which in ("target", "source", "centre"):
        bad: list[Any] = list(on(device, small(10, num_sources=12, num_targets=1)))
        if which == "source":
            points = bad[0].points.clone()
            points[3, 2, 1] = torch.nan
            bad[0] = replace(bad[0], points=points)
        else:
            bad[{"target": 1, "centre": 2}[which]][0, 1] = torch.inf
        with pytest.raises(InputError, match=f"chamfer: {which}"):
            pruned((bad[0], bad[1], bad[2], bad[3]), 2, np.arange(12), np.arange(12)[None], backend="triton")
