"""The scan of the bank: exact draws, whatever the threads, the company of a row, and the company of a target."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.bank.noise import gumbel_noise, uniform_noise
from jr_dist.bank.scan import Scan, distances, new_scan_copy, scan, set_scan_rows, uniform_best

SEED, STEP = 5, 11
MANY = 4100  # rows: many blocks, the last of them not full


def copied(weight, embedding):
    copy = new_scan_copy(*weight.shape)
    set_scan_rows(copy, np.arange(len(weight)), weight, embedding)
    return copy


def weight_and_product(copy):
    """w and w s of the rows, [R, D] each."""
    rows = copy.values.transpose(2, 0, 3, 1).reshape(2, -1, copy.values.shape[1])
    return rows[:, : copy.num_rows]


def of_rows(copy, rows):
    """A copy of some rows of another, to the bit."""
    weight, product = weight_and_product(copy)
    result = copied(weight[rows], np.zeros_like(weight[rows]))
    group, place = np.divmod(np.arange(result.num_rows), 8)
    result.values[group, :, 1, place] = product[rows]
    return result


def problem(num_rows, dimensions, num_targets, seed=0):
    """A copy, ids with gaps, queries near some rows, ids of targets."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.1, 1, (num_rows, dimensions)).astype(np.float32)
    embedding = rng.standard_normal((num_rows, dimensions), np.float32)
    queries = embedding[rng.integers(num_rows, size=num_targets)]
    queries += 0.3 * rng.standard_normal(queries.shape, np.float32)
    ids = np.cumsum(rng.integers(1, 9, num_rows))
    return copied(weight, embedding), ids, queries, rng.integers(0, 2**40, num_targets)


def draw(copy, ids, queries, targets, k=10, sigma0=1.0, num_threads=1):
    return scan(copy, ids, queries, targets, k, sigma0, seed=SEED, step=STEP, num_threads=num_threads)


def best_by_sorting(scores, ids, k):
    """Every score sorted, ties to the smaller id: [B, k] ids and scores."""
    order = np.stack([np.lexsort((ids, -row))[:k] for row in scores])
    return ids[order], np.take_along_axis(scores, order, 1)


def assert_same(a: Scan, b: Scan):
    for name, value in vars(a).items():
        assert np.array_equal(value, getattr(b, name)), name


@pytest.mark.parametrize("dimensions", [1, 5, 16, 37, 256])
def test_distances_are_the_definition(dimensions):
    rng = np.random.default_rng(1)
    weight = rng.uniform(0, 1, (333, dimensions)).astype(np.float32)
    embedding, queries = rng.standard_normal((333, dimensions), np.float32), rng.standard_normal((21, dimensions))
    copy = copied(weight, embedding)
    exact = np.square(weight.astype(np.float64) * (queries[:, None] - embedding.astype(np.float64))).sum(2)
    # differences of products rounded once: absolute in the size of the terms, where they cancel
    assert np.allclose(distances(copy, queries.astype(np.float32), num_threads=2), exact, rtol=1e-5, atol=1e-6)


def test_rows_set_again():
    rng = np.random.default_rng(3)
    weight, embedding = rng.random((2, 45, 6), np.float32)
    copy = copied(weight, embedding)
    rows = np.array([44, 0, 17, 9])
    weight[rows], embedding[rows] = rng.random((2, 4, 6), np.float32)
    set_scan_rows(copy, rows, weight[rows], embedding[rows])
    assert np.array_equal(copy.values, copied(weight, embedding).values)


def test_a_source_lies_at_no_distance_from_itself():
    rng = np.random.default_rng(2)
    weight = np.exp2(rng.integers(-8, 1, (40, 24))).astype(np.float32)  # products with these are exact
    embedding = 1e3 * rng.standard_normal((40, 24), np.float32)
    assert np.array_equal(np.diag(distances(copied(weight, embedding), embedding, num_threads=1)), np.zeros(40))


