"""Where a run keeps what, and where a new start of it goes on from: a directory, or objects below a URI.

In a directory a checkpoint is written aside and renamed, and `last` and `best` are links. In an object store, which has
neither, its manifest is written last, and `last` and `best` are objects that hold its name: till they are replaced, the
old checkpoints are what a restart finds.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from jr_dist.atomic import atomic_directory, atomic_write, sync
from jr_dist.config import Config
from jr_dist.errors import InputError
from jr_dist.locations import AnyPath, StoreAwayError, UriPath, as_path, check_access

METRICS = "metrics.jsonl"
CONFIG = "config.yaml"
BEST = "best"
LAST = "last"
STARTS = "starts"


def checkpoint_path(run: str | AnyPath, which: str) -> AnyPath:
    """The checkpoint `best` or `last` of a run, which `resolve` follows to where it lies."""
    return as_path(run) / "checkpoints" / which


def has_checkpoint(run: str | AnyPath, which: str = LAST) -> bool:
    """Whether the run has a checkpoint of that name: one that is damaged is no reason to start afresh over it."""
    path = checkpoint_path(run, which)
    return path.is_file() if isinstance(path, UriPath) else os.path.lexists(path)


def start_point(config: Config) -> AnyPath | None:
    """The checkpoint that this start goes on from, by `run.resume`: auto, never or a run's path; None = from scratch.

    Raises `InputError` where `never` would overwrite a run, or the path named holds no checkpoint.
    """
    run, resume = as_path(config.run.path), config.run.resume
    if resume == "auto":
        return checkpoint_path(run, LAST) if has_checkpoint(run) else None
    if has_checkpoint(run):
        raise InputError(
            f"run.path {run} holds a trained run already and run.resume is {resume}; allowed is a new directory, or "
            "run.resume auto to go on; name another or remove it"
        )
    if resume == "never":
        return None
    for candidate in (checkpoint_path(resume, LAST), as_path(resume)):
        if (candidate.resolve() / "manifest.json").is_file():
            return candidate
    raise InputError(
        f"run.resume {resume} holds no checkpoint; allowed is auto, never, or a run directory; name a trained run"
    )


def prepare(config: Config) -> AnyPath:
    """Make the run directory and those in it. Raises `InputError` where it can't be written."""
    run = as_path(config.run.path)
    if isinstance(run, UriPath):
        check_access(run / STARTS, "run.path")
        return run
    try:
        (run / STARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"run.path {run} can't be written ({error.strerror}); name a directory that can") from None
    return run


def write_settings(config: Config) -> None:
    """Leave the resolved settings in the run, once it is clear that it goes on with them."""
    atomic_write(as_path(config.run.path) / CONFIG, config.to_yaml())


def claim(run: AnyPath, reason: str) -> int:
    """Begin the next start of a run, 1 for the first, and note when, where and why; what an earlier one still writes is
    refused from now on."""
    (run / STARTS).mkdir(parents=True, exist_ok=True)
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    note = {"reason": reason, "time": when, "host": socket.gethostname(), "pid": os.getpid()}
    if isinstance(run, UriPath):
        number = _number_of_ours(run)
        start_note(run, number).write_text(json.dumps(note))
        return number
    while True:
        number = newest_start(run) + 1
        try:
            with open(run / STARTS / _note(number), "x", encoding="utf-8") as file:
                json.dump(note, file)
            return number
        except FileExistsError:  # somebody else's start came between
            continue


def _number_of_ours(run: UriPath) -> int:
    """A number that no other start has, in a store that can't refuse to put an object where there is one.

    Who asks for a number puts an object with it under a name of its own, then looks: where somebody else has asked for
    the same, both withdraw and ask again after a while. Of two, at least the later looks when both objects are there,
    so that one of them at most keeps the number, in a store that lists what was put before.
    """
    random = np.random.default_rng()  # of the moment: two that wait must not wait alike
    while True:
        asked = [path.name for path in (run / STARTS).iterdir()]
        number = max((int(name.partition(".")[0]) for name in asked if name[:1].isdigit()), default=0) + 1
        ours = run / STARTS / f"{number:04d}.{uuid.uuid4().hex}.claim"
        ours.write_text("")
        if [path.name for path in (run / STARTS).glob(f"{number:04d}.*")] == [ours.name]:
            return number
        ours.unlink(missing_ok=True)
        time.sleep(random.uniform(0.0, 2.0))


