"""Ray Tune around `train`: several trials at a time, proposed by Optuna's TPE, stopped early by ASHA, started again.

Tune's own files, which are pickles, are never read: a sweep goes on from its `Record`. From there the searcher is told
the earlier points, ASHA the earlier validations, and a trial that was begun goes on from its own checkpoint.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from jr_dist.config import Config
from jr_dist.data.dataset import count_rows, open_dataset
from jr_dist.placement import Ask
from jr_dist.train.left_behind import free_left_behind
from jr_dist.train.recovery import failure_of
from jr_dist.train.schedule import Schedule, make_schedule
from jr_dist.train.sweep_space import Choice, Domain, Space, key, untried
from jr_dist.train.trainer import threads_of_a_worker, train
from jr_dist.train.trials import Record, Trial, grace_epochs, new_trial, trial_config

METRIC, EPOCH = "best_validation_x100", "epoch"
#: what Tune would do unless told otherwise: write logs of its own, and go on after Ctrl-C as if nothing had been
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
#: proposals like an earlier one before a finite space is looked through
_MOST_ALIKE = 20
_SECONDS_BETWEEN = 2.0  # two looks for what killed trials have left reserved

# (trial as the record has it now), called when one begins, is validated, is started again or ends
Watch = Callable[[Trial], None]


@dataclass(frozen=True)
class Search:
    """What new trials are drawn from, and how many the search has in all."""

    space: Space
    num_trials: int


def run_trials(
    config: Config,
    record: Record,
    waiting: Sequence[Trial],
    asks: Sequence[Ask],
    *,
    at_once: int,
    search: Search | None = None,
    watch: Watch = lambda _: None,
) -> None:
    """Train the trials of `waiting`, then those that `search` proposes, `at_once` at a time; `record` tells what came.

    With `search`, ASHA stops the worse ones early. `asks`: what the processes of a trial ask for, its own first.
    Ray must be connected. A trial whose process dies goes on from its checkpoint, `sweep.retries` times at the most;
    one that fails leaves the others alone.
    """
    missing = 0 if search is None else max(0, search.num_trials - len(record.searched))
    if not waiting and not missing:
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    searcher = _Searcher(config, record, waiting, search, missing)
    scheduler = FIFOScheduler() if search is None else _asha(config, record)
    folder = Path(config.run.path) / "ray"
    shutil.rmtree(folder, ignore_errors=True)  # what a killed sweep left
    trainable = tune.with_resources(
        tune.with_parameters(_train, settings=config.model_dump(mode="json"), at_once=at_once),
        {"CPU": asks[0].cpus, "GPU": asks[0].gpus},
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=len(waiting) + missing,
            max_concurrent_trials=at_once,
            # Starting a process costs more than a small trial. A driver of Ray Train can't be made to stop, but killed.
            reuse_actors=config.train.num_workers == 0,
            trial_dirname_creator=lambda trial: trial.config["name"],
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=config.sweep.retries),
            callbacks=[_Noter(record, watch)],
            verbose=0,
        ),
    )
    if "JR_DEBUG" not in os.environ:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # `watch` says in a line what failed
    tuner.fit()
    shutil.rmtree(folder, ignore_errors=True)


def _train(told: dict[str, Any], *, settings: dict[str, Any], at_once: int) -> None:
    """What a trial's own process runs: `train`, here or as the driver of Ray Train's workers."""
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"  # a trial that was stopped writes its report first
    config = trial_config(Config.model_validate(settings), Trial(**told))
    try:
        schedule = _schedule(config)
        report: Callable[[dict[str, Any]], None] = tune.report
        if config.train.num_workers == 0:
            torch.set_num_threads(threads_of_a_worker(ray.cluster_resources().get("CPU", 1), 1, at_once))
        else:
            report = _FromController(TuneReportCallback())
        result = train(config, side_by_side=at_once, report=_InEpochs(report, schedule))
        # A trial that was killed between its end and the record of it has nothing to validate any more.
        _InEpochs(tune.report, schedule)({**result.metrics, "step": schedule.num_steps})
    except Exception as error:
        failure = failure_of(error, 0)
        if failure.kind != "repeatable":
            raise  # Tune starts it again
        tune.report({METRIC: math.nan, "failed": failure.line})


@dataclass(frozen=True)
class _InEpochs:
    """A report by epochs: trials of other batch sizes have other steps."""

    report: Callable[[dict[str, Any]], None]
    schedule: Schedule

    def __call__(self, metrics: dict[str, Any]) -> None:
        step = metrics["step"]
        self.report(
            {
                METRIC: metrics[METRIC],
                "step": step,
                EPOCH: step / self.schedule.steps_per_epoch,
                "last": step >= self.schedule.num_steps,
            }
        )


@dataclass(frozen=True)
class _FromController:
    """To the trial's process from Ray Train's controller, which is another one."""

    callback: TuneReportCallback

    def __call__(self, metrics: dict[str, Any]) -> None:
        self.callback.after_report(None, [metrics], None)  # type: ignore[arg-type]


class _Searcher(Searcher):
    """First the trials that wait, then what Optuna proposes, which it is told of all that ended before."""

    def __init__(
        self, config: Config, record: Record, waiting: Sequence[Trial], search: Search | None, missing: int
    ) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._record, self._waiting, self._missing, self._seed = record, list(waiting), missing, config.train.seed
        self._running: dict[str, Trial] = {}  # by Tune's name for it
        self._proposed: dict[str, str] = {}  # by a trial's name, Optuna's for what it proposed and waits to hear of
        # Begun again with the same numbers, the first proposals would be those of the beginning.
        self._rng = np.random.default_rng([config.sweep.seed, len(record.searched)])
        self._space = {} if search is None else search.space
        self._optuna = None if search is None else _optuna(search, int(self._rng.integers(2**31)))
        for trial in record.searched:
            if trial.state in ("complete", "stopped"):
                self._tell(trial, trial.chamfer_x100)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial, as `_train` takes it; `FINISHED` where there is none."""
        trial = self._waiting.pop(0) if self._waiting else self._propose()
        if trial is None:
            return Searcher.FINISHED
        self._running[trial_id] = trial
        self._record.note(trial)
        return {"name": trial.name, "values": trial.values, "seed": trial.seed}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """What came of it; a trial that failed says nothing of its values."""
        value = math.nan if error or not result else result[METRIC]
        self._tell(self._running.pop(trial_id), value if math.isfinite(value) else None)

    def _propose(self) -> Trial | None:
        """What Optuna proposes and was not tried yet; None where enough or all were."""
        if self._optuna is None or not self._missing:
            return None
        self._missing -= 1
        tried = {key(trial.values) for trial in self._record.searched}
        for attempt in range(_MOST_ALIKE):
            proposal = f"{len(tried)}-{attempt}"
            trial = new_trial(self._record, _values(self._space, self._optuna.suggest(proposal) or {}), self._seed)
            if key(trial.values) not in tried:
                self._proposed[trial.name] = proposal
                return trial
            self._optuna.on_trial_complete(proposal, error=True)
        values = untried(self._space, tried, self._rng)
        return None if values is None else new_trial(self._record, values, self._seed)

    def _tell(self, trial: Trial, value: float | None) -> None:
        if self._optuna is None:
            return
        proposal = self._proposed.pop(trial.name, None)
        if proposal is not None:
            self._optuna.on_trial_complete(proposal, None if value is None else {METRIC: value}, error=value is None)
        elif value is not None:
            self._optuna.add_evaluated_point(_points(self._space, trial.values), value)

    def save(self, checkpoint_path: str) -> None:
        """Tune would keep a pickle; the record is enough."""

    def restore(self, checkpoint_path: str) -> None:
        """Never asked for, as nothing is saved."""