@pytest.mark.parametrize("num_targets", [1, 3, 16, 17, 40])
@pytest.mark.parametrize("sigma0", [1e-3, 0.1, 1.0, 100.0])
def test_skipping_changes_nothing(num_targets, sigma0):
    """Against all noise computed and all scores sorted, to the bit; with 1e-3 rounding cuts the noise short."""
    copy, ids, queries, targets = problem(3 * MANY, 5, num_targets)
    found = draw(copy, ids, queries, targets, 12, sigma0, num_threads=2)
    logits = -distances(copy, queries, num_threads=1) / np.float32(sigma0 * sigma0)
    rows, scores = best_by_sorting(logits + gumbel_noise(SEED, STEP, targets, ids), ids, 12)
    assert np.array_equal(found.scores, scores)
    assert np.array_equal(found.rows, rows)
    nearest, score = best_by_sorting(logits, ids, 1)
    assert np.array_equal(found.nearest, nearest[:, 0])
    assert np.array_equal(found.nearest_score, score[:, 0])
    exact = logits.astype(np.float64)
    top = exact.max(1, keepdims=True)
    weights = np.exp(exact - top)
    assert np.allclose(found.log_total, np.log(weights.sum(1)) + top[:, 0], rtol=1e-6, atol=1e-6)
    assert np.allclose(found.mean_score, (weights * exact).sum(1) / weights.sum(1), rtol=1e-6, atol=1e-6)


def test_all_rows_in_the_order_of_their_scores():
    copy, ids, queries, targets = problem(500, 7, 3)
    found = draw(copy, ids, queries, targets, 1000)
    assert found.rows.shape == (3, 500)
    logits = -distances(copy, queries, num_threads=1)
    assert np.array_equal(found.scores, best_by_sorting(logits + gumbel_noise(SEED, STEP, targets, ids), ids, 500)[1])
    assert np.array_equal(np.sort(found.rows, 1), np.broadcast_to(ids, (3, 500)))


def test_against_float64():
    copy, ids, queries, targets = problem(2000, 64, 16)
    found = draw(copy, ids, queries, targets, 5, 2.0)
    weight, moved = weight_and_product(copy).astype(np.float64)
    logits = -np.square(weight * queries[:, None] - moved).sum(2) / 4
    scores = logits - np.log(-np.log(uniform_noise(SEED, STEP, targets, ids)))
    rows, best = best_by_sorting(scores, ids, 6)
    assert np.allclose(found.scores, best[:, :5], rtol=1e-5, atol=1e-5)
    clear = (best[:, :-1] - best[:, 1:]).min(1) > 1e-4
    assert clear.sum() >= 12
    assert np.array_equal(found.rows[clear], rows[clear, :5])


@pytest.mark.parametrize("num_threads", [2, 3, 7])
def test_threads_change_nothing(num_threads):
    problem_ = problem(9 * MANY, 3, 18)
    assert_same(draw(*problem_, sigma0=0.3), draw(*problem_, sigma0=0.3, num_threads=num_threads))
    copy, _, queries, _ = problem_
    assert np.array_equal(distances(copy, queries, num_threads=1), distances(copy, queries, num_threads=num_threads))


def test_targets_do_not_see_each_other():
    copy, ids, queries, targets = problem(MANY, 9, 35)
    together = draw(copy, ids, queries, targets)
    for some in ([0], [34], [20, 3, 19], list(range(5, 23))):
        assert_same(
            draw(copy, ids, queries[some], targets[some]),
            Scan(**{name: value[some] for name, value in vars(together).items()}),
        )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.02, 1.0, 30.0]))
def test_parts_merged_are_the_whole(seed, sigma0):
    """Rows dealt at random to shards: the best of the shards' lists are those of all rows, to the bit."""
    rng = np.random.default_rng(seed)
    copy, ids, queries, targets = problem(700, 6, 5, seed)
    whole = draw(copy, ids, queries, targets, 8, sigma0)
    owner = rng.integers(3, size=700)
    parts = [draw(of_rows(copy, owner == s), ids[owner == s], queries, targets, 8, sigma0) for s in range(3)]
    rows, scores = np.concatenate([p.rows for p in parts], 1), np.concatenate([p.scores for p in parts], 1)
    for b in range(5):
        order = np.lexsort((rows[b], -scores[b]))[:8]
        assert np.array_equal(rows[b, order], whole.rows[b])
        assert np.array_equal(scores[b, order], whole.scores[b])
    totals = np.stack([p.log_total for p in parts]).astype(np.float64)
    assert np.allclose(np.logaddexp.reduce(totals), whole.log_total, rtol=2e-6, atol=2e-6)
    shares = np.exp(totals - np.logaddexp.reduce(totals))
    mean = (shares * [p.mean_score for p in parts]).sum(0)
    assert np.allclose(mean, whole.mean_score, rtol=1e-5, atol=1e-5)


