"""How much of a training step waits for the bank (for bank.py).

A group of Ray Train's workers trains `ours` several times, with and without lookahead in turn (timed_training.py).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from harness import Record
from step_measure import QUICKSTART, write_boxes
from timed_training import ASKED, Steps, train_on_ray

from jr_dist.config import Config, load_config

SKIPPED_STEPS = 10  # they compile kernels and fill caches


def wait_share(quick: bool) -> list[Record]:
    """Training of `ours`, from P_R throughout, with settings of the quickstart and two shards."""
    num_steps, rounds = (32, 1) if quick else (80, 2)
    records = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_boxes(folder / "dataset", num_sources=256)
        for workers in (2, 1):
            configs = [
                _training(folder, f"{workers}-{number}-{lookahead}", workers, lookahead)
                for number in range(rounds)
                for lookahead in (0, 1)
            ]
            measured = [_mean(ranks) for ranks in train_on_ray(configs, num_steps)]
            shares = [median(share for share, _ in measured[lookahead::2]) for lookahead in (0, 1)]
            steps = [median(seconds for _, seconds in measured[lookahead::2]) for lookahead in (0, 1)]
            of = "" if workers == 2 else ".1_worker"
            records += [
                Record(f"bank.wait_share{of}", shares[1], "", "no lookahead", shares[0] / max(shares[1], 1e-9)),
                Record(f"bank.wait_share{of}.no_lookahead", shares[0], ""),
                Record(f"bank.train_step{of}", steps[1] * 1e3, "ms", "no lookahead", steps[0] / steps[1]),
            ]
    return records


def _training(folder: Path, name: str, workers: int, lookahead: int) -> Config:
    settings = {
        "data.path": str(folder / "dataset"), "run.path": str(folder / name), "train.num_workers": workers,
        "train.epochs": 100, "train.warmup_epochs": 0, "train.validate_every": 100, "train.checkpoint_every": 100,
        "bank.num_shards": 2, "bank.block_size": 32, "bank.lookahead": lookahead,
    }  # fmt: skip
    return load_config(QUICKSTART, settings)


def _mean(ranks: list[Steps]) -> tuple[float, float]:
    """(share of the time that waits for the bank, seconds a step), the mean over the workers."""
    own = [rank.behind(SKIPPED_STEPS) for rank in ranks]
    shares = [sum(steps[asked].sum() for asked in ASKED) / steps.seconds.sum() for steps in own]
    return float(np.mean(shares)), float(np.mean([steps.seconds.mean() for steps in own]))
