"""Search settings, repeat the best, say which won: what `jr-dist sweep` does.

Trials are ordinary runs that differ in the settings of `sweep.space` alone. run.path/trials.jsonl records them; all
else is made from it, and from it an interrupted sweep goes on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from jr_dist.atomic import atomic_write
from jr_dist.cluster import connect, is_own_cluster
from jr_dist.config import Config, flatten, load_config
from jr_dist.data.dataset import count_rows, open_dataset
from jr_dist.errors import InputError
from jr_dist.evaluate.sweep_report import sweep_page
from jr_dist.evaluate.sweep_table import (
    Finalist,
    SweepTable,
    epochs_of,
    number,
    short_name,
    to_csv,
    to_json,
    to_markdown,
)
from jr_dist.locations import local_path
from jr_dist.log import say
from jr_dist.placement import Ask, Node, of_trial, on_gpus, sets_at_once
from jr_dist.progress import Progress, progress
from jr_dist.train.checks import check, with_absolute_paths
from jr_dist.train.run_directory import CONFIG, has_checkpoint, write_settings
from jr_dist.train.schedule import make_schedule
from jr_dist.train.sweep_space import Space, read_space, size
from jr_dist.train.trials import RECORD, Record, Trial, finalists, grace_epochs, means, repeat_trials, trial_config

#: what may differ when a sweep goes on: how much is done and where, not what its trials are
_FREE = (
    *("sweep.trials", "sweep.finalists", "sweep.repeats", "sweep.retries", "sweep.side_by_side"),
    *("run.", "cluster.", "evaluate.", "compare.", "train.device", "train.checkpoint_every"),
    *("bank.num_shards", "labels.num_workers"),
)


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do."""

    config: Config  # with absolute paths
    space: Space
    record: Record
    num_trials: int  # of the search: fewer than asked for where the space holds fewer
    num_steps: int  # of a trial

    @property
    def num_repeats(self) -> int:
        """Further runs of the best."""
        return min(self.config.sweep.finalists, self.num_trials) * self.config.sweep.repeats

    @property
    def grace(self) -> float:
        """Epochs before which no trial is stopped."""
        return grace_epochs(self.config)


def plan_sweep(config: Config) -> SweepPlan:
    """What `sweep` would do, checked: every setting and choice as `train` would check it.

    Raises `InputError` for a space or a value that is refused, and where run.path holds something else.
    """
    config = with_absolute_paths(config)
    path = local_path(config.run.path, "run.path of a sweep")
    space = read_space(config)
    first = {name: domain.ends[0] for name, domain in space.items()}
    for name, domain in space.items():
        for value in domain.ends:
            check(trial_config(config, Trial("check", {**first, name: value}, config.train.seed)))
    if has_checkpoint(path):
        raise InputError(f"run.path {path} holds a trained run; allowed is a sweep's own directory; name another")
    record = Record.read(path / RECORD)
    if (path / CONFIG).is_file() and record.searched:
        _check_same(config, path / CONFIG)
    num_targets = count_rows(open_dataset(config.data.path), "train", config.data.categories)
    num_steps = make_schedule(config.train, num_targets, max(config.train.num_workers, 1)).num_steps
    return SweepPlan(config, space, record, int(min(config.sweep.trials, size(space))), num_steps)


def sweep(config: Config) -> SweepTable:
    """Try the configurations, repeat the best with further seeds, and leave the winner as run.path/best.yaml.

    Interrupted and started again, it goes on: what was trained is not trained again. Raises RuntimeError where no trial
    was trained to its end.
    """
    plan = plan_sweep(config)
    config, record = plan.config, plan.record
    write_settings(config)
    from jr_dist.train.sweep import Search, run_trials  # Ray Tune and Optuna are not needed to plan

    with connect(config.cluster, log_to_driver="JR_DEBUG" in os.environ):
        asks, at_once = _resources(plan)
        total = (plan.num_trials + plan.num_repeats) * config.train.epochs
        with progress("sweep", total, done=_epochs_done(record, config), unit="epoch") as state:
            watch = _teller(plan, state)
            waiting = [_again(trial) for trial in record.searched if trial.state in ("begun", "failed")]
            search = Search(plan.space, plan.num_trials)
            run_trials(config, record, waiting, asks, at_once=at_once, search=search, watch=watch)
            chosen = finalists(record, config.sweep.finalists)
            repeats = [_known(record, trial) for trial in repeat_trials(chosen, config.sweep.repeats)]
            repeats = [_again(trial) for trial in repeats if trial.state != "complete"]
            run_trials(config, record, repeats, asks, at_once=at_once, watch=watch)
    if not chosen:
        reasons = "; ".join(sorted({trial.reason for trial in record.searched if trial.reason}))
        raise RuntimeError(
            f"none of {len(record.searched)} trials was trained to its end ({reasons}); mend the cause and start the "
            "sweep again, which tries them again"
        )
    table = sweep_table(plan)
    _write(plan, table)
    return table


