"""The dry run's figures against what a run really holds, sends and writes."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import TINY_SETTINGS

from jr_dist.bank.client import BankClient, LocalShard
from jr_dist.bank.layout import cut
from jr_dist.bank.scan import ScanCopy
from jr_dist.bank.shard import BankShard
from jr_dist.config import load_config
from jr_dist.data import source_store
from jr_dist.data.dataset import open_dataset
from jr_dist.data.source_store import SourceStore
from jr_dist.placement import Node
from jr_dist.train.dry_run import plan_training
from jr_dist.train.dry_run_plan import asks_of
from jr_dist.train.group import Group
from jr_dist.train.run_directory import LAST, checkpoint_path
from jr_dist.train.state import bank_layout, row_optimiser
from jr_dist.train.trainer import train

# As wide as by default, or nearly: what is not counted (the names in a file, a few bytes a row) must not matter there.
WIDTHS = {
    "model.global_code": 256,
    "model.part_code": 32,
    "retrieval.embedding": 256,
    "model.encoder_channels": (16, 512),
    "model.hidden": (256, 128),
}
KINDS = [("adam", "encoder"), ("sgd", "encoder"), ("adam", "code"), ("sgd", "code")]


def said(plan):
    return "; ".join(f"{name}: {text}" for name, text in plan.lines)


def config_of(dataset, run="-", **overrides):
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(None, {**TINY_SETTINGS, **WIDTHS, "data.path": str(dataset), "run.path": str(run), **named})


def store_of(config):
    return SourceStore.open(open_dataset(config.data.path))


def shards_of(config):
    layout = bank_layout(config, store_of(config).num_parts)
    return [BankShard(layout, blocks, row_optimiser(config)) for blocks in cut(layout, config.bank.num_shards)]


def array_bytes(value) -> int:
    """Of all arrays in an object or a mapping, and in what these hold."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    inner = value.values() if isinstance(value, dict) else vars(value).values()
    return sum(array_bytes(part) for part in inner if isinstance(part, np.ndarray | dict | ScanCopy))


@pytest.mark.parametrize(("optimizer", "embedding"), KINDS)
def test_a_shard_holds_what_is_planned(tiny_dataset, optimizer, embedding):
    config = config_of(
        tiny_dataset,
        train__optimizer=optimizer,
        retrieval__source_embedding=embedding,
        bank__num_shards=2,
        bank__block_size=8,  # the scan's copy holds eight rows together
    )
    plan, shards = plan_training(config), shards_of(config)
    assert plan.shard_bytes == pytest.approx(max(map(array_bytes, shards)), rel=0.01)
    assert plan.rows_a_shard == max(shard.last - shard.first for shard in shards) == 8


def test_the_largest_shard_is_planned(tiny_dataset):
    config = config_of(tiny_dataset, bank__num_shards=2, bank__block_size=5)
    plan, shards = plan_training(config), shards_of(config)
    assert [shard.last - shard.first for shard in shards] == [5, 7]
    assert plan.rows_a_shard == 7
    assert plan.blocks_a_shard == max(len(shard.blocks) for shard in shards) == 2


class Listening:
    """A shard that counts the bytes of arrays that go to it and come from it."""

    def __init__(self, shard):
        self.local, self.num_bytes = LocalShard(shard), 0

    def send(self, request):
        answer = self.local.send(request)
        result = answer.result()
        self.num_bytes += sum(value.nbytes for value in request.arguments if isinstance(value, np.ndarray))
        self.num_bytes += array_bytes(result.best) if request.work == "propose" else array_bytes(result)
        return answer


@pytest.mark.parametrize("embedding", ["encoder", "code"])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_messages_are_as_large_as_planned(tiny_dataset, embedding, num_shards):
    settings = {"retrieval__source_embedding": embedding, "bank__num_shards": num_shards, "bank__block_size": 4}
    config = config_of(tiny_dataset, train__batch_size=2, **settings)
    plan, k = plan_training(config), config.retrieval.num_candidates
    handles = [Listening(shard) for shard in shards_of(config)]
    bank = BankClient(handles[0].local.shard.layout, handles)
    bank.begin_propose(torch.zeros(2, 256), np.arange(2), k, 1.0, seed=0, step=0)()
    assert sum(handle.num_bytes for handle in handles) == plan.proposal_bytes

    assert plan.rows_a_step == 2 * k
    most_parts = np.sort(np.argsort(store_of(config).num_parts)[-2 * k :])
    for rows in (most_parts, np.arange(2 * k)):
        codes = bank.pull(rows)
        pulled = sum(leaf.nbytes for leaf in codes.leaves().values())
        assert pulled == plan.code_bytes if rows is most_parts else pulled <= plan.code_bytes


def test_more_pairs_than_sources_pull_every_source_once(tiny_dataset):
    assert plan_training(config_of(tiny_dataset)).rows_a_step == 12