def start_note(run: AnyPath, number: int) -> AnyPath:
    """The file that says when, where and why a start began."""
    return run / STARTS / _note(number)


def _note(number: int) -> str:
    return f"{number:04d}.json"


def newest_start(run: AnyPath) -> int:
    """The number of the newest start; 0 where there was none."""
    return max((int(path.stem) for path in (run / STARTS).glob("[0-9]*.json")), default=0)


def check_newest(run: AnyPath, incarnation: int) -> None:
    """Raise `InputError` where another start has taken the run over."""
    if newest_start(run) != incarnation:
        raise InputError(
            f"run.path {run} was started again (start {newest_start(run)}) while this start, {incarnation}, still "
            "trained; allowed is one at a time; this one ends and leaves the run to the newer"
        )


@contextmanager
def new_checkpoint(run: AnyPath, step: int, incarnation: int, names: Sequence[str]) -> Iterator[AnyPath]:
    """A new directory that becomes the run's checkpoints `names` (`last`, `best`) when the block ends well.

    Until its last moment the old checkpoints are what a restart finds. In an object store it lies where it will stay
    from the beginning: what says that it is whole is to be written last. Raises `InputError` where another start has
    taken the run over, and `OSError` where the disk is full; then nothing has changed.
    """
    folder = run / "checkpoints"
    path = folder / f"step-{step:08d}-start-{incarnation}"
    check_newest(run, incarnation)
    if folder.is_dir():
        _sweep(folder)  # what a killed writer left must not take the room that this one needs
    try:
        with _kept_when_whole(path) if isinstance(path, UriPath) else atomic_directory(path) as aside:
            yield aside
            check_newest(run, incarnation)
    except StoreAwayError:
        raise  # it would not answer the next question either
    except OSError:
        check_newest(run, incarnation)  # whose sweep takes away what this one writes
        raise
    check_newest(run, incarnation)  # writing takes minutes where the bank is large
    for name in names:
        _name(folder, name, path.name)
    if isinstance(folder, Path):
        sync(folder)
    _sweep(folder)


@contextmanager
def _kept_when_whole(path: UriPath) -> Iterator[UriPath]:
    try:
        yield path
    except BaseException:
        path.remove_tree()
        raise


def _name(folder: AnyPath, name: str, checkpoint: str) -> None:
    """Make `checkpoint`, which lies in `folder`, the one that `name` stands for."""
    if isinstance(folder, UriPath):
        (folder / name).point_to(checkpoint)
        return
    aside, link = (folder / f".{name}.{uuid.uuid4().hex[:8]}" for _ in range(2))
    if (folder / name).is_dir() and not (folder / name).is_symlink():
        os.rename(folder / name, aside)  # a run that was copied with its links followed
    link.symlink_to(checkpoint)
    os.replace(link, folder / name)


def _sweep(folder: AnyPath) -> None:
    """Remove the checkpoints that no name points to, and what killed writers left."""
    if isinstance(folder, UriPath):
        there = list(folder.iterdir())
        kept = {path.name: path.resolve().name for path in there if path.name in (BEST, LAST)}
        if all(name != checkpoint for name, checkpoint in kept.items()):  # else a name is damaged: of what checkpoint?
            for path in there:
                if path.name not in (*kept, *kept.values()):
                    path.remove_tree()
        return
    names = [name for name in (BEST, LAST) if (folder / name).is_symlink()]
    kept = {BEST, LAST, *(os.readlink(folder / name) for name in names)}
    for path in folder.iterdir():
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def goes_on_from(run: AnyPath, start: AnyPath | None) -> AnyPath | None:
    """The directory that a start of the run begins with: of its own last checkpoint, else `start`.

    Resolved, so that all workers read the same one whatever the link says when they come to it.
    """
    return checkpoint_path(run, LAST).resolve() if has_checkpoint(run) else start


def keep_metrics_until(run: AnyPath, step: int) -> None:
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
