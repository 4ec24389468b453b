"""What a training run will take, computed from the settings and the dataset before anything starts."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from torch import nn

from jr_dist.bank.layout import BankLayout, cut, shard_bytes
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.bank.shard import block_file
from jr_dist.config import Config
from jr_dist.data import source_store
from jr_dist.data.dataset import count_rows, open_dataset
from jr_dist.models.networks import Networks
from jr_dist.placement import num_shard_actors
from jr_dist.plan import size
from jr_dist.train.labels import num_label_pairs, num_versions
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.schedule import make_schedule
from jr_dist.train.state import bank_layout, build_networks, row_optimiser
from jr_dist.train.update import moving_statistics

FLOAT, LONG = 4, 8
POINT_BYTES = 3 * FLOAT + 2  # a place, and the part as int16
DENSE_FILES = 4  # networks, optimiser, candidates drawn ahead, manifest


@dataclass(frozen=True)
class TrainPlan:
    """Counts and bytes of a run. Messages are counted as the arrays in them."""

    method: str
    num_sources: int
    num_targets: int
    num_workers: int
    num_steps: int
    pairs_a_step: int
    label_pairs: int  # fitted by IDO once, before the first step
    network_parameters: int
    num_shards: int
    in_actors: bool  # a shard is a process of its own; else all are in the one process that trains
    blocks_a_shard: int  # of the largest
    rows_a_shard: int  # of the largest
    shard_bytes: int  # of the largest
    bank_bytes: int  # of all shards
    rows_a_step: int  # sources that a worker pulls and pushes in a step, at most
    code_bytes: int  # of their codes: pulled, and as many pushed
    proposal_bytes: int  # between a worker and all shards in a step of soft retrieval
    gradient_bytes: int  # of dense weights, and batch norm's statistics: averaged over the workers in a step
    geometry_bytes: int
    geometry_mapped: bool  # from a file that all processes of a machine share; else each worker holds it
    checkpoint_bytes: int
    checkpoint_files: int

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """What it says of itself: names and texts."""
        where = "in actors" if self.in_actors else "in the process that trains"
        lies = "mapped from a file that the workers of a machine share" if self.geometry_mapped else "a worker"
        lines = {
            "method": METHODS[self.method].title,
            "database": f"{self.num_sources} sources, {self.num_targets} training targets",
            "workers": f"{self.num_workers or 'none: in this process, without Ray'}",
            "labels": f"{self.label_pairs} pairs, once" if self.label_pairs else "",
            "steps": f"{self.num_steps}, {self.pairs_a_step} pairs each",
            "networks": f"{self.network_parameters / 1e6:.2f} M parameters",
            "bank": f"{self.num_shards} shard(s) {where}",
            "a shard": f"{self.blocks_a_shard} block(s), {self.rows_a_shard} sources, {size(self.shard_bytes)} of "
            "memory, at most",
            "codes": f"{size(self.code_bytes)} pulled and as much pushed a step and worker: {self.rows_a_step} "
            "sources, at most",
            "proposals": f"{size(self.proposal_bytes)} a step and worker, queries and answers",
            "dense gradients": f"{size(self.gradient_bytes)} all-reduced a step",
            "geometry": f"{size(self.geometry_bytes)} {lies}",
            "a checkpoint": f"{size(self.checkpoint_bytes)} in {self.checkpoint_files} files; two are kept, and a "
            "third while it is written",
        }
        return tuple((name, text) for name, text in lines.items() if text)


def plan_training(config: Config) -> TrainPlan:
    """The plan of `jr-dist train --dry-run`, without points and without a bank. Raises `InputError` like the run."""
    dataset = open_dataset(config.data.path)
    store = source_store.SourceStore.open(dataset, categories=config.data.categories, num_points=1)
    settings, k, num_sources = config.train, config.retrieval.num_candidates, len(store.ids)
    workers, num_shards = max(settings.num_workers, 1), config.bank.num_shards
    num_targets = count_rows(dataset, "train", config.data.categories)
    layout, rule = bank_layout(config, store.num_parts), row_optimiser(config)
    shards = cut(layout, num_shards)
    largest = max(shards, key=lambda blocks: shard_bytes(layout, blocks, rule.num_slots))
    method = METHODS[settings.method]
    soft = method.plan(0, False, settings.alternate).soft
    networks = build_networks(config)
    moved = sum(parameter.nbytes for parameter in trained_parameters(networks, settings.method))
    statistics = sum(buffer.nbytes for buffer in moving_statistics(networks))
    # Without a deformation there is nothing to do with the codes of candidates.
    rows, a_target = min(settings.batch_size * k, num_sources) if method.has_deformation else 0, k
    if settings.method == "fit_aware":
        rows = min(config.labels.step_sources, num_sources)
        a_target = rows * num_versions(config)
    geometry = num_sources * dataset.num_points * POINT_BYTES
    return TrainPlan(
        method=settings.method,
        num_sources=num_sources,
        num_targets=num_targets,
        num_workers=settings.num_workers,
        num_steps=make_schedule(settings, num_targets, workers).num_steps,
        pairs_a_step=settings.batch_size * a_target * workers,
        label_pairs=num_label_pairs(config, dataset) if settings.method == "fit_aware" else 0,
        network_parameters=sum(parameter.numel() for parameter in networks.parameters()),
        num_shards=num_shards,
        in_actors=num_shard_actors(config) > 0,
        blocks_a_shard=max(map(len, shards)),
        rows_a_shard=max(layout.block_rows(blocks[-1])[1] - layout.block_rows(blocks[0])[0] for blocks in shards),
        shard_bytes=shard_bytes(layout, largest, rule.num_slots),
        bank_bytes=sum(shard_bytes(layout, blocks, rule.num_slots) for blocks in shards),
        rows_a_step=rows,
        code_bytes=code_bytes(layout, rows),
        proposal_bytes=proposal_bytes(layout, num_shards, settings.batch_size, k) if soft else 0,
        gradient_bytes=moved + statistics if workers > 1 else 0,
        geometry_bytes=geometry,
        geometry_mapped=geometry > source_store.IN_MEMORY_BYTES,
        checkpoint_bytes=bank_file_bytes(layout, rule)
        + sum(values.nbytes for values in networks.state_dict().values())
        + (0 if settings.optimizer == "sgd" and settings.momentum == 0 else rule.num_slots) * moved
        + config.bank.lookahead * workers * settings.batch_size * (k + 3) * LONG
        + _manifest_bytes(config, store.ids, layout),
        checkpoint_files=layout.num_blocks + DENSE_FILES,
    )


def code_bytes(layout: BankLayout, num_rows: int) -> int:
    """The codes of `num_rows` sources, those with the most parts."""
    parts = int(np.sort(layout.num_parts)[layout.num_sources - num_rows :].sum())
    return (num_rows * sum(layout.row_widths.values()) + parts * layout.part_code) * FLOAT


def proposal_bytes(layout: BankLayout, num_shards: int, num_targets: int, num_candidates: int) -> int:
    """What a worker sends to all shards for the candidates of B targets, and what they answer."""
    query = layout.embedding * FLOAT + LONG
    # of each candidate its id and score; of each target the nearest source with its score, and two sums
    answer = num_candidates * (LONG + FLOAT) + LONG + 3 * FLOAT
    return num_shards * num_targets * (query + answer)


def bank_file_bytes(layout: BankLayout, rule: RowOptimiser) -> int:
    """The blocks of a checkpoint: tables, slots, adam's counts a row, the cached embedding."""
    num_rows, num_parts = layout.num_sources, int(layout.part_offsets[-1])
    tables = num_rows * sum(layout.row_widths.values()) + num_parts * layout.part_code
    counts = num_rows * len(layout.row_widths) + num_parts if rule.name == "adam" else 0
    cached = 0 if layout.learned_embedding else num_rows * layout.embedding
    return FLOAT * (tables * (1 + rule.num_slots) + counts + cached)


def trained_parameters(networks: Networks, method: str) -> list[nn.Parameter]:
    """The dense weights that a method moves: those that have gradients and optimiser slots."""
    modules = [] if METHODS[method].trains_retrieval else [networks.retrieval_encoder, networks.source_encoder]
    modules += [] if METHODS[method].trains_deformation else [networks.deformation_encoder, networks.deformation]
    idle = {parameter for module in modules if module is not None for parameter in module.parameters()}
    return [each for each in networks.parameters() if each.requires_grad and each not in idle]


def _manifest_bytes(config: Config, ids: tuple[str, ...], layout: BankLayout) -> int:
    # What grows with the database, or is long.
    files = {block_file(block): "0" * 64 for block in range(layout.num_blocks)}
    content = {"source_ids": ids, "num_parts": layout.num_parts, "files": files, "config": config.model_dump()}
    return len(json.dumps(content, indent=1))
