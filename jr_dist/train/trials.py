"""The trials of a sweep and their record: one file of plain lines, which is all that a sweep goes on from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jr_dist.atomic import atomic_write
from jr_dist.config import Config
from jr_dist.errors import InputError
from jr_dist.train.sweep_space import with_values

RECORD = "trials.jsonl"
TRIALS = "trials"

#: begun = to be gone on with; complete = trained to its end; stopped = by ASHA, as others were better by then
State = Literal["begun", "complete", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """One configuration trained with one seed."""

    name: str  # of its folder
    values: dict[str, Any]  # of the settings that are searched
    seed: int
    repeats: str | None = None  # the trial of the search whose configuration this one repeats
    state: State = "begun"
    validations: tuple[tuple[float, float], ...] = ()  # (epochs done, least chamfer x100 so far)
    ended: bool = False  # the last of them was the last of the run
    tries: int = 1  # 1 + the times that it was started again because its process died
    reason: str = ""  # why it failed

    @property
    def chamfer_x100(self) -> float | None:
        """The least validation chamfer so far: of the weights that the run keeps as its best. None before the first."""
        return self.validations[-1][1] if self.validations else None


class Record:
    """All trials of a sweep, in the order in which they began; every change is written at once, whole."""

    def __init__(self, path: Path, trials: Iterable[Trial] = ()) -> None:
        self.path = path
        self._trials = {trial.name: trial for trial in trials}

    @staticmethod
    def read(path: Path) -> Record:
        """What a sweep has left at `path`; empty where there is nothing. Raises `InputError` where it is damaged."""
        if not path.is_file():
            return Record(path)
        try:
            return Record(path, [_trial(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path} is no record of a sweep ({error}); allowed is what `jr-dist sweep` wrote; restore it, or name "
                "a new run.path"
            ) from None

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials.values())

    def __getitem__(self, name: str) -> Trial:
        return self._trials[name]

    def note(self, trial: Trial) -> None:
        """Add a trial, or replace what was known of it."""
        self._trials[trial.name] = trial
        atomic_write(self.path, "".join(json.dumps(asdict(each)) + "\n" for each in self))

    def change(self, name: str, **changes: Any) -> Trial:
        """Note that something of a trial has changed."""
        changed = replace(self[name], **changes)
        self.note(changed)
        return changed

    @property
    def searched(self) -> list[Trial]:
        """The trials of the search."""
        return [trial for trial in self if trial.repeats is None]


def _trial(fields: Mapping[str, Any]) -> Trial:
    validations = tuple((float(epochs), float(value)) for epochs, value in fields["validations"])
    return Trial(**{**fields, "validations": validations})


def trial_config(config: Config, trial: Trial) -> Config:
    """What `train` is given for a trial; its run directory is run.path/trials/NAME."""
    own = {"train.seed": trial.seed, "run.path": f"{config.run.path}/{TRIALS}/{trial.name}"}
    return with_values(config, {**trial.values, **own, "run.resume": "auto"})


def new_trial(record: Record, values: Mapping[str, Any], seed: int) -> Trial:
    """The next trial of the search."""
    return Trial(f"{len(record.searched):03d}", dict(values), seed)


def finalists(record: Record, count: int) -> list[Trial]:
    """The best of the search that were trained to their end, the best first: early stops can't be compared."""
    ended = [trial for trial in record.searched if trial.state == "complete"]
    return sorted(ended, key=lambda trial: (_value(trial), trial.name))[:count]


def repeat_trials(chosen: Iterable[Trial], repeats: int) -> list[Trial]:
    """Each configuration again with `repeats` further seeds."""
    return [
        Trial(f"{trial.name}-seed-{seed}", trial.values, seed, repeats=trial.name)
        for trial in chosen
        for seed in range(trial.seed + 1, trial.seed + 1 + repeats)
    ]


def means(record: Record, chosen: Iterable[Trial]) -> list[tuple[Trial, list[float]]]:
    """Each finalist with its chamfers over all seeds, the seed of the search first; the best mean first.

    Seeds that failed are left out; of finalists with the same mean the earlier comes first.
    """
    found = []
    for trial in chosen:
        again = [each for each in record if each.repeats == trial.name and each.state == "complete"]
        found.append((trial, [_value(each) for each in (trial, *again)]))
    return sorted(found, key=lambda pair: (float(np.mean(pair[1])), pair[0].name))


def grace_epochs(config: Config) -> int:
    """Epochs before which ASHA stops nothing: in the warm-up candidates are uniform, whatever sigma_0 is."""
    return config.sweep.grace_epochs or config.train.warmup_epochs + config.train.validate_every


def _value(trial: Trial) -> float:
    assert trial.chamfer_x100 is not None, "a complete trial was validated at its end"
    return trial.chamfer_x100
