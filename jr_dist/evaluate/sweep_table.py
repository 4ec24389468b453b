"""What a sweep found, as a record, a Markdown text and a CSV file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from jr_dist.evaluate.intervals import Interval, mean_interval
from jr_dist.train.sweep_space import Choice, Domain, Space
from jr_dist.train.trials import Trial

#: sections 2.1 and 2.2 of the paper and its supplement: what is marked on every plot of a setting
PAPER: dict[str, Any] = {
    "retrieval.sigma0": 100.0,
    "retrieval.num_candidates": 10,
    "retrieval.embedding": 256,
    "retrieval.loss": "l1",
    "retrieval.fit_scale": "learned",
    "model.global_code": 256,
    "model.part_code": 32,
    "model.target_code": 256,
    "model.alpha": 0.1,
    "train.optimizer": "sgd",
    "train.learning_rate": 1e-3,
    "train.momentum": 0.9,
    "train.weight_decay": 5e-4,
    "train.batch_size": 16,
    "train.epochs": 300,
    "train.alternate": True,
}
#: bins of a setting that is searched between two numbers
NUM_BINS = 4
#: trials of a bin below which the bootstrap would only give back the trials themselves
LEAST_FOR_INTERVAL = 4


@dataclass(frozen=True)
class Finalist:
    """A configuration that was repeated, and its chamfers x100, the seed of the search first."""

    trial: Trial
    chamfers_x100: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over all seeds: by this the winner is chosen."""
        return float(np.mean(self.chamfers_x100))

    @property
    def further(self) -> float | None:
        """The mean of the further seeds alone. The seed of the search was chosen for being low, these were not."""
        return float(np.mean(self.chamfers_x100[1:])) if len(self.chamfers_x100) > 1 else None


@dataclass(frozen=True)
class SweepTable:
    """Everything that a sweep's report shows."""

    dataset: str
    num_targets: int  # of the validation split
    num_points: int
    epochs: int
    num_steps: int
    grace: float  # epochs before which none was stopped
    seed: int
    space: Space
    trials: tuple[Trial, ...]  # of the search, in the order in which they began
    repeats: tuple[Trial, ...]
    finalists: tuple[Finalist, ...]  # the winner first

    @property
    def best(self) -> Finalist:
        """The winner."""
        return self.finalists[0]

    @property
    def common_epoch(self) -> float:
        """The last epoch that all trials have come to; 0 where there is none."""
        validated = [{epoch for epoch, _ in trial.validations} for trial in self.trials if trial.validations]
        return max(set.intersection(*validated), default=0.0) if validated else 0.0


@dataclass(frozen=True)
class Bin:
    """Trials whose values of a setting lie together."""

    label: str
    low: Any
    high: Any
    num_stopped: int
    reached: Interval | None  # the chamfer that each had when it ended or was stopped
    common: Interval | None  # the chamfer of each at `common_epoch`


def bins(table: SweepTable, name: str) -> list[Bin]:
    """The trials by their value of a setting: each choice, or `NUM_BINS` equal parts of a span, with BCa intervals.

    The other settings of the trials in a bin differ as the search chose them: a difference between bins need not be
    this setting's doing.
    """
    domain, rng = table.space[name], np.random.default_rng(0)
    found = []
    for label, low, high, inside in _parts(domain):
        own = [trial for trial in table.trials if trial.chamfer_x100 is not None and inside(trial.values[name])]
        common = [value for trial in own for epoch, value in trial.validations if epoch == table.common_epoch]
        reached = [trial.validations[-1][1] for trial in own]
        stopped = sum(trial.state == "stopped" for trial in own)
        found.append(Bin(label, low, high, stopped, _mean(reached, rng), _mean(common, rng)))
    return found


def _mean(values: Sequence[float], rng: np.random.Generator) -> Interval | None:
    if not values:
        return None
    if len(values) < LEAST_FOR_INTERVAL:
        return Interval(float(np.mean(values)), None, None, len(values))
    return mean_interval(np.array(values), rng)


def to_json(table: SweepTable, space: Mapping[str, Any]) -> str:
    """sweep.json; `space` as the settings have it."""
    best = table.best
    content = {
        "dataset": table.dataset,
        "split": "val",
        "measure": "chamfer, squared, mean over points, both directions added, x100; the least validation of a run",
        "num_points": table.num_points,
        "num_targets": table.num_targets,
        "epochs": table.epochs,
        "num_steps": table.num_steps,
        "seed": table.seed,
        "space": space,
        "paper": {name: PAPER[name] for name in table.space if name in PAPER},
        "best": {"trial": best.trial.name, "values": best.trial.values, "mean_x100": best.mean},
        "finalists": [
            {
                "trial": each.trial.name,
                "values": each.trial.values,
                "chamfers_x100": each.chamfers_x100,
                "mean_x100": each.mean,
                "mean_of_further_seeds_x100": each.further,
            }
            for each in table.finalists
        ],
        "trials": [asdict(trial) | {"chamfer_x100": trial.chamfer_x100} for trial in (*table.trials, *table.repeats)],
    }
    return json.dumps(content, indent=1) + "\n"


