"""Placement on simulated clusters of 1 to 8 nodes: never beyond what nodes have, never refused what fits, PACK, SPREAD;
and on real ones with declared GPUs, where Ray puts what was promised."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from failure_cases import away_from_ray, kill_tree
from hypothesis import given
from hypothesis import strategies as st

from jr_dist.config import load_config
from jr_dist.placement import (
    SHARD_CPUS,
    WORKER_CPUS,
    Ask,
    Node,
    fewest_nodes,
    lacking,
    of_measuring,
    of_rendering,
    of_run,
    of_training,
    on_gpus,
    place,
    room,
    sets_at_once,
    threads,
)

ROOT = Path(__file__).parent.parent
HALVES = st.integers(0, 16).map(lambda count: count / 2)
NODES = st.lists(st.builds(Node, HALVES, st.integers(0, 4).map(float)), min_size=1, max_size=8)
GPUS = st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0, 2.0])
ASKS = st.lists(
    st.builds(
        Ask, st.just("process"), st.integers(0, 6), st.sampled_from([0.5, 1.0, 2.0]), GPUS,
        strategy=st.sampled_from(["PACK", "SPREAD"]),
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip


def config_of(**overrides):
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(None, {"data.path": "-", "run.path": "-", **named})


@given(NODES, ASKS)
def test_no_node_gives_more_than_it_has(nodes, asks):
    placed = place(nodes, asks)
    assert (lacking(nodes, asks) is None) == (placed is not None)
    if placed is None:
        return
    assert [len(taken) for taken in placed] == [ask.count for ask in asks]
    for number, node in enumerate(nodes):
        here = [(ask, taken.count(number)) for ask, taken in zip(asks, placed, strict=True)]
        assert sum(count * ask.cpus for ask, count in here) <= node.cpus + 1e-6
        assert sum(count * ask.gpus for ask, count in here) <= node.gpus + 1e-6


@given(NODES, st.integers(1, 12), st.sampled_from([0.5, 1.0]), GPUS)
def test_processes_alike_find_room_exactly_where_there_is_room(nodes, count, cpus, gpus):
    ask = Ask("process", count, cpus, gpus)
    per_gpu = math.inf if gpus == 0 else math.floor(1 / gpus) if gpus <= 1 else 1 / gpus
    expected = sum(int(min(node.cpus // cpus, node.gpus * per_gpu if gpus else math.inf)) for node in nodes)
    assert room(nodes, ask) == expected
    assert (place(nodes, [ask]) is not None) == (count <= expected)


@given(NODES, st.integers(1, 12), GPUS)
def test_pack_fills_nodes_and_spread_takes_turns(nodes, count, gpus):
    spread, pack = (Ask("process", count, 0.5, gpus, strategy=how) for how in ("SPREAD", "PACK"))
    if (placed := place(nodes, [spread])) is None:
        return
    counts = Counter(placed[0])
    for here, there in product(range(len(nodes)), repeat=2):
        # whoever has more than one more than another does so because the other is full
        assert counts[here] <= counts[there] + 1 or counts[there] == room([nodes[there]], spread)
    packed = place(nodes, [pack])
    assert packed is not None
    counts = Counter(packed[0])
    assert sum(counts[number] < room([nodes[number]], pack) for number in counts) <= 1, "one node at most is half full"


@given(st.sampled_from([Node(4.0), Node(8.0, 1.0), Node(8.0, 4.0), Node(1.0, 2.0)]), ASKS)
def test_the_fewest_nodes_hold_everything_and_one_less_does_not(node, asks):
    count = fewest_nodes(node, asks)
    if count is None:
        assert any(ask.count and not room([node], ask) for ask in asks)
    else:
        assert place([node] * count, asks) is not None
        assert count == 0 or place([node] * (count - 1), asks) is None


@pytest.mark.parametrize("num_nodes", range(1, 9))
def test_training_on_gpu_nodes(num_nodes):
    """One worker a GPU: packed where they share nodes, shards beside them."""
    nodes = [Node(0.0)] + [Node(8.0, 4.0)] * num_nodes  # a head that runs no work
    asks = of_training(config_of(train__num_workers=4 * num_nodes, bank__num_shards=4), gpus=True, shard_memory=10)
    shards, workers = asks
    assert (workers.gpus, workers.cpus, workers.strategy) == (1.0, WORKER_CPUS, "PACK")
    assert (shards.gpus, shards.cpus, shards.strategy, shards.memory) == (0.0, SHARD_CPUS, "SPREAD", 10)
    placed = place(nodes, asks)
    assert placed is not None and set(Counter(placed[1]).values()) == {4}, "every GPU is taken"
    assert 0 not in {*placed[0], *placed[1]}
    assert len(set(placed[0])) == min(4, num_nodes), "a shard a node, as long as there are nodes"
    more = of_training(config_of(train__num_workers=4 * num_nodes + 1), gpus=True)
    assert f"{4 * num_nodes + 1} GPUs" in (problem := lacking(nodes, more) or "")
    assert problem.endswith(f"allowed is {4 * num_nodes}")


@given(NODES, ASKS, st.integers(1, 5))
def test_as_many_whole_sets_run_at_once_as_find_room(nodes, asks, most):
    def find_room(count: int) -> bool:
        return place(nodes, [replace(ask, count=count * ask.count) for ask in asks]) is not None

    count = sets_at_once(nodes, asks, most)
    assert 0 <= count <= most and (count == 0 or find_room(count))
    assert count == most or not find_room(count + 1)


def test_the_quickstart_s_runs_share_what_gpus_there_are():
    """A worker has a GPU of its own: one GPU has its methods take turns, and without any they train side by side."""
    config = load_config(ROOT / "configs" / "quickstart.yaml", {"data.path": "-", "run.path": "-"})
    for gpus, at_once in ((0, 4), (1, 1), (2, 2), (8, 4)):
        asks = of_training(config, gpus=gpus > 0)
        assert sets_at_once([Node(4.0, float(gpus))], asks, 4) == at_once


def test_training_without_ray_asks_for_nothing_and_one_shard_stays_with_its_worker():
    assert of_training(config_of(train__num_workers=0, bank__num_shards=3, bank__block_size=4), gpus=False) == ()
    alone = config_of(train__num_workers=0)
    assert of_run(alone, gpus=False) == () and [ask.gpus for ask in of_run(alone, gpus=True)] == [1.0]
    for num_gpus in (1, 3):
        assert sets_at_once([Node(2.0, float(num_gpus))], of_run(alone, gpus=True), 4) == num_gpus
    [workers] = of_training(config_of(train__num_workers=1), gpus=False)
    assert of_run(config_of(train__num_workers=1), gpus=True) == of_training(config_of(train__num_workers=1), gpus=True)
    assert (workers.what, workers.count, workers.resources) == ("worker", 1, {"CPU": WORKER_CPUS})
    assert [ask.what for ask in of_training(config_of(train__num_workers=2), gpus=False)] == ["shard", "worker"]


def test_gpus_are_used_where_they_are_there_or_asked_for():
    mixed, plain = [Node(4.0), Node(4.0, 1.0)], [Node(4.0)]
    assert [on_gpus(device, mixed) for device in ("auto", "cuda", "cpu")] == [True, True, False]
    assert [on_gpus(device, plain) for device in ("auto", "cuda", "cpu")] == [False, True, False]
    assert of_rendering(2, "moderngl", mixed).gpus == 0.25 and of_rendering(2, "embree", mixed).gpus == 0
    assert of_rendering(2, "moderngl", plain).gpus == 0, "Mesa draws on processors"
    assert room([Node(8.0, 1.0)], of_rendering(9, "moderngl", mixed)) == 4


def test_shares_of_a_gpu_are_of_one_gpu():
    assert room([Node(8.0, 2.0)], of_measuring(9, 0.4)) == 4
    assert room([Node(8.0, 3.0)], of_measuring(9, 2)) == 1


def test_who_need_not_begin_together_is_refused_only_where_nobody_fits():
    actors = of_measuring(100, 1)
    assert lacking([Node(2.0, 1.0)], [actors]) is None
    assert lacking([Node(2.0)], [actors]) == "1 GPUs: 1 actor of 1 CPU and 1 GPU, SPREAD; allowed is 0"
    assert "more than any of its nodes has room for" in (lacking([Node(2.0), Node(0.0, 1.0)], [actors]) or "")


def test_shards_ask_for_their_memory():
    nodes = [Node(8.0, memory=1e9), Node(8.0, memory=1e9)]
    shards = Ask("shard", 2, SHARD_CPUS, memory=800_000_000)
    assert place(nodes, [shards]) == [[0, 1]]
    assert "2400 MB of memory" in (lacking(nodes, [replace(shards, count=3)]) or "")


def test_threads_are_those_of_the_node_that_is_shared_by_most():
    workers = Ask("worker", 2, WORKER_CPUS)
    assert threads([Node(8.0)], [workers]) == 4
    assert threads([Node(8.0), Node(8.0)], [workers]) == 8
    assert threads([Node(8.0), Node(2.0)], [workers]) == 2
    assert threads([Node(8.0)], [workers], side_by_side=2) == 2
    assert threads([Node(0.0)], [workers]) == 1, "who waits for nodes doesn't know them"


# ---- real nodes --------------------------------------------------------------------------------

#: (CPUs, GPUs) of the nodes beside a head without any, and what is asked of them
CLUSTERS = {
    "a worker a GPU, shards beside them": (
        [(2, 2), (2, 2), (4, 0)],
        [Ask("shard", 3, SHARD_CPUS, memory=1000), Ask("worker", 4, WORKER_CPUS, 1.0, strategy="PACK")],
    ),
    "quarters of a GPU": ([(2, 1), (2, 1)], [of_rendering(4, "moderngl", [Node(2.0, 1.0)])]),
    "processors alone": ([(1, 0), (1, 0), (2, 0)], [Ask("shard", 3, SHARD_CPUS), Ask("worker", 3, WORKER_CPUS)]),
}  # fmt: skip


def put_on_real_nodes(name: str) -> None:
    """Start the cluster and the processes; print, for each ask, how many are on each node."""
    import ray
    from ray.cluster_utils import Cluster
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from jr_dist.cluster_room import cluster_nodes

    store = 100 * 2**20
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": store})
    shapes, asks = CLUSTERS[name]
    ids = [cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=store).node_id for cpus, gpus in shapes]
    ray.init(cluster.address, log_to_driver=False)
    assert sorted((node.cpus, node.gpus) for node in cluster_nodes()) == sorted([(0, 0), *shapes])

    class Process:
        def node(self) -> str:
            return ray.get_runtime_context().get_node_id()

    found, keep = [], []
    for ask in asks:
        options = dict(ask.options)
        if ask.what == "worker":  # as Ray Train does
            group = placement_group([ask.resources] * ask.count, strategy=ask.strategy)
            ray.get(group.ready(), timeout=30)
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group)
        actors = [ray.remote(**options)(Process).remote() for _ in range(ask.count)]
        keep += actors
        nodes = ray.get([actor.node.remote() for actor in actors], timeout=30)
        found.append([nodes.count(node) for node in ids])
    print(json.dumps(found))


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_puts_on_its_nodes_what_was_promised(name):
    mark = uuid.uuid4().hex
    words = [sys.executable, __file__, name]
    try:
        done = subprocess.run(
            words, env=away_from_ray(JR_TEST_MARK=mark), capture_output=True, text=True, timeout=200, check=False
        )
    finally:
        kill_tree(mark)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    shapes, asks = CLUSTERS[name]
    nodes = [Node(float(cpus), float(gpus)) for cpus, gpus in shapes]
    placed = place(nodes, asks)
    assert placed is not None
    for ask, counts, taken in zip(asks, found, placed, strict=True):
        assert sum(counts) == ask.count
        promised = [taken.count(number) for number in range(len(nodes))]
        if ask.gpus and ask.count == room(nodes, ask):
            assert counts == promised, "where there is one way"
        else:
            assert sum(map(bool, counts)) == sum(map(bool, promised)), "as many nodes are used"
    assert all(
        sum(counts[number] * ask.cpus for counts, ask in zip(found, asks, strict=True)) <= node.cpus
        for number, node in enumerate(nodes)
    )


if __name__ == "__main__":
    put_on_real_nodes(sys.argv[1])
