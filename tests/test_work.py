"""An evaluation cut into jobs: what is seen of a target, and results on their way through files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_cases import targets

from jr_dist.evaluate.methods import Measured
from jr_dist.evaluate.work import pack, seen, unpack
from jr_dist.geometry.chamfer import chamfer
from jr_dist.geometry.observation import PROTOCOLS


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    return torch.from_numpy(np.stack([target.points for target in targets(3)]))


def names(points: torch.Tensor) -> list[str]:
    return [f"target-{i}" for i in range(len(points))]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_truth_in_the_observed_frame_measures_as_in_its_own(points, protocol):
    other = points.flip(0)
    for cases in seen(points, names(points), protocol, seed=0):
        assert cases.observed.shape[1] <= cases.truth.shape[1] == points.shape[1]
        # Any cloud carried along with the truth is as far from it, times the scale squared.
        turned = _with(cases, points, other)
        there = chamfer(turned, cases.truth).double().numpy() * cases.scale**2
        np.testing.assert_allclose(there, chamfer(other, points).numpy(), rtol=1e-4, atol=1e-9)


def _with(cases, points, other):
    """`other` by the similarity that takes `points` to `cases.truth`."""
    moved = []
    for before, after, cloud in zip(points.double(), cases.truth.double(), other.double(), strict=True):
        known = torch.cat([before, torch.ones(len(before), 1)], dim=1)
        affine = torch.linalg.lstsq(known, after).solution
        moved.append(torch.cat([cloud, torch.ones(len(cloud), 1)], dim=1) @ affine)
    return torch.stack(moved).float()


def test_what_is_seen_depends_on_the_target_alone(points):
    together = seen(points, names(points), "partial-50", seed=3)[0]
    alone = seen(points[1:2], ["target-1"], "partial-50", seed=3)[0]
    assert torch.equal(together.observed[1], alone.observed[0])
    other = seen(points[1:2], ["target-1"], "partial-50", seed=4)[0]
    assert not torch.equal(alone.observed, other.observed)


def test_the_whole_target_keeps_its_bits(points):
    (cases,) = seen(points, names(points), "full", seed=0)
    assert cases.observed is points and cases.truth is points and (cases.scale == 1).all()


def test_results_survive_being_packed():
    results = [
        Measured("Box", None, {"top-1": np.array([0.5, 0.25])}, retrieved=np.array(["a", "böse"])),
        Measured(
            "Ours + IDO",
            2,
            {"top-1": np.array([1.0, 2.0]), "oracle": np.array([0.5, np.nan])},
            "partial-50",
            rank=np.array([1.0, 3.0]),
            ordered=np.arange(6.0).reshape(2, 3),
        ),
    ]
    for before, after in zip(results, unpack(pack(results)), strict=True):
        assert before.key == after.key and before.fits.keys() == after.fits.keys()
        for name in before.fits:
            np.testing.assert_array_equal(before.fits[name], after.fits[name])
        for name in ("retrieved", "rank", "ordered", "gap"):
            one, other = getattr(before, name), getattr(after, name)
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one, other)
