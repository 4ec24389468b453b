"""Everything a run consists of while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jr_dist.bank.client import BankClient, ShardHandle, local_bank
from jr_dist.bank.layout import BankLayout
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.config import Config
from jr_dist.data.device_geometry import DeviceGeometry
from jr_dist.data.pictures import open_pictures, picture_settings
from jr_dist.data.source_pictures import SourcePictures, source_pictures
from jr_dist.data.source_store import SourceStore, local_source_batches
from jr_dist.data.table_reader import Dataset
from jr_dist.errors import InputError
from jr_dist.models.networks import Networks, seeded_networks
from jr_dist.train.draw import Draw
from jr_dist.train.group import Group


class CloudSource(Protocol):
    """The points of sources, batch by batch and in order: rows [M] and points [M, N, 3]."""

    def __call__(
        self, store: SourceStore, rows: np.ndarray, *, num_points: int, batch_size: int
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """`rows` are distinct and ascending; the last batch may be short."""
        ...


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
    #: which start of the run this is; what an earlier one sends or writes is refused
    incarnation: int = 0
    step: int = 0
    #: log of the sigma from which the learned sigma_k started; None until it is matched
    fit_scale_start: float | None = None
    best_validation: float = float("inf")
    #: what the last validation gave
    validation: dict[str, Any] = field(default_factory=dict)
    #: the candidates of the next step, where `bank.lookahead` has them drawn a step ahead
    upcoming: Draw | None = None
    #: what the method looks up for its training targets, by their rows (`Method.prepare`)
    of_targets: Any = None
    #: whether the cached embeddings of sources come from the encoder; else the method places the sources itself
    encodes_sources: bool = True
    #: names the pictures of targets that it is trained on; empty where it is on points
    picture_identity: str = ""
    #: the pictures of the sources, where these place them in the retrieval space
    pictures: SourcePictures | None = None
    #: how clouds of many sources are read
    clouds: CloudSource = local_source_batches
    #: sources kept on an accelerator; None where the store's own memory is the device's
    kept_geometry: DeviceGeometry | None = None


#: methods that know a source by its points alone, whatever `retrieval.source_embedding` is
WITHOUT_CODES = ("mds", "ae")


def bank_layout(config: Config, num_parts: Iterable[int]) -> BankLayout:
    """The tables that these settings need for sources of so many parts."""
    return BankLayout(
        num_parts=tuple(int(n) for n in num_parts),
        global_code=config.model.global_code,
        part_code=config.model.part_code,
        embedding=config.retrieval.embedding,
        learned_embedding=config.retrieval.source_embedding == "code" and config.train.method not in WITHOUT_CODES,
        block_size=config.bank.block_size,
        seed=config.train.seed,
    )


def row_optimiser(config: Config) -> RowOptimiser:
    """The update rule of the codes, of the same kind as the dense weights' one."""
    return RowOptimiser(
        name=config.train.optimizer, momentum=config.train.momentum, weight_decay=config.train.weight_decay
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
        encoder=config.model.encoder,
        trained_layers=config.model.encoder_layers,
        freeze_batch_norm=config.model.freeze_batch_norm,
        # MDS fixes the places of the sources.
        encode_sources=config.data.images != "none"
        and config.retrieval.source_embedding == "encoder"
        and config.train.method != "mds",
        decoded_points=config.data.num_points if config.train.method == "ae" else None,
        precision=torch.bfloat16 if config.train.precision == "bfloat16" else None,
    )


def check_num_candidates(config: Config, num_sources: int) -> None:
    """Raise `InputError` where K exceeds the database."""
    if config.retrieval.num_candidates > num_sources:
        raise InputError(
            f"retrieval.num_candidates is {config.retrieval.num_candidates}, but {config.data.path} has {num_sources} "
            f"sources in the chosen categories; allowed is at most {num_sources}; lower it or add sources"
        )


def new_state(
    config: Config,
    store: SourceStore,
    group: Group,
    device: torch.device | str = "cpu",
    *,
    shards: Sequence[ShardHandle] | None = None,
    incarnation: int = 0,
    clouds: CloudSource = local_source_batches,
) -> TrainState:
    """A run at step 0, with its codes in `shards`; without, in `bank.num_shards` of this process, for one rank.

    Raises `InputError` where K exceeds the database, or there are more shards than blocks.
    """
    check_num_candidates(config, len(store.ids))
    device = torch.device(device)
    layout = bank_layout(config, store.num_parts)
    if shards is None:
        assert group.world_size == 1, "several ranks share shards that are actors"
        rule, threads = row_optimiser(config), torch.get_num_threads()
        bank = local_bank(layout, rule, num_shards=config.bank.num_shards, incarnation=incarnation, num_threads=threads)
    else:
        bank = BankClient(layout, shards, rank=group.rank, incarnation=incarnation)
    networks = build_networks(config).to(device)
    return TrainState(
        config=config,
        store=store,
        networks=networks,
        bank=bank,
        optimiser=dense_optimiser(config, networks),
        group=group,
        device=device,
        incarnation=incarnation,
        picture_identity=picture_identity(config, store.dataset),
        pictures=_pictures_of_sources(config, store),
        clouds=clouds,
        kept_geometry=None
        if device.type == "cpu"
        else DeviceGeometry(store, device, num_points=config.data.num_points),
    )


def picture_identity(config: Config, dataset: Dataset) -> str:
    """Names the pictures of the training targets; empty where encoders see points. Raises as `open_pictures` does."""
    how = picture_settings(config.data)
    return "" if how is None else open_pictures(dataset, "train", config.data.categories, how).identity


def _pictures_of_sources(config: Config, store: SourceStore) -> SourcePictures | None:
    how = picture_settings(config.data)
    if how is None or config.retrieval.source_embedding != "renders" or config.train.method == "mds":
        return None
    return source_pictures(store, how, config.retrieval.source_views)


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
