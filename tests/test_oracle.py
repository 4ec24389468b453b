"""The oracle against all pairs measured one by one, and what `fits_of` measures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_cases import BoxModel, FakeStore, settings, sources, targets

from jr_dist.evaluate import metrics, oracle
from jr_dist.evaluate.oracle import Cases
from jr_dist.geometry import least_chamfer_kernels as kernels
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer, one_sided

NUM_SOURCES, NUM_TARGETS = 11, 6


@pytest.fixture(scope="module")
def store() -> FakeStore:
    return FakeStore(sources(NUM_SOURCES))


@pytest.fixture
def model(store) -> BoxModel:
    return BoxModel(settings("data", "run"), "hash", store.ids, store, offset=0.02)


@pytest.fixture(scope="module")
def cases() -> Cases:
    """Targets seen in part, in a frame that isn't the truth's own."""
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(np.stack([target.points for target in targets(NUM_TARGETS)]))
    observed = truth[:, :40] + torch.from_numpy(rng.normal(0, 0.01, (NUM_TARGETS, 40, 3)).astype(np.float32))
    return Cases(observed, truth, rng.uniform(0.5, 2.0, NUM_TARGETS))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(oracle, "ORACLE_SOURCES", 4)
    monkeypatch.setattr(oracle, "ORACLE_PAIRS", 9)


def every(num_targets: int = NUM_TARGETS) -> np.ndarray:
    return np.tile(np.arange(NUM_SOURCES), (num_targets, 1))


def orders(fit: np.ndarray) -> list[np.ndarray]:
    best_first = np.argsort(fit, axis=1)
    return [best_first, best_first[:, ::-1], np.random.default_rng(1).permuted(best_first, axis=1)]


def test_the_oracle_is_the_full_scan_in_any_order_and_block(model, store, cases, small_blocks):
    fits = oracle.fits_of(model, store, cases, every())
    best = np.argsort(fits.chamfer, axis=1, kind="stable")
    for order in orders(fits.chamfer):
        for k in (1, 3, NUM_SOURCES, 50):
            found = oracle.oracle(model, store, cases, order, k=k)
            np.testing.assert_array_equal(found.rows, best[:, :k])
            np.testing.assert_array_equal(found.chamfer, np.take_along_axis(fits.chamfer, best[:, :k], 1))
            np.testing.assert_array_equal(found.gap, fits.gap.max(1))
            np.testing.assert_allclose(found.at_floor, fits.at_floor.mean(1), rtol=1e-12)


def test_blocks_bound_what_is_asked_for_at_once(model, store, cases, small_blocks):
    counted = []
    store.largest_request = 0
    oracle.oracle(model, store, cases, every(), report=counted.append)
    assert sum(counted) == NUM_SOURCES * NUM_TARGETS
    assert max(t * k for t, k in model.calls) <= 9
    assert sum(t * k for t, k in model.calls) == NUM_SOURCES * NUM_TARGETS


def test_pairs_that_are_known_are_not_measured_again(model, store, cases):
    fits = oracle.fits_of(model, store, cases, every())
    order = np.argsort(fits.chamfer, axis=1)
    fresh = oracle.oracle(model, store, cases, order, k=3)
    rows = order[:, ::-1][:, 2:9]  # neither the best nor the worst
    known = rows, np.take_along_axis(fits.chamfer, rows, 1)
    found = oracle.oracle(model, store, cases, order, k=3, known=known)
    np.testing.assert_array_equal(found.rows, fresh.rows)
    np.testing.assert_array_equal(found.chamfer, fresh.chamfer)
    told = order, np.take_along_axis(fits.chamfer, order, 1)
    all_known = oracle.oracle(model, store, cases, order, k=3, known=told)
    np.testing.assert_array_equal(all_known.chamfer, fresh.chamfer)
    np.testing.assert_array_equal(all_known.rows, fresh.rows)
    assert not all_known.work.any() and fresh.work[:, kernels.SEARCHED].all()


def test_of_copies_of_a_source_the_lower_row_comes_first(cases):
    store = FakeStore(sources(3) * 4)
    model = BoxModel(settings("data", "run"), "hash", store.ids, store)
    order = np.tile(np.arange(12)[::-1], (NUM_TARGETS, 1))
    found = oracle.oracle(model, store, cases, order, k=5)
    fit = oracle.fits_of(model, store, cases, order[:, ::-1]).chamfer
    np.testing.assert_array_equal(found.rows, metrics.retrieval_order(fit)[:, :5])
    assert (found.chamfer[:, 0] == found.chamfer[:, 3]).all()


def test_fits_are_those_of_single_pairs_in_the_truth_s_frame(model, store, cases):
    rows = np.array([[t % NUM_SOURCES, (t + 5) % NUM_SOURCES] for t in range(NUM_TARGETS)])
    for half in (False, True):
        fits = oracle.fits_of(model, store, cases, rows, one_sided=half)
        for (t, k), s in np.ndenumerate(rows):
            geometry = store.geometry([s])
            seen, truth = cases.observed[t : t + 1], cases.truth[t : t + 1]
            centre, half_extent = model.deform(seen, torch.tensor([[s]]), store)
            moved = deform(geometry, centre[0], half_extent[0])
            whole = chamfer(moved, truth).item() * cases.scale[t] ** 2
            error = one_sided(seen, moved) if half else chamfer(moved, seen)
            assert fits.chamfer[t, k] == pytest.approx(whole, rel=1e-6)
            assert fits.observed[t, k] == pytest.approx(error.item(), rel=1e-6)


def test_half_a_chamfer_to_sources_as_they_stand(store, cases):
    found = oracle.undeformed_chamfer(store, cases.observed, num_points=96, one_sided=True, max_pairs=5)
    for (t, s), value in np.ndenumerate(found):
        alone = one_sided(cases.observed[t : t + 1], store.geometry([s]).points).item()
        assert value == pytest.approx(alone, rel=1e-6)


def test_parameters_that_are_not_finite_are_named(model, store, cases):
    broken = replace(model, offset=float("nan"))
    for work in (
        lambda: oracle.oracle(broken, store, cases, every()),
        lambda: oracle.fits_of(broken, store, cases, every()),
    ):
        with pytest.raises(FloatingPointError, match="finite"):
            work()


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds(model, store, cases, small_blocks):
    on_gpu = Cases(cases.observed.cuda(), cases.truth.cuda(), cases.scale)
    here = oracle.oracle(model, store, cases, every(), k=3)
    there = oracle.oracle(model, store, on_gpu, every(), k=3, device="cuda")
    np.testing.assert_array_equal(there.rows, here.rows)
    np.testing.assert_allclose(there.chamfer, here.chamfer, rtol=1e-6)
    np.testing.assert_allclose(there.gap, here.gap, atol=1e-6)
    np.testing.assert_array_equal(there.at_floor, here.at_floor)
