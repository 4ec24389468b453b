"""What a training run will take, computed from the settings and the dataset before anything starts."""

from __future__ import annotations

from dataclasses import dataclass

from jr_dist.bank.layout import BankLayout
from jr_dist.config import Config
from jr_dist.data.dataset import count_rows, open_dataset
from jr_dist.data.source_store import SourceStore
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.schedule import make_schedule
from jr_dist.train.state import bank_layout, build_networks

FLOAT = 4


@dataclass(frozen=True)
class TrainPlan:
    """Counts and bytes of a run."""

    method: str
    num_sources: int
    num_targets: int
    num_workers: int
    num_steps: int
    pairs_a_step: int
    network_parameters: int
    bank_bytes: int
    push_bytes: int
    geometry_bytes: int
    checkpoint_bytes: int

    def __str__(self) -> str:
        mega = 1e6
        return "\n".join(
            [
                f"method            {METHODS[self.method].title}",
                f"database          {self.num_sources} sources, {self.num_targets} training targets",
                f"workers           {self.num_workers or 'none: in this process, without Ray'}",
                f"steps             {self.num_steps}, {self.pairs_a_step} pairs each",
                f"networks          {self.network_parameters / mega:.2f} M parameters",
                f"bank              {self.bank_bytes / mega:.1f} MB a replica (tables, optimiser slots, scan copy)",
                f"gradients of rows {self.push_bytes / mega:.2f} MB a step and worker, at most",
                f"geometry          {self.geometry_bytes / mega:.1f} MB a worker",
                f"a checkpoint      {self.checkpoint_bytes / mega:.1f} MB, two are kept",
            ]
        )


def plan_training(config: Config) -> TrainPlan:
    """The plan of `jr-dist train --dry-run`. Raises `InputError` like the run itself would."""
    dataset = open_dataset(config.data.path)
    store = SourceStore.open(dataset, categories=config.data.categories)
    workers = max(config.train.num_workers, 1)
    num_targets = count_rows(dataset, "train", config.data.categories)
    schedule = make_schedule(config.train, num_targets, workers)
    layout = bank_layout(config, store.num_parts)
    parameters = sum(parameter.numel() for parameter in build_networks(config).parameters())
    copies = 3 if config.train.optimizer == "adam" else 2
    bank = copies * _table_floats(layout, layout.num_sources) * FLOAT
    bank += 0 if layout.learned_embedding else layout.num_sources * layout.embedding * FLOAT
    pairs = config.train.batch_size * config.retrieval.num_candidates
    points = dataset.num_points
    # points and canonical coordinates (3 + 3 floats) and a part index of 8 bytes a point
    geometry = len(store.ids) * points * (6 * FLOAT + 8)
    return TrainPlan(
        method=config.train.method,
        num_sources=len(store.ids),
        num_targets=num_targets,
        num_workers=config.train.num_workers,
        num_steps=schedule.num_steps,
        pairs_a_step=pairs * workers,
        network_parameters=parameters,
        bank_bytes=bank,
        push_bytes=_table_floats(layout, min(pairs, layout.num_sources)) * FLOAT,
        geometry_bytes=geometry,
        checkpoint_bytes=bank + copies * parameters * FLOAT,
    )


def _table_floats(layout: BankLayout, num_rows: int) -> int:
    parts = int(layout.part_offsets[-1] * num_rows / layout.num_sources)
    return num_rows * sum(layout.row_widths.values()) + parts * layout.part_code
