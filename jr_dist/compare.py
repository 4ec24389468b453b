"""Every method of the paper trained and measured under one budget: what `jr-dist compare` does.

Runs differ in method, seed and, where asked for, category alone. Those that need a teacher (dar, fit_aware) wait for
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from jr_dist.config import Config
from jr_dist.data.dataset import check_categories, count_rows, open_dataset
from jr_dist.errors import InputError
from jr_dist.evaluate.protocol import check_output, evaluate
from jr_dist.evaluate.tables import Tables
from jr_dist.evaluate.views import check_all_protocols, check_suits, open_views
from jr_dist.locations import AnyPath, as_path
from jr_dist.log import say
from jr_dist.train.checkpoint import saved_step
from jr_dist.train.checks import check, with_absolute_paths
from jr_dist.train.journal import training_minutes
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.schedule import make_schedule

EVALUATION = "evaluation"
LETTER = "letter"
#: sections 2.1 and 2.2 to the letter, where training goes (configs/paper.yaml); sizes and budget stay the config's
PAPERS_LETTER = {
    "retrieval": {"sigma0": 100.0, "loss": "l1", "fit_scale": "learned"},
    "train": {
        "alternate": True,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "constant",
    },
}


@dataclass(frozen=True)
class PlannedRun:
    """One training of a comparison."""

    name: str  # of its folder
    title: str
    config: Config
    num_steps: int

    @property
    def path(self) -> AnyPath:
        """Its run directory."""
        return as_path(self.config.run.path)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return saved_step(self.path) >= self.num_steps

    def budget(self) -> dict[str, int]:
        """Updates of each module, and the pairs that are deformed in all."""
        settings, method = self.config.train, METHODS[self.config.train.method]
        turns = 2 if settings.alternate else 1
        pairs = settings.batch_size * max(settings.num_workers, 1) * self.config.retrieval.num_candidates
        deformation = -(-self.num_steps // turns) if method.trains_deformation else 0
        retrieval = self.num_steps // turns if method.trains_retrieval else 0
        return {"deformation": deformation, "pairs": deformation * pairs, "retrieval": retrieval}


def plan_comparison(config: Config) -> list[PlannedRun]:
    """The runs of a comparison, teachers before their pupils.

    Raises `InputError` for an unknown method and for what `train` would refuse.
    """
    config = with_absolute_paths(config)
    protocols = check_all_protocols(config.evaluate.protocols)
    check_suits(config.run.path, config.data, protocols)
    dataset = open_dataset(config.data.path)
    chosen = check_categories(dataset, config.data.categories) or dataset.categories
    groups = [(name,) for name in chosen] if config.compare.per_category else [config.data.categories]
    open_views(dataset, config.evaluate.split, chosen, config.data, protocols)  # hours later it would be too late
    seeds = config.compare.seeds
    if len(set(seeds)) < len(seeds):
        raise InputError(
            f"compare.seeds is {', '.join(map(str, seeds))}; allowed is each once; leave out what is there twice"
        )
    runs = []
    for method in _methods(config.compare.methods):
        for group in groups:
            num_targets = count_rows(dataset, "train", group)
            schedule = make_schedule(config.train, num_targets, config.train.num_workers)
            for seed in seeds:
                runs.append(_run(config, method, seed, group, schedule.num_steps))
    return sorted(runs, key=lambda run: run.config.train.teacher is not None)


def compare(config: Config) -> Tables:
    """Train what is not trained yet, `compare.side_by_side` runs at a time, and put all of them into one table.

    Runs go to run.path/NAME, tables and report to run.path/evaluation. Interrupted, it goes on where it stopped. A run
    that fails leaves its rows absent with the reason, and RuntimeError is raised when the tables are written.
    """
    runs = plan_comparison(config)
    config = with_absolute_paths(config)
    out = as_path(config.run.path) / EVALUATION
    check_output(out)
    for run in runs:
        if run.config.train.teacher is None:
            check(run.config)
    failed: dict[str, str] = {}
    for run in _labelling(runs):
        before = METHODS[run.config.train.method].before
        assert before is not None, "it makes the labels"
        before(run.config)  # once, before runs side by side would each begin to
    for wave in (False, True):
        own = [run for run in runs if (run.config.train.teacher is not None) is wave and not run.finished]
        failed |= _train(own, config)
    tables = evaluate(
        [run.path for run in runs],
        split=config.evaluate.split,
        num_points=config.evaluate.num_points,
        out=out,
        protocols=config.evaluate.protocols,
        ido=config.evaluate.ido,
        num_workers=config.evaluate.num_workers,
        num_gpus=config.evaluate.num_gpus,
        device="cuda" if config.evaluate.num_workers and config.evaluate.num_gpus > 0 else "cpu",
        ido_settings=config.ido,
        cluster=config.cluster,
    )
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise RuntimeError(
            f"{len(failed)} of {len(runs)} runs failed, their rows are absent ({reasons}); the tables of the rest are "
            f"in {out}; mend the cause and compare again, which trains these alone"
        )
    return tables


def describe_plan(runs: Sequence[PlannedRun]) -> str:
    """The runs and their budgets, a line each."""
    lines = [f"{'run':36} {'updates of deformation':>22} {'x pairs':>9} {'of retrieval':>12}  state"]
    for run in runs:
        budget = run.budget()
        state = "finished" if run.finished else f"at step {step}" if (step := saved_step(run.path)) else "to train"
        lines.append(
            f"{run.name:36} {budget['deformation']:>22,} {budget['pairs']:>9,} {budget['retrieval']:>12,}  {state}"
        )
    return "\n".join(lines)


def _labelling(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """One unfinished run of each table of labels that is needed."""
    pupils = [run for run in runs if run.config.train.method == "fit_aware" and not run.finished]
    return list({run.config.data.categories: run for run in pupils}.values())


def _methods(names: Sequence[str]) -> list[str]:
    known = (*METHODS, LETTER)
    for name in names:
        if name not in known:
            raise InputError(
                f"compare.methods names {name!r}; allowed are {', '.join(known)}; leave it out or correct it"
            )
    found: list[str] = []
    for name in names:
        teacher = None if name == LETTER else METHODS[name].teacher
        found += [method for method in (teacher, name) if method is not None]
    return list(dict.fromkeys(found))


def _run(config: Config, method: str, seed: int, categories: tuple[str, ...] | None, num_steps: int) -> PlannedRun:
    suffix = f"-{categories[0]}" if config.compare.per_category and categories else ""
    root, name = as_path(config.run.path), f"{method}-{seed}{suffix}"
    trained = "ours" if method == LETTER else method
    teacher = METHODS[trained].teacher
    changes: dict[str, dict[str, Any]] = {"retrieval": {}, "train": {}}
    if method == LETTER:
        changes = {section: dict(values) for section, values in PAPERS_LETTER.items()}
    changes["train"] |= {
        "method": trained,
        "seed": seed,
        "teacher": None if teacher is None else str(root / f"{teacher}-{seed}{suffix}"),
    }
    if method == LETTER:  # its modules take turns: twice the steps make as many updates of each
        changes["train"] |= {
            "epochs": 2 * config.train.epochs,
            "warmup_epochs": 2 * config.train.warmup_epochs,
            "validate_every": 2 * config.train.validate_every,
            "checkpoint_every": 2 * config.train.checkpoint_every,
        }
    tree = config.model_dump()
    for section, values in changes.items():
        tree[section] |= values
    tree["data"]["categories"] = categories
    tree["run"] |= {"path": str(root / name), "resume": "auto"}
    tree["labels"]["path"] = config.labels.path or str(root / f"labels{suffix}")
    title = f"{METHODS[trained].title}{' (letter)' if method == LETTER else ''}, seed {seed}{suffix}"
    try:
        own = Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"run {name} of this comparison: {error.errors()[0]['msg']}") from None
    return PlannedRun(name, title, own, num_steps * own.train.epochs // config.train.epochs)


def _train(runs: Sequence[PlannedRun], config: Config) -> dict[str, str]:
    """Train them; the reasons of those that failed, by name."""
    from jr_dist.train.trainer import train_each  # Ray is not needed to plan

    failed = {}
    results = train_each([run.config for run in runs], at_once=config.compare.side_by_side)
    for count, (number, error) in enumerate(results, start=1):
        run = runs[number]
        minutes = training_minutes(run.path)
        shown = "" if minutes is None else f" in {minutes:.1f} min"
        what = "failed" if error else "trained"
        line = f"compare: {run.title} {what}{shown}, {count} of {len(runs)} in this stage"
        say(line, fields={"event": what, "run": run.name, "minutes": minutes})
        if error is not None:
            failed[run.name] = str(error).splitlines()[0] if str(error) else type(error).__name__
            say(f"compare: {run.name}: {failed[run.name]}", level="error", fields={"event": "failed", "run": run.name})
    return failed
