"""The bank as plain objects: updates, proposals, replicas, state."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.bank.client import local_bank, merge_proposals
from jr_dist.bank.layout import BankLayout, cut, initial_block
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.bank.shard import BankShard, Update
from jr_dist.data.transfer import read
from jr_dist.errors import InputError
from jr_dist.models.retrieval import retrieval_weight, squared_distance
from jr_dist.train.group import Group

SGD = RowOptimiser("sgd")


def layout_of(num_parts=(2, 3, 1, 4, 2, 5, 3), block_size=2, learned=False):
    return BankLayout(num_parts, 4, 3, 5, learned_embedding=learned, block_size=block_size, seed=9)


def shard_of(layout, blocks=None, rule=SGD, num_ranks=1):
    return BankShard(layout, range(layout.num_blocks) if blocks is None else blocks, rule, num_ranks=num_ranks)


def rows_of(shard):
    return np.arange(shard.first, shard.last)


def with_embedding(shard, seed=0):
    values = np.random.default_rng(seed).standard_normal((shard.layout.num_sources, 5)).astype(np.float32)
    shard.set_embedding(rows_of(shard), values[rows_of(shard)], 0)
    return shard


def test_first_values_depend_on_seed_and_block_alone():
    layout = layout_of()
    whole, part = shard_of(layout), shard_of(layout, range(1, 3))
    for name, values in part.pull(rows_of(part)).items():
        assert np.array_equal(values, whole.pull(rows_of(part))[name])
    other = initial_block(BankLayout((2, 3), 4, 3, 5, block_size=2, seed=10), 0)
    assert not np.array_equal(other["global_code"], initial_block(layout, 0)["global_code"])


def test_only_touched_rows_move():
    layout = layout_of()
    shard = shard_of(layout, rule=RowOptimiser("adam", weight_decay=0.1))
    before = shard.pull(rows_of(shard))
    rows = np.array([1, 5])
    gradients = {"global_code": np.ones((2, 4), "f4"), "part_code": np.ones((8, 3), "f4")}
    shard.push(0, 0, rows, gradients, 4, Update(0.1))
    after = shard.pull(rows_of(shard))
    moved = (after["global_code"] != before["global_code"]).any(1)
    assert moved.tolist() == [False, True, False, False, False, True, False]
    parts = np.repeat(np.arange(7), layout.num_parts)
    assert ((after["part_code"] != before["part_code"]).any(1) == np.isin(parts, rows)).all()
    assert np.array_equal(after["retrieval_weight"], before["retrieval_weight"])


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_rows_follow_torch_when_all_are_touched(name):
    layout = layout_of()
    shard = shard_of(layout, rule=RowOptimiser(name, momentum=0.9, weight_decay=0.01))
    parameter = torch.nn.Parameter(torch.from_numpy(shard.tables["global_code"].copy()))
    if name == "adam":
        optimiser = torch.optim.Adam([parameter], lr=0.05, weight_decay=0.01)
    else:
        optimiser = torch.optim.SGD([parameter], lr=0.05, momentum=0.9, weight_decay=0.01)
    generator = np.random.default_rng(0)
    for step in range(20):
        gradient = generator.standard_normal((7, 4)).astype(np.float32)
        parameter.grad = torch.from_numpy(gradient)
        optimiser.step()
        shard.push(step, 0, np.arange(7), {"global_code": gradient}, 1, Update(0.05))
    assert np.allclose(shard.tables["global_code"], parameter.detach().numpy(), atol=2e-5)


def test_two_ranks_apply_the_mean_over_all_targets():
    layout = layout_of()
    two, one = shard_of(layout, num_ranks=2), shard_of(layout)
    generator = np.random.default_rng(1)
    first, second = (
        generator.standard_normal((2, 4)).astype("f4"),
        generator.standard_normal((3, 4)).astype("f4"),
    )
    two.push(0, 1, np.array([1, 2, 6]), {"global_code": second}, 10, Update(0.5))
    assert two.version == 0, "one of two ranks has pushed"
    two.push(0, 0, np.array([0, 2]), {"global_code": first}, 30, Update(0.5))
    assert two.version == 1
    mean = np.zeros((4, 4), "f4")
    mean[[0, 2]] += 0.75 * first
    mean[[1, 2, 3]] += 0.25 * second
    one.push(0, 0, np.array([0, 1, 2, 6]), {"global_code": mean}, 40, Update(0.5))
    assert np.allclose(two.tables["global_code"], one.tables["global_code"], atol=1e-6)


def test_the_order_of_arrival_of_pushes_changes_no_bit():
    layout = layout_of()
    tables = []
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        shard = shard_of(layout, rule=RowOptimiser("adam"), num_ranks=3)
        for rank in order:
            generator = np.random.default_rng(rank)
            rows = np.sort(generator.choice(7, 4, replace=False))
            shard.push(0, rank, rows, {"global_code": generator.standard_normal((4, 4)).astype("f4")}, 5, Update(0.1))
        tables.append(shard.tables["global_code"])
    assert np.array_equal(tables[0], tables[1]) and np.array_equal(tables[0], tables[2])


def test_a_push_that_comes_twice_is_refused():
    shard = shard_of(layout_of(), num_ranks=2)
    push = (0, 1, np.array([1, 4]), {"global_code": np.ones((2, 4), "f4")}, 3, Update(0.1))
    shard.push(*push)
    with pytest.raises(AssertionError, match="rank 1 pushed twice in step 0"):
        shard.push(*push)
    shard.push(0, 0, np.array([], np.int64), {}, 3, Update(0.1))
    with pytest.raises(AssertionError, match="push of step 0 to a shard that collects step 1"):
        shard.push(*push)


def test_a_push_of_a_step_to_come_is_refused():
    with pytest.raises(AssertionError, match="collects step 0"):
        shard_of(layout_of()).push(1, 0, np.array([0]), {}, 1, Update(0.1))


def test_an_update_may_set_a_table_first_and_keeps_touched_rows_within_bounds():
    shard = shard_of(layout_of())
    gradient = {"fit_scale": np.array([[100.0], [-0.5]], "f4")}
    update = Update(1.0, start={"fit_scale": 3.0}, bounds={"fit_scale": (2.0, 3.25)})
    shard.push(0, 0, np.array([1, 4]), gradient, 1, update)
    assert shard.tables["fit_scale"][:, 0].tolist() == [3.0, 2.0, 3.0, 3.0, 3.25, 3.0, 3.0]


@settings(max_examples=10, deadline=None)
@given(num_shards=st.integers(1, 4), learned=st.booleans())
def test_the_number_of_shards_changes_no_bit_of_a_training(num_shards, learned):
    layout = layout_of(learned=learned)

    def trained(num_shards):
        bank = local_bank(layout, RowOptimiser("adam"), num_shards=num_shards)
        generator = torch.Generator().manual_seed(1)
        if not learned:
            bank.set_embedding(np.arange(7), torch.randn(7, 5, generator=generator), 0)
        drawn = []
        for step in range(6):
            queries = torch.randn(3, 5, generator=generator)
            ids = np.array([5, 60 + step, 7])
            candidates = bank.begin_propose(queries, ids, 2, 1.0, seed=1, step=step)()
            drawn.append(candidates.rows)
            codes = bank.pull(np.unique(candidates.rows))
            (sum(leaf.square().sum() for leaf in codes.leaves().values()) * queries.norm()).backward()
            [gradients] = read(codes.gradients())
            bank.push(codes.rows, gradients, 3, Update(0.05))
        codes = bank.pull(np.arange(7))
        return np.stack(drawn), bank.nearest(queries), {n: v.detach().numpy() for n, v in codes.leaves().items()}

    (drawn, nearest, codes), (expected_drawn, expected_nearest, expected) = trained(num_shards), trained(1)
    assert np.array_equal(drawn, expected_drawn) and np.array_equal(nearest, expected_nearest)
    assert codes.keys() == expected.keys() and len(codes) == (5 if learned else 4)
    for name, values in codes.items():
        assert np.array_equal(values, expected[name]), name


def test_more_shards_than_blocks_are_refused():
    with pytest.raises(InputError, match=r"bank\.num_shards is 5.*4 block"):
        cut(layout_of(), 5)
    assert [list(blocks) for blocks in cut(layout_of(), 3)] == [[0], [1], [2, 3]]


def test_distances_equal_the_models_formula():
    shard = with_embedding(shard_of(layout_of()))
    queries = np.random.default_rng(2).standard_normal((3, 5)).astype("f4")
    weight = retrieval_weight(torch.from_numpy(shard.tables["retrieval_weight"]))
    embedding = torch.from_numpy(shard.cached_embedding)
    expected = squared_distance(torch.from_numpy(queries)[:, None], embedding[None], weight[None])
    assert np.allclose(shard.squared_distances(queries), expected.numpy(), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 3), k=st.integers(1, 7), step=st.integers(0, 1000))
def test_proposals_do_not_depend_on_the_number_of_shards(cut, k, step):
    layout = layout_of()
    queries = np.random.default_rng(3).standard_normal((4, 5)).astype("f4")
    ids = np.array([10, 4, 7, 900])

    def ask(blocks):
        return with_embedding(shard_of(layout, blocks)).propose(queries, ids, k, 2.0, seed=5, step=step)

    assert ask(range(4)).embedding_version == 0

    whole = merge_proposals([ask(range(4))], k)
    parts = merge_proposals([ask(range(cut)), ask(range(cut, 4))], k)
    assert np.array_equal(whole.rows, parts.rows)
    assert np.array_equal(whole.nearest, parts.nearest)
    assert np.allclose(whole.effective, parts.effective, rtol=1e-4)
    assert all(len(set(row)) == k for row in whole.rows.tolist())


def test_infinite_sigma_is_uniform_sampling():
    layout = layout_of()
    shard = with_embedding(shard_of(layout))
    draws = 20_000
    queries = np.random.default_rng(4).standard_normal((1, 5)).astype("f4").repeat(draws, 0)
    answer = merge_proposals([shard.propose(queries, np.arange(draws), 3, 1e6, seed=0, step=0)], 3)
    frequency = np.bincount(answer.rows.ravel(), minlength=7) / draws
    expected = 3 / 7
    assert (np.abs(frequency - expected) < 5 * np.sqrt(expected * (1 - expected) / draws)).all()
    assert np.allclose(answer.effective, 7, rtol=1e-3)


def test_small_sigma_returns_the_nearest():
    shard = with_embedding(shard_of(layout_of()))
    queries = np.random.default_rng(5).standard_normal((6, 5)).astype("f4")
    answer = merge_proposals([shard.propose(queries, np.arange(6), 1, 1e-2, seed=0, step=0)], 1)
    assert np.array_equal(answer.rows[:, 0], shard.squared_distances(queries).argmin(1))
    assert np.array_equal(answer.nearest, answer.rows[:, 0])


def test_padded_part_codes_carry_gradients_back_to_their_rows():
    client = local_bank(layout_of(), None)
    codes = client.pull(np.array([0, 3, 5]))
    padded = codes.padded_part_code()
    assert padded.shape == (3, 5, 3)
    assert torch.equal(padded[1, :4], codes.part_code[2:6]) and not padded[0, 2:].any()
    (padded * torch.arange(1, 4)[:, None, None]).sum().backward()
    assert codes.part_code.grad is not None
    assert codes.part_code.grad[:, 0].tolist() == [1] * 2 + [2] * 4 + [3] * 5


def test_block_state_round_trip_continues_to_the_bit():
    layout = layout_of(learned=True)

    def run(shard, steps):
        for step in steps:
            generator = np.random.default_rng(step)
            rows = np.sort(generator.choice(7, 3, replace=False))
            pulled = shard.pull(rows)
            gradients = {n: generator.standard_normal(v.shape).astype("f4") for n, v in pulled.items()}
            shard.push(step, 0, rows, gradients, 1, Update(0.01))

    rule = RowOptimiser("adam")
    straight, first, second = (shard_of(layout, rule=rule) for _ in range(3))
    run(straight, range(10))
    run(first, range(5))
    for block in range(layout.num_blocks):
        second.load_block_state(block, first.block_state(block), 0)
    second.version = first.version
    run(second, range(5, 10))
    for name in straight.tables:
        assert np.array_equal(straight.tables[name], second.tables[name])


def test_a_group_of_one_returns_what_it_was_given():
    arrays = [np.arange(3)]
    assert np.array_equal(Group().gather(arrays)[0][0], arrays[0])


def inclusion_probability(probability: list[float], k: int) -> np.ndarray:
    """P(source among k sequential draws without replacement), summed over all ordered draws."""
    inclusion = np.zeros(len(probability))
    for draw in itertools.permutations(range(len(probability)), k):
        chance, left = 1.0, 1.0
        for source in draw:
            chance, left = chance * probability[source] / left, left - probability[source]
        inclusion[list(draw)] += chance
    return inclusion


@pytest.mark.parametrize("k", [1, 2, 3])
def test_proposals_include_sources_as_often_as_the_closed_form_says(k):
    probability = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
    sigma0, draws = 2.0, 40_000
    shard = shard_of(BankLayout((1,) * 5, 1, 1, 1))
    weight = float(retrieval_weight(torch.zeros(1)))
    # d^2 / sigma0^2 = -log p for a query at the origin
    shard.set_embedding(np.arange(5), (np.sqrt(-np.log(probability)) * sigma0 / weight)[:, None].astype("f4"), 0)
    queries = np.zeros((draws, 1), "f4")
    chosen = merge_proposals([shard.propose(queries, np.arange(draws), k, sigma0, seed=3, step=11)], k).rows
    assert (np.diff(np.sort(chosen, axis=1), axis=1) > 0).all()
    frequency = np.bincount(chosen.ravel(), minlength=5) / draws
    expected = inclusion_probability(list(probability), k)
    # five standard deviations of a binomial frequency
    assert (np.abs(frequency - expected) < 5 * np.sqrt(expected * (1 - expected) / draws) + 1e-12).all()
