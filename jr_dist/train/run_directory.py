"""Where a run keeps what, and where a new start of it goes on from."""

from __future__ import annotations

import json
from pathlib import Path

from jr_dist.atomic import atomic_write
from jr_dist.config import Config
from jr_dist.errors import InputError

METRICS = "metrics.jsonl"
CONFIG = "config.yaml"
BEST = "best"
LAST = "last"


def checkpoint_path(run: str | Path, which: str) -> Path:
    """The checkpoint `best` or `last` of a run directory."""
    return Path(run) / "checkpoints" / which


def has_checkpoint(run: str | Path, which: str = LAST) -> bool:
    """Whether the run has a finished checkpoint of that name."""
    return (checkpoint_path(run, which) / "manifest.json").is_file()


def start_point(config: Config) -> Path | None:
    """The checkpoint that this start goes on from, by `run.resume`: auto, never or a run's path; None = from scratch.

    Raises `InputError` where `never` would overwrite a run, or the path named holds no checkpoint.
    """
    run, resume = Path(config.run.path), config.run.resume
    if resume == "auto":
        return checkpoint_path(run, LAST) if has_checkpoint(run) else None
    if has_checkpoint(run):
        raise InputError(
            f"run.path {run} holds a trained run already and run.resume is {resume}; allowed is a new directory, or "
            "run.resume auto to go on; name another or remove it"
        )
    if resume == "never":
        return None
    for candidate in (checkpoint_path(resume, LAST), Path(resume)):
        if (candidate / "manifest.json").is_file():
            return candidate
    raise InputError(
        f"run.resume {resume} holds no checkpoint; allowed is auto, never, or a run directory; name a trained run"
    )


def prepare(config: Config) -> Path:
    """Make the run directory and write the resolved settings. Raises `InputError` where it can't be written."""
    run = Path(config.run.path)
    try:
        run.mkdir(parents=True, exist_ok=True)
        atomic_write(run / CONFIG, config.to_yaml())
    except OSError as error:
        raise InputError(f"run.path {run} can't be written ({error.strerror}); name a directory that can") from None
    return run


def keep_metrics_until(run: Path, step: int) -> None:
    """Drop the lines behind `step` that an interrupted run had logged after its last checkpoint."""
    path = run / METRICS
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the line being written when the process was killed
    atomic_write(path, "".join(line + "\n" for line in kept))
