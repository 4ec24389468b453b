"""Everything a run consists of while it trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from jr_dist.bank.client import BankClient
from jr_dist.bank.layout import BankLayout
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.bank.shard import BankShard
from jr_dist.config import Config
from jr_dist.data.device_geometry import DeviceGeometry
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.models.networks import Networks, seeded_networks
from jr_dist.train.group import Group


@dataclass
class TrainState:
    """The moving parts of a run on one rank. Codes are in the bank, dense weights in the networks."""

    config: Config
    store: SourceStore
    networks: Networks
    bank: BankClient
    optimiser: torch.optim.Optimizer
    group: Group
    device: torch.device
    step: int = 0
    #: log of the sigma from which the learned sigma_k started; None until it is matched
    fit_scale_start: float | None = None
    best_validation: float = float("inf")
    #: what the last validation gave
    validation: dict[str, Any] = field(default_factory=dict)
    #: sources kept on an accelerator; None where the store's own memory is the device's
    kept_geometry: DeviceGeometry | None = None


def bank_layout(config: Config, num_parts: Iterable[int]) -> BankLayout:
    """The tables that these settings need for sources of so many parts."""
    return BankLayout(
        num_parts=tuple(int(n) for n in num_parts),
        global_code=config.model.global_code,
        part_code=config.model.part_code,
        embedding=config.retrieval.embedding,
        learned_embedding=config.retrieval.source_embedding == "code",
        seed=config.train.seed,
    )


def build_networks(config: Config) -> Networks:
    """Networks of the configured sizes; their first weights depend on `train.seed` alone."""
    return seeded_networks(
        config.train.seed,
        channels=config.model.encoder_channels,
        hidden=config.model.hidden,
        global_code=config.model.global_code,
        target_code=config.model.target_code,
        part_code=config.model.part_code,
        embedding=config.retrieval.embedding,
    )


def new_state(config: Config, store: SourceStore, group: Group, device: torch.device | str = "cpu") -> TrainState:
    """A run at step 0. Raises `InputError` where K exceeds the database."""
    num_sources = len(store.ids)
    if config.retrieval.num_candidates > num_sources:
        raise InputError(
            f"retrieval.num_candidates is {config.retrieval.num_candidates}, but {config.data.path} has {num_sources} "
            f"sources in the chosen categories; allowed is at most {num_sources}; lower it or add sources"
        )
    device = torch.device(device)
    layout = bank_layout(config, store.num_parts)
    rule = RowOptimiser(
        name=config.train.optimizer, momentum=config.train.momentum, weight_decay=config.train.weight_decay
    )
    shard = BankShard(layout, range(layout.num_blocks), rule, num_ranks=group.world_size)
    networks = build_networks(config).to(device)
    return TrainState(
        config=config,
        store=store,
        networks=networks,
        bank=BankClient(layout, shard, exchange=group.exchange if group.world_size > 1 else None),
        optimiser=dense_optimiser(config, networks),
        group=group,
        device=device,
        kept_geometry=None
        if device.type == "cpu"
        else DeviceGeometry(store, device, num_points=config.data.num_points),
    )


def dense_optimiser(config: Config, networks: Networks) -> torch.optim.Optimizer:
    """The optimiser of the dense weights, of the same kind as the rows' one."""
    settings = config.train
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            networks.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.Adam(networks.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
