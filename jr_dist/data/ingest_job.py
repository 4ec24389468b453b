"""The parallel part of an ingest: Ray Data runs `try_ingest_file` over all files and hands results on as
they come.

A file that kills its worker process (out of memory, a crash in somebody's C code) takes down the few files
of its block; these are run again one by one, and only what dies alone is given up. Bytes travel as binary
columns.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext
from ray.util.annotations import RayDeprecationWarning

from jr_dist.cluster import connect
from jr_dist.cluster_room import cluster_nodes, wait_for_room
from jr_dist.config import ClusterConfig
from jr_dist.data.ingest_file import IngestedFile, try_ingest_file
from jr_dist.data.ingest_tasks import IngestTask
from jr_dist.data.ray_stream import only_from
from jr_dist.data.schema import source_schema, sources_from, target_schema, targets_from, to_batch
from jr_dist.placement import of_ingesting, room

_BLOCKS_PER_CPU = 16  # small enough that the last blocks end together, large enough that starting tasks costs little
_FILES_PER_BLOCK = 8
_GRACE = 60.0  # seconds beyond the limit after which a worker that can't be interrupted is ended


def ingest_in_parallel(
    tasks: Sequence[IngestTask],
    *,
    num_points: int,
    seconds: float,
    pictures: Set[str],
    cluster: ClusterConfig,
    read: Callable[..., IngestedFile] = try_ingest_file,
) -> Iterator[IngestedFile]:
    """Results of all tasks in the order in which they are ready, one for each task.

    Joins the Ray cluster it finds, else starts one for the time being; on several machines the files must lie
    where all of them find them. `read` does the work on one file.
    """
    work = partial(_work, read=read, num_points=num_points, seconds=seconds, pictures=pictures)
    with connect(cluster):
        ask = of_ingesting(len(tasks))
        wait_for_room(cluster, [ask], subject="the tasks that read files", remedy="add machines, or set --local")
        cpus = room(cluster_nodes(), ask)
        per_block = max(1, min(_FILES_PER_BLOCK, len(tasks) // (_BLOCKS_PER_CPU * cpus)))
        # Where workers lack the code, every file would look deadly: this raises what is really wrong.
        ray.get(ray.remote(num_cpus=ask.cpus)(_accept).remote(work))
        left = {task.id: task for task in tasks}
        for size in (per_block, 1):
            for result in _run(list(left.values()), work, size, num_points):
                if left.pop(result.id, None) is not None:
                    yield result
            if not left:
                return
        for task in left.values():
            yield IngestedFile(
                task.id,
                problem=f"{task.path} ended the process that read it (out of memory, a crash, or far beyond the time "
                "limit); simplify the mesh",
            )


def _accept(work: Any) -> None:
    """What a worker does to show that it can be handed the work."""


def _run(tasks: Sequence[IngestTask], work: Any, per_block: int, num_points: int) -> Iterator[IngestedFile]:
    """Results of the tasks whose worker survived."""
    blocks = -(-len(tasks) // per_block)
    # Ray logs the traceback of every lost block; what became of its files is in the report.
    with DataContext.current(_context()), only_from(logging.CRITICAL):
        rows = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=blocks)
        # A task that died is not tried again as it is, for ever: what it held runs once more, file by file.
        with warnings.catch_warnings():
            # Ray announces that it will name this option otherwise one day, but has no other name for it yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            results = rows.map(work, num_cpus=of_ingesting(len(tasks)).cpus, max_retries=0)
        for block in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in cast(pa.Table, block).to_pylist():
                yield _from_row(row, num_points)


def _context() -> DataContext:
    context = DataContext.get_current().copy()
    context.max_errored_blocks = -1  # a dead worker is no reason to stop
    context.execution_no_progress_timeout_s = -1  # a file has its own limit
    context.enable_progress_bars = False  # the caller draws one
    context.print_on_execution_start = False
    return context


def _work(
    row: dict[str, Any],
    *,
    read: Callable[..., IngestedFile],
    num_points: int,
    seconds: float,
    pictures: Set[str],
) -> dict[str, Any]:
    task = row["task"]
    # Compiled code can't be interrupted; if it hangs, this ends the process without asking the interpreter.
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds + _GRACE, exit=True, file=nowhere)
        try:
            result = read(task, num_points=num_points, seconds=seconds, picture=task.id in pictures)
        finally:
            faulthandler.cancel_dump_traceback_later()
    return _to_row(result, num_points)


def _to_row(result: IngestedFile, num_points: int) -> dict[str, Any]:
    return {
        "id": result.id,
        "problem": result.problem or "",
        "picture": result.picture or b"",
        "source": b"" if result.source is None else _packed(to_batch([result.source], source_schema(num_points))),
        "target": b"" if result.target is None else _packed(to_batch([result.target], target_schema(num_points))),
    }


def _from_row(row: dict[str, Any], num_points: int) -> IngestedFile:
    source = target = None
    if row["source"]:
        source = next(sources_from(_unpacked(row["source"], source_schema(num_points))))
        target = next(targets_from(_unpacked(row["target"], target_schema(num_points))))
    return IngestedFile(row["id"], source, target, row["picture"] or None, row["problem"] or None)


def _packed(batch: pa.RecordBatch) -> bytes:
    return batch.serialize().to_pybytes()


def _unpacked(data: bytes, schema: pa.Schema) -> pa.RecordBatch:
    return pa.ipc.read_record_batch(pa.py_buffer(data), schema)
