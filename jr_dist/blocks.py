"""Large computations as jobs that stand alone: one file for each finished job, so that a rerun does what is missing.

A job's result depends on its task alone, whoever computes it and whatever was computed before: in this process, or by
actors on a cluster (`block_actors`), the files are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jr_dist.atomic import NO_ROOM, atomic_write
from jr_dist.config import ClusterConfig
from jr_dist.errors import InputError
from jr_dist.locations import AnyPath, StoreAwayError

#: from a job's task to its named arrays
Work = Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]]

_ABOUT = "block"  # the one entry of a file's metadata: safetensors does not keep several in order


@dataclass(frozen=True)
class Job:
    """One block of a computation."""

    name: str  # of its file, unique among the jobs of a folder
    task: Mapping[str, Any]  # JSON: all that the result depends on, hashes of the model and of the data among it
    weight: int  # its share of the progress, in the unit of the caller's bar


def run_jobs(
    make_work: Callable[..., Work],
    arguments: tuple[Any, ...],
    jobs: Sequence[Job],
    folder: AnyPath,
    *,
    advance: Callable[[int], None],
    num_workers: int = 0,
    num_gpus: float = 0,
    cluster: ClusterConfig | None = None,
) -> None:
    """Leave the result of every job in `folder`, for `read_result`; those that lie there whole are not computed again.

    `make_work(*arguments)` is called once, in this process where `num_workers` is 0, else in each of so many actors of
    one processor and `num_gpus` GPUs; nothing is called where nothing is missing. `advance` is told the weight of what
    was finished before, then of each job as it is kept. Results have the same bits however many actors there are, and
    those of this process where torch computes with one thread.

    A job whose actor dies is repeated. Raises what `make_work` or a job raises, `InputError` where the disk is full or
    the cluster has no room for an actor, and `RuntimeError` naming the job that ends its process again and again.
    """
    assert len({job.name for job in jobs}) == len(jobs), "jobs of one folder have different names"
    missing = [job for job in jobs if _problem(folder, job)]
    num_kept = len(jobs) - len(missing)
    if num_kept:
        advance(sum(job.weight for job in jobs) - sum(job.weight for job in missing))
    if not missing:
        return

    def keep(job: Job, result: Mapping[str, np.ndarray]) -> None:
        nonlocal num_kept
        try:
            atomic_write(_path(folder, job), _content(job, result))
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise InputError(
                f"{folder} has no room for block {job.name} ({error.strerror}); the {num_kept} of {len(jobs)} blocks "
                "that are finished are kept; make room and run it again"
            ) from error
        num_kept += 1
        advance(job.weight)

    if num_workers == 0:
        work = make_work(*arguments)
        for job in missing:
            keep(job, work(job.task))
        return
    from jr_dist.block_actors import run_on_actors

    run_on_actors(
        make_work,
        arguments,
        missing,
        keep,
        num_workers=num_workers,
        num_gpus=num_gpus,
        cluster=cluster or ClusterConfig(),
    )


def read_result(folder: AnyPath, job: Job) -> dict[str, np.ndarray]:
    """The arrays of a finished job. Raises `InputError` where its file is missing, damaged or of another task."""
    try:
        return _read(folder, job)
    except (StoreAwayError, InputError):
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"block {_path(folder, job)} can't be used ({_reason(error)}); allowed is the file as it was written; run "
            "it again, which makes it anew"
        ) from None


def _problem(folder: AnyPath, job: Job) -> str | None:
    """Why a job's file can't be used; None where it can."""
    try:
        _read(folder, job)
    except (StoreAwayError, InputError):
        raise
    except (OSError, ValueError, SafetensorError) as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    return str((error.strerror or error) if isinstance(error, OSError) else error)


def _path(folder: AnyPath, job: Job) -> AnyPath:
    return folder / f"{job.name}.safetensors"


def _content(job: Job, result: Mapping[str, np.ndarray]) -> bytes:
    """The arrays with their task, and the hash of both."""
    about = {"sha256": _digest(job, result), "task": job.task}
    return _saved(result, json.dumps(about, sort_keys=True, allow_nan=False))


def _digest(job: Job, result: Mapping[str, np.ndarray]) -> str:
    return hashlib.sha256(_saved(result, json.dumps(job.task, sort_keys=True, allow_nan=False))).hexdigest()


def _saved(result: Mapping[str, np.ndarray], about: str) -> bytes:
    return save({name: np.ascontiguousarray(values) for name, values in result.items()}, {_ABOUT: about})


def _read(folder: AnyPath, job: Job) -> dict[str, np.ndarray]:
    content = _path(folder, job).read_bytes()
    result = load(content)
    # What `load` accepts is 8 bytes with the header's length, and a header of JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    try:
        about = json.loads(header["__metadata__"][_ABOUT])
        digest, task = about["sha256"], about["task"]
    except (LookupError, TypeError):
        raise ValueError("it does not say what it is") from None
    if task != json.loads(json.dumps(job.task)):
        raise ValueError("it is of another task")
    if digest != _digest(job, result):
        raise ValueError("its hash is another")
    return result