def sweep_table(plan: SweepPlan) -> SweepTable:
    """The sweep as its record has it now; at least one trial is complete."""
    config, record = plan.config, plan.record
    chosen = finalists(record, config.sweep.finalists)
    dataset = open_dataset(config.data.path)
    return SweepTable(
        dataset=config.data.path,
        num_targets=count_rows(dataset, "val", config.data.categories),
        num_points=config.data.num_points,
        epochs=config.train.epochs,
        num_steps=plan.num_steps,
        grace=plan.grace,
        seed=config.sweep.seed,
        space=plan.space,
        trials=tuple(record.searched),
        repeats=tuple(trial for trial in record if trial.repeats is not None),
        finalists=tuple(Finalist(trial, tuple(values)) for trial, values in means(record, chosen)),
    )


def describe_plan(plan: SweepPlan) -> str:
    """What a dry run says. With a cluster elsewhere it is asked what it has."""
    config, settings = plan.config, plan.config.sweep
    lines = [f"{name:26} {domain}" for name, domain in plan.space.items()]
    count = size(plan.space)
    fewer = f", all that there are of {settings.trials} asked for" if plan.num_trials < settings.trials else ""
    done = sum(trial.state in ("complete", "stopped") for trial in plan.record.searched)
    stops = (
        f"after {plan.grace:g} epochs, 1 in {settings.reduction:g} goes on"
        if plan.grace < config.train.epochs
        else f"never: the first {plan.grace:g} epochs are all of them"
    )
    own = is_own_cluster(config.cluster)
    with nullcontext() if own else connect(config.cluster):
        nodes = [_this_machine(config)] if own else _nodes()
        asks, at_once, why = _fit(plan, nodes)
    return "\n".join(
        [
            *lines,
            f"configurations             {'without number' if math.isinf(count) else f'{count:g}'}",
            f"trials                     {plan.num_trials}{fewer}; {done} of them done",
            f"a trial                    {config.train.epochs} epochs, {plan.num_steps} steps; stopped early {stops}",
            f"repeated                   the best {min(settings.finalists, plan.num_trials)}, "
            f"{settings.repeats} further seeds each",
            f"a trial asks for           {_added(asks)}",
            f"at the same time           {at_once}: {why}",
            f"would write trials.jsonl, best.yaml, sweep.json, sweep.md, sweep.csv, report.html to {config.run.path}",
        ]
    )


def _resources(plan: SweepPlan) -> tuple[tuple[Ask, ...], int]:
    asks, at_once, why = _fit(plan, _nodes())
    if not at_once:
        raise InputError(
            f"a trial asks for {_added(asks)}, train.num_workers {plan.config.train.num_workers} and "
            f"bank.num_shards {plan.config.bank.num_shards}; allowed is what the cluster has: {why}; lower them, or "
            "add machines"
        )
    say(f"sweep: {plan.num_trials} trials and {plan.num_repeats} repeats, {at_once} at a time: {why}")
    return asks, at_once


def _fit(plan: SweepPlan, nodes: Sequence[Node]) -> tuple[tuple[Ask, ...], int, str]:
    """What each process of a trial asks for, how many trials fit, and why no more."""
    config = plan.config
    asks = of_trial(config, gpus=on_gpus(config.train.device, nodes))
    most = min(config.sweep.side_by_side or plan.num_trials, plan.num_trials)
    at_once = sets_at_once(nodes, asks, most)
    has = f"{len(nodes)} machine{'s' * (len(nodes) > 1)} of " + ", ".join(sorted({str(node) for node in nodes}))
    if at_once < most:
        return asks, at_once, f"{has}, {_added(asks)} a trial"
    limit = "sweep.side_by_side" if config.sweep.side_by_side == most else "the number of trials"
    return asks, at_once, f"{limit}; {has} would hold {sets_at_once(nodes, asks, 10_000)}"