def test_order_of_the_rows_does_not_matter_and_ties_go_to_the_smaller_id():
    copy, _, queries, targets = problem(MANY, 4, 3)
    one = of_rows(copy, np.zeros(MANY, int))
    ids = np.random.default_rng(0).permutation(MANY) + 100
    # one distance: all logits tie, and sigma0 makes them so large that the noise is rounded away
    found = draw(one, ids, queries + 100, targets, 6, 1e-4)
    assert np.array_equal(found.nearest, [100, 100, 100])
    assert np.array_equal(found.rows, np.broadcast_to(np.arange(100, 106), (3, 6)))
    order = np.argsort(ids)
    sorted_, dealt = draw(of_rows(copy, order), ids[order], queries, targets), draw(copy, ids, queries, targets)
    for name in ("rows", "scores", "nearest", "nearest_score"):  # sums are rounded in the order of the rows
        assert np.array_equal(getattr(sorted_, name), getattr(dealt, name)), name


@pytest.mark.parametrize("size", [1e3, 1e6, 3e6])
def test_noise_rounded_in_large_scores(size):
    """Scores so large that the rounding of a sum with noise lets a source with the smaller noise win by its id."""
    copy, _, queries, targets = problem(MANY, 4, 40)
    queries[:] = queries[0]
    squared = distances(copy, queries[:1], num_threads=1)[0, 0]
    ids = np.random.default_rng(0).permutation(MANY)
    sigma0 = float(np.sqrt(squared / size))
    found = draw(of_rows(copy, np.zeros(MANY, int)), ids, queries, targets, 12, sigma0)
    logit = -squared / np.float32(sigma0 * sigma0)
    rows, scores = best_by_sorting(logit + gumbel_noise(SEED, STEP, targets, ids), ids, 12)
    assert np.array_equal(found.scores, scores)
    assert np.array_equal(found.rows, rows)


def test_frequencies_are_those_of_the_softmax():
    """The first of the list is a draw from Eq. 1: counts of 4000 targets at one place, within 5 standard deviations."""
    copy, ids, queries, _ = problem(6, 3, 1)
    found = draw(copy, ids, np.repeat(queries, 4000, 0), np.arange(4000), 1, 1.5)
    logits = -distances(copy, queries, num_threads=1)[0].astype(np.float64) / 1.5**2
    share = np.exp(logits - np.logaddexp.reduce(logits))
    count = (found.rows == ids).sum(0)
    assert (abs(count - 4000 * share) < 5 * np.sqrt(4000 * share * (1 - share)) + 1).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("where", ["query", "row"])
def test_what_is_not_finite_is_refused(value, where):
    copy, ids, queries, targets = problem(MANY, 5, 17)
    if where == "query":
        queries[16, 4] = value
    else:
        copy.values[(MANY - 1) // 8, 2, 1, (MANY - 1) % 8] = value
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        draw(copy, ids, queries, targets)


def test_nothing_to_scan_is_refused():
    copy, ids, queries, targets = problem(4, 5, 2)
    with pytest.raises(AssertionError, match="0 rows"):
        draw(new_scan_copy(0, 5), ids[:0], queries, targets)
    with pytest.raises(AssertionError, match="no targets"):
        draw(copy, ids, queries[:0], targets[:0])
    with pytest.raises(AssertionError, match="3 ids"):
        draw(copy, ids[:3], queries, targets)


@pytest.mark.parametrize("num_sources", [3, MANY, 5 * MANY])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_uniform_best_is_the_sorted_noise(num_sources, num_threads):
    targets = np.random.default_rng(0).integers(0, 2**50, 19)
    noise = uniform_noise(-3, 2**33, targets, np.arange(num_sources))
    expected = np.argsort(-noise, axis=1, kind="stable")[:, :10]
    found = uniform_best(num_sources, 10, targets, seed=-3, step=2**33, num_threads=num_threads)
    assert np.array_equal(found, expected)
