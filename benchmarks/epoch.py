"""Targets a second of a whole training epoch, its stream of targets included, against the published formulation.

    python benchmarks/epoch.py [--quick] [--csv FILE] [--json FILE]

    epoch.vs_cdist, epoch.vs_two_pass   the published formulation's chamfer by torch.cdist, by a compiled brute force

The quickstart's settings (`configs/quickstart.yaml`: 16 targets a step, 10 candidates, 512 points), 100 sources of 8
parts, one process and one thread, processor time. Ours is `train.num_workers 0` as `jr-dist train` runs it, reading
targets from their files, with what it logs: the epochs behind the first, which compiles. Of the published formulation
(published.py), whose epoch would be the same batch again and again, one step of each kind is taken an epoch, on the
same sources and networks of the same sizes: what it would spend on reading, padding targets and logging is left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import clock, compared, finish, machine, parser, progress
from limits import PRODUCTS, products_a_second
from published import PublishedStep, by_cdist, by_two_passes, dense_sources
from step_measure import QUICKSTART, write_boxes

from jr_dist.config import Config, load_config
from jr_dist.data.dataset import Dataset, open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.data.step_plan import step_plan
from jr_dist.data.streams import TargetBatch, local_target_batches
from jr_dist.estimates import encoded_a_step, encoder_macs
from jr_dist.train.group import Group
from jr_dist.train.loop import run_training
from jr_dist.train.run_directory import claim, prepare
from jr_dist.train.state import TrainState, new_state

NUM_SOURCES, NUM_TARGETS = 100, 320
CHAMFERS = {"cdist": ("torch.cdist", by_cdist), "two_pass": ("two passes", by_two_passes)}


class Epochs:
    """Looks on while a rank trains; the seconds of each epoch, `between` two of them left out."""

    def __init__(self, num_steps: int, between: Callable[[], object]) -> None:
        self.num_steps, self.between, self.now = num_steps, between, clock()
        self.seconds: list[float] = []
        self._started = self.now()

    def step(self, state: TrainState, logged: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """A step is done."""
        progress(f"step {state.step + 1}")
        if (state.step + 1) % self.num_steps == 0:
            self.seconds.append(self.now() - self._started)
            self.between()
            self._started = self.now()

    def validation(self, state: TrainState) -> None:
        """Only behind the last step."""


def batches(dataset: Dataset, config: Config, group: Group, first: int, count: int) -> Iterator[TargetBatch]:
    """What one process streams without Ray."""
    plan = step_plan(
        dataset, "train", None, batch_size=config.train.batch_size, num_points=config.data.num_points,
        encoder_points=config.data.encoder_points, seed=config.train.seed, rank=group.rank, world_size=group.world_size,
    )  # fmt: skip
    return local_target_batches(plan, range(first, first + count))


def published(config: Config) -> dict[str, Callable[[], object]]:
    """A step of each kind of the published formulation, with each chamfer."""
    dataset = open_dataset(config.data.path)
    store = SourceStore.open(dataset)
    state = new_state(config, store, Group())
    tables = {name: leaf.detach().numpy() for name, leaf in state.bank.pull(np.arange(NUM_SOURCES)).leaves().items()}
    dense, batch, k = dense_sources(store), config.train.batch_size, config.retrieval.num_candidates
    targets = torch.from_numpy(np.array(read_targets(dataset, "train").points[:batch]))
    rng = np.random.default_rng(0)
    rows = np.stack([rng.choice(NUM_SOURCES, k, replace=False) for _ in range(batch)])
    weights = np.full(rows.shape, 1 / k, np.float32)

    def both(step: PublishedStep) -> None:
        step.deformation_step(targets, rows, weights)
        step.retrieval_step(targets, rows)

    sides = {
        name: PublishedStep(dense, state.networks, tables, store.num_parts, chamfer)
        for name, (_, chamfer) in CHAMFERS.items()
    }
    return {name: lambda step=step: both(step) for name, step in sides.items()}


def main() -> None:
    """Train, and between two epochs let the published formulation do a step of each kind."""
    options = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    epochs = 3 if options.quick else 6
    print(f"{NUM_TARGETS} targets an epoch, {epochs} epochs, {machine(1)}")
    with tempfile.TemporaryDirectory() as folder:
        write_boxes(Path(folder) / "boxes", NUM_SOURCES, num_targets=NUM_TARGETS)
        settings = {
            "data.path": f"{folder}/boxes", "run.path": f"{folder}/run", "train.num_workers": 0,
            "train.epochs": epochs, "train.warmup_epochs": 0, "train.validate_every": epochs,
            "train.checkpoint_every": epochs,
        }  # fmt: skip
        config = load_config(QUICKSTART, settings)
        peers, now = published(config), clock()
        steps: dict[str, list[float]] = {name: [] for name in peers}

        def between() -> None:
            for name, step in peers.items():
                start = now()
                step()
                steps[name].append(now() - start)

        watch = Epochs(NUM_TARGETS // config.train.batch_size, between)
        run = prepare(config)
        run_training(
            config, Group(), batches, start=None, report=lambda _: None, incarnation=claim(run, "benchmark"),
            watch=watch,
        )  # fmt: skip
    each = [seconds / NUM_TARGETS for seconds in watch.seconds[1:]]
    batch = config.train.batch_size
    products = 3 * encoded_a_step(config, NUM_SOURCES) * encoder_macs(config, config.data.encoder_points)
    limit = {"limit": batch * products_a_second() / products, "limit_is": PRODUCTS}
    found = [
        compared(
            f"epoch.vs_{name}", "targets/s", f"published formulation, {chamfer}", each,
            [seconds / batch for seconds in steps[name][1:]], **limit,
        )
        for name, (chamfer, _) in CHAMFERS.items()
    ]  # fmt: skip
    records = [replace(record, value=1 / record.value) for record in found]
    finish(records, options.json, options.csv)


if __name__ == "__main__":
    main()