def _nodes() -> tuple[Node, ...]:
    from jr_dist.cluster_room import cluster_nodes  # Ray is not needed to plan

    return cluster_nodes()


def _this_machine(config: Config) -> Node:
    import torch

    from jr_dist.cluster import own_cpus

    return Node(float(own_cpus(config.cluster)), float(torch.cuda.device_count()))


def _added(asks: Sequence[Ask]) -> str:
    total = Node(sum(ask.count * ask.cpus for ask in asks), sum(ask.count * ask.gpus for ask in asks))
    count = sum(ask.count for ask in asks)
    return f"{total} in {count} process{'es' * (count > 1)}"


def _check_same(config: Config, path: Path) -> None:
    """Raise `InputError` where the trials that are recorded were of other settings."""
    then, now = flatten(load_config(path)), flatten(config)
    for name, value in now.items():
        if then[name] != value and not name.startswith(_FREE):
            raise InputError(
                f"run.path {config.run.path} holds a sweep with {name} {then[name]}, now it is {value}; allowed is the "
                "same, or its trials could not be compared; set it back or name a new run.path"
            )


def _again(trial: Trial) -> Trial:
    """A trial that was interrupted, or failed, to be gone on with."""
    return replace(trial, state="begun", reason="")


def _known(record: Record, trial: Trial) -> Trial:
    return next((each for each in record if each.name == trial.name), trial)


def _epochs_done(record: Record, config: Config) -> int:
    """Epochs that need not be trained any more: those that ASHA spared are among them."""
    ended = ("complete", "stopped", "failed")
    epochs = [config.train.epochs if trial.state in ended else epochs_of(trial) for trial in record]
    return int(sum(min(each, config.train.epochs) for each in epochs))


def _teller(plan: SweepPlan, state: Progress) -> Callable[[Trial], None]:
    """Moves the progress, and says a line of each trial that has ended or is started again."""
    record, told = plan.record, {trial.name: (trial.state, trial.tries) for trial in plan.record}

    def tell(trial: Trial) -> None:
        ended = [each for each in record if each.state != "begun"]
        best = min((each.chamfer_x100 for each in ended if each.chamfer_x100 is not None), default=math.nan)
        count = _epochs_done(record, plan.config) - state.done
        state.advance(count, ended=f"{len(ended)}/{plan.num_trials + plan.num_repeats}", best=best)
        before = told.get(trial.name)
        told[trial.name] = trial.state, trial.tries
        if trial.state != "begun" and before != told[trial.name]:
            values = " ".join(f"{short_name(name)} {number(value)}" for name, value in trial.values.items())
            chamfer = "" if trial.chamfer_x100 is None else f", chamfer x100 {trial.chamfer_x100:.4f}"
            why = f": {trial.reason}" if trial.reason else ""
            at = f" at epoch {epochs_of(trial):g} of {plan.config.train.epochs}"
            level = "error" if trial.state == "failed" else "info"
            fields = {"event": trial.state, "trial": trial.name, "chamfer_x100": trial.chamfer_x100}
            line = f"sweep: {trial.name} {trial.state}{at}{chamfer} ({values}, seed {trial.seed}){why}"
            say(line, level=level, fields=fields)
        elif before is not None and trial.tries > before[1]:
            line = f"sweep: {trial.name} starts again from its checkpoint, its process died"
            say(line, level="warning", fields={"event": "again", "trial": trial.name, "tries": trial.tries})

    return tell


def _write(plan: SweepPlan, table: SweepTable) -> None:
    path, best = Path(plan.config.run.path), best_config(plan, table.best)
    atomic_write(path / "sweep.json", to_json(table, plan.config.sweep.space))
    atomic_write(path / "sweep.md", to_markdown(table))
    atomic_write(path / "sweep.csv", to_csv(table))
    atomic_write(path / "report.html", sweep_page(table, best))
    atomic_write(path / "best.yaml", best)


def best_config(plan: SweepPlan, best: Finalist) -> str:
    """The winner's settings as `jr-dist train` takes them, into a new run directory: run.path/best."""
    config = trial_config(plan.config, best.trial)
    tree: dict[str, Any] = config.model_dump(mode="json", exclude={"sweep"})
    tree["run"] = {"path": f"{plan.config.run.path}/best"}
    seeds = len(best.chamfers_x100)
    head = f"# Trial {best.trial.name} of a sweep: mean validation chamfer x100 {best.mean:.4f} of {seeds} seeds.\n"
    return head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