def _optuna(search: Search, seed: int) -> OptunaSearch:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.logging import WARNING, set_verbosity
    from optuna.samplers import TPESampler

    def distribution(domain: Domain) -> Any:
        if isinstance(domain, Choice):
            return CategoricalDistribution(range(len(domain.values)))
        if domain.whole:
            return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
        return FloatDistribution(domain.low, domain.high, log=domain.log)

    set_verbosity(WARNING)
    # A third is drawn at random, ten at most, before TPE has something to go by.
    sampler = TPESampler(seed=seed, n_startup_trials=min(10, max(3, search.num_trials // 3)))
    space = {name: distribution(domain) for name, domain in search.space.items()}
    return OptunaSearch(space, metric=METRIC, mode="min", sampler=sampler)


def _values(space: Space, points: Mapping[str, Any]) -> dict[str, Any]:
    """Values of settings from what Optuna calls them: of a choice, its place."""
    return {
        name: domain.values[points[name]] if isinstance(domain, Choice) else points[name]
        for name, domain in space.items()
    }


def _points(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna calls the values of settings."""
    return {
        name: [key({"": each}) for each in domain.values].index(key({"": values[name]}))
        if isinstance(domain, Choice)
        else values[name]
        for name, domain in space.items()
    }


class _Asha(ASHAScheduler):
    """ASHA that knows what was validated before the sweep was interrupted, and lets a trial's end be."""

    def __init__(self, record: Record, **how: Any) -> None:
        super().__init__(time_attr=EPOCH, metric=METRIC, mode="min", **how)
        self._record = record
        for trial in record.searched:
            if trial.state != "begun":
                stand_in: Any = SimpleNamespace(trial_id=trial.name, config={"name": trial.name})
                self.on_trial_add(None, stand_in)  # type: ignore[arg-type]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """The trial's earlier validations, where it goes on, stand in the rungs that it has passed."""
        super().on_trial_add(tune_controller, trial)
        name = trial.config["name"]
        for epoch, value in self._record[name].validations:
            super().on_trial_result(tune_controller, trial, {EPOCH: epoch, METRIC: value})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        if result.get("last", True):  # or it failed
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)


def _asha(config: Config, record: Record) -> TrialScheduler:
    grace, epochs = grace_epochs(config), config.train.epochs
    if grace >= epochs:
        return FIFOScheduler()
    how = {"max_t": epochs, "grace_period": grace, "reduction_factor": config.sweep.reduction}
    return _Asha(record, **how, stop_last_trials=False)


class _Noter(tune.Callback):
    """Keeps the record, in the one process that writes it."""

    def __init__(self, record: Record, watch: Watch) -> None:
        self._record, self._watch, self._freed = record, watch, time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks; nothing reads that again

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        if now - self._freed > _SECONDS_BETWEEN:
            self._freed = now
            free_left_behind()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._watch(self._record[trial.config["name"]])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        name = trial.config["name"]
        if "failed" in result:
            self._watch(self._record.change(name, state="failed", reason=result["failed"]))
            return
        known = [each for each in self._record[name].validations if each[0] < result[EPOCH]]
        validations = (*known, (result[EPOCH], result[METRIC]))
        self._watch(self._record.change(name, validations=validations, ended=result["last"]))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = trial.config["name"]
        self._watch(self._record.change(name, tries=self._record[name].tries + 1))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known = self._record[trial.config["name"]]
        if known.state == "begun":
            self._watch(self._record.change(known.name, state="complete" if known.ended else "stopped"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = trial.config["name"]
        self._watch(self._record.change(name, state="failed", reason=_reason(trial)))


def _reason(trial: Any) -> str:
    """The last line of what Tune wrote down of an error."""
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "its process died"


def _schedule(config: Config) -> Schedule:
    num_targets = count_rows(open_dataset(config.data.path), "train", config.data.categories)
    return make_schedule(config.train, num_targets, max(config.train.num_workers, 1))