@pytest.mark.parametrize(("method", "optimizer", "embedding", "lookahead"), [
    ("ours", "adam", "encoder", 1), ("uniform", "sgd", "code", 0), ("df", "adam", "encoder", 0),
    ("mds", "adam", "code", 1), ("ae", "sgd", "encoder", 0), ("ours_ido", "adam", "encoder", 0),
])  # fmt: skip
def test_a_checkpoint_and_gradients_are_as_large_as_planned(
    tiny_dataset, tmp_path, monkeypatch, method, optimizer, embedding, lookahead
):
    averaged = set()
    average = Group.average

    def noting(group, tensors):
        tensors = list(tensors)
        if len(tensors) > 1:  # a spread or a start is averaged by itself
            averaged.add(sum(tensor.nbytes for tensor in tensors))
        average(group, tensors)

    monkeypatch.setattr(Group, "average", noting)
    config = config_of(
        tiny_dataset,
        tmp_path / "run",
        train__method=method,
        train__optimizer=optimizer,
        retrieval__source_embedding=embedding,
        bank__lookahead=lookahead,
        bank__block_size=5,
    )
    train(config)
    files = list(checkpoint_path(config.run.path, LAST).iterdir())
    plan = plan_training(config)
    assert plan.checkpoint_files == len(files)
    assert plan.checkpoint_bytes == pytest.approx(sum(file.stat().st_size for file in files), rel=0.03)
    assert plan.gradient_bytes == 0, "one process has nobody to average with"
    several = config.model_copy(update={"train": config.train.model_copy(update={"num_workers": 2, "batch_size": 4})})
    assert averaged == {plan_training(several).gradient_bytes}


@pytest.mark.parametrize(
    ("workers", "shards", "in_actors", "num_cpus"),
    [(0, 1, False, 0), (0, 3, False, 0), (1, 1, False, 0.5), (1, 2, True, 1.5), (2, 1, True, 1.5), (2, 3, True, 2.5)],
)
def test_shards_are_actors_where_several_processes_need_them(tiny_dataset, workers, shards, in_actors, num_cpus):
    config = config_of(tiny_dataset, train__num_workers=workers, bank__num_shards=shards, bank__block_size=4)
    plan = plan_training(config)
    asks = asks_of(config, plan, [Node(8.0)])
    assert (plan.in_actors, sum(ask.count * ask.cpus for ask in asks)) == (in_actors, num_cpus)
    assert {ask.memory for ask in asks if ask.what == "shard"} == ({plan.shard_bytes} if in_actors else set())


def test_geometry_is_that_of_the_store_in_memory_or_mapped(tiny_dataset, monkeypatch):
    config = config_of(tiny_dataset)
    plan, store = plan_training(config), store_of(config)
    assert plan.geometry_bytes == store.points.nbytes + store.part_index.nbytes
    assert not plan.geometry_mapped and "mapped" not in said(plan)
    monkeypatch.setattr(source_store, "IN_MEMORY_BYTES", plan.geometry_bytes - 1)
    assert plan_training(config).geometry_mapped and "mapped" in said(plan_training(config))


def test_every_figure_that_is_not_zero_is_printed(tiny_dataset):
    config = config_of(tiny_dataset, train__num_workers=2, train__batch_size=4, bank__num_shards=3, bank__block_size=4)
    plan = plan_training(config)
    assert all(
        getattr(plan, field.name) for field in fields(plan) if field.name not in ("geometry_mapped", "label_pairs")
    )
    for line in ("workers: 2", "3 shard(s) in actors", "dense gradients"):
        assert line in said(plan)


def test_methods_without_deformation_pull_no_codes(tiny_dataset):
    for method in ("mds", "ae"):
        plan = plan_training(config_of(tiny_dataset, train__method=method))
        assert plan.rows_a_step == plan.code_bytes == plan.proposal_bytes == 0


def test_labels_are_counted_once_and_the_sources_that_a_step_compares(tiny_dataset):
    given = {"train__method": "fit_aware", "labels__num_points": 64, "labels__copies": 0}
    plan = plan_training(config_of(tiny_dataset, **given))
    assert plan.label_pairs == 24 * 12 and plan.rows_a_step == 12 and plan.pairs_a_step == 8 * 12
    assert "288 pairs, once" in said(plan)
    few = plan_training(config_of(tiny_dataset, labels__sources=5, labels__step_sources=7, **given))
    assert few.label_pairs == 24 * 5 and few.rows_a_step == 7 and few.pairs_a_step == 8 * 7
    stretched = plan_training(config_of(tiny_dataset, **{**given, "labels__copies": 2}))
    assert stretched.label_pairs == 3 * plan.label_pairs and stretched.pairs_a_step == 3 * plan.pairs_a_step


def test_only_soft_retrieval_asks_for_proposals(tiny_dataset):
    asked = {method: plan_training(config_of(tiny_dataset, train__method=method)).proposal_bytes
             for method in ("ours", "uniform", "df")}  # fmt: skip
    assert asked["ours"] > 0 == asked["uniform"] == asked["df"]