def to_csv(table: SweepTable) -> str:
    """One line a trial, repeats included."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "repeats", "seed", *table.space, "state", "epochs", "chamfer_x100", "tries", "reason"])
    for trial in (*table.trials, *table.repeats):
        values = [trial.values[name] for name in table.space]
        shown = [trial.state, epochs_of(trial), trial.chamfer_x100, trial.tries, trial.reason]
        writer.writerow([trial.name, trial.repeats, trial.seed, *values, *shown])
    return text.getvalue()


def to_markdown(table: SweepTable) -> str:
    """The tables that `jr-dist sweep` prints."""
    names = [short_name(name) for name in table.space]
    trials = [
        [trial.name, *[number(trial.values[name]) for name in table.space], _chamfer(trial), outcome(trial)]
        for trial in ranked(table)
    ]
    finalists = [
        [
            each.trial.name,
            *[number(each.trial.values[name]) for name in table.space],
            f"{each.mean:.4f}",
            "" if each.further is None else f"{each.further:.4f}",
            f"{min(each.chamfers_x100):.4f} to {max(each.chamfers_x100):.4f}",
            str(len(each.chamfers_x100)),
        ]
        for each in table.finalists
    ]
    parts = [
        statement(table),
        "Trials of the search, the best first:",
        _grid(["trial", *names, "chamfer ×100", "outcome"], trials),
        "The best, repeated with further seeds; the best mean wins:",
        _grid(["trial", *names, "mean", "further seeds alone", "range", "seeds"], finalists),
        "By setting, over the trials of the search; stopped ones with what they had by then:",
        _grid(
            ["setting", "value", "trials", "stopped", "chamfer ×100", f"at epoch {table.common_epoch:g}, all"],
            [
                [
                    *(short_name(name), each.label, str(each.reached.n if each.reached else 0), str(each.num_stopped)),
                    *(_interval(each.reached), _interval(each.common)),
                ]
                for name in table.space
                for each in bins(table, name)
            ],
        ),
        headline(table),
    ]
    return "\n\n".join(parts) + "\n"


def headline(table: SweepTable) -> str:
    """The winner, in a sentence."""
    best = table.best
    values = ", ".join(f"{short_name(name)} {number(value)}" for name, value in best.trial.values.items())
    count = len(best.chamfers_x100)
    return (
        f"Best of {len(table.trials)} trials: {best.trial.name} ({values}), chamfer ×100 {best.mean:.4f}, the mean of "
        f"{count} seed{'s' * (count > 1)}."
    )


def ranked(table: SweepTable) -> list[Trial]:
    """The trials of the search: trained to the end, the best first; then those that were stopped, then the rest."""
    order = ("complete", "stopped", "begun", "failed")

    def rank(trial: Trial) -> tuple[int, float]:
        return order.index(trial.state), float("inf") if trial.chamfer_x100 is None else trial.chamfer_x100

    return sorted(table.trials, key=rank)


def statement(table: SweepTable) -> str:
    """What was measured, in two sentences."""
    paper = ", ".join(f"{short_name(name)} {number(PAPER[name])}" for name in table.space if name in PAPER)
    return (
        f"Chamfer ×100 (squared, mean over points, both directions added) of the retrieved and deformed source on "
        f"{table.num_targets} validation targets of {table.dataset}, {table.num_points} points; the least of a run's "
        f"validations, {table.epochs} epochs, {table.num_steps} steps."
        + (f" The paper's values: {paper}." if paper else "")
    )


def outcome(trial: Trial) -> str:
    """How a trial ended, in words."""
    if trial.state == "failed":
        return f"failed: {trial.reason}"
    if trial.state == "stopped":
        return f"stopped by ASHA at epoch {epochs_of(trial):g}"
    return trial.state


def epochs_of(trial: Trial) -> float:
    """Epochs up to a trial's last validation."""
    return trial.validations[-1][0] if trial.validations else 0.0


def short_name(name: str) -> str:
    """`retrieval.sigma0` as `sigma0`, and K by its letter."""
    return "K" if name == "retrieval.num_candidates" else name.partition(".")[2]


def number(value: Any) -> str:
    """A value as a table shows it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _parts(domain: Domain) -> list[tuple[str, Any, Any, Any]]:
    """(label, low, high, whether a value lies inside)."""
    if isinstance(domain, Choice):
        return [(number(value), value, value, lambda own, value=value: _same(own, value)) for value in domain.values]
    scale, back = (np.log, np.exp) if domain.log else (float, float)
    edges = [float(back(edge)) for edge in np.linspace(scale(domain.low), scale(domain.high), NUM_BINS + 1)]
    edges[0], edges[-1] = float(domain.low), float(domain.high)
    top = edges[-1]
    return [
        (
            f"{number(low)} to {number(high)}",
            low,
            high,
            lambda own, low=low, high=high: low <= own < high or own == high == top,
        )
        for low, high in pairwise(edges)
    ]


def _same(own: Any, value: Any) -> bool:
    return (list(own) if isinstance(own, tuple) else own) == (list(value) if isinstance(value, tuple) else value)


def _chamfer(trial: Trial) -> str:
    return "" if trial.chamfer_x100 is None else f"{trial.chamfer_x100:.4f}"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.low is None:
        return f"{interval.mean:.3f}"
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
