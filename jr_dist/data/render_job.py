"""The parallel part of rendering: Ray Data hands files to actors, one renderer each, and their bytes back as they come.

What comes back is written by the process that asked for it: the other machines of a cluster need not see its disk.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from jr_dist.cluster import connect
from jr_dist.cluster_room import cluster_nodes, may_grow, wait_for_room
from jr_dist.config import ClusterConfig
from jr_dist.data.image_files import RenderTask
from jr_dist.data.ray_stream import only_from
from jr_dist.errors import InputError
from jr_dist.placement import of_rendering, room

MOST_RETRIES = 3  # of a file whose actor dies


class Renderer:
    """One renderer in a process of its own. What OpenGL needs is made here, after the process has started."""

    def __init__(self, render: Callable[[RenderTask], bytes]) -> None:
        self._render = render

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The file of a task, or why it can't be made."""
        try:
            return {"path": row["task"].path, "content": self._render(row["task"]), "problem": ""}
        except InputError as error:
            return {"path": row["task"].path, "content": b"", "problem": str(error)}


def render_in_parallel(
    render: Callable[[RenderTask], bytes],
    tasks: Sequence[RenderTask],
    *,
    backend: str,
    num_workers: int | None,
    cluster: ClusterConfig,
) -> Iterator[tuple[RenderTask, bytes]]:
    """Every task with its file, in the order in which they are ready.

    By as many actors as the cluster has room for, `num_workers` at most; where it may grow, by so many if they are given. An actor that dies is
    replaced and its file rendered again. Raises the `InputError` that a task met with.
    """
    left = {task.path: task for task in tasks}
    with connect(cluster):
        nodes = cluster_nodes()
        ask = of_rendering(min(num_workers or len(tasks), len(tasks)), backend, nodes)
        wait_for_room(cluster, [ask], subject="the renderers", remedy="add machines, or set --num-workers 0")
        grown = num_workers is not None and may_grow()
        count = ask.count if grown else max(1, min(ask.count, room(cluster_nodes(), ask)))
        # Ray Data tells of its plans and of every actor it replaces.
        with DataContext.current(_context()), only_from(logging.ERROR):
            rows = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks))
            with warnings.catch_warnings():
                # Ray announces that it will name the last option otherwise one day, but has no other name for it yet.
                warnings.simplefilter("ignore", RayDeprecationWarning)
                files = rows.map(
                    cast(Any, Renderer),  # a class of callables, made in each actor
                    fn_constructor_args=(render,),
                    compute=ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=2),
                    num_cpus=ask.cpus,
                    num_gpus=ask.gpus or None,
                    max_task_retries=MOST_RETRIES,
                )
            for block in files.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in cast(pa.Table, block).to_pylist():
                    if row["problem"]:
                        raise InputError(row["problem"])
                    yield left.pop(row["path"]), row["content"]
    if left:
        raise RuntimeError(f"{len(left)} of {len(tasks)} files did not come back, {next(iter(left))} among them")


def _context() -> DataContext:
    context = DataContext.get_current().copy()
    context.execution_no_progress_timeout_s = -1  # a file takes as long as it takes
    context.enable_progress_bars = False  # the caller draws one
    context.print_on_execution_start = False
    return context
