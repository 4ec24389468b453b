"""What training reads, through Ray Data: the batches of targets of all steps that remain, and sources batch by batch.

One execution for each rank. No batch of targets is short and all ranks have equally many; which targets it holds is
decided by `order` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from jr_dist.data.dataset import Dataset
from jr_dist.data.ray_stream import Stream, tables_of
from jr_dist.data.schema import tensor
from jr_dist.data.shown import whole_targets
from jr_dist.data.source_rows import SourcePlan, blocks_of_sources, source_plan
from jr_dist.data.step_plan import StepPlan, blocks_of
from jr_dist.data.transfer import to_device


@dataclass(frozen=True)
class TargetBatch:
    """The targets of one step on one rank."""

    step: int
    rows: np.ndarray  # [B] int64, rows of `read_targets(dataset, split, categories)`
    points: Tensor  # [B, N, 3] float32, of the whole
    shown: Tensor  # what encoders see of it: points [B, E, 3] float32, or pictures [B, 3, S, S] uint8
    scale: Tensor  # [B] float32, the unit of these frames in that of the whole: 1 where all is seen
    origin: Tensor  # [B, 3] float32, where the whole's frame has its origin in these: 0 where all is seen

    def on(self, device: torch.device) -> TargetBatch:
        """The same batch with its tensors there, or on their way there."""
        names = ("points", "shown", "scale", "origin")
        return replace(self, **{name: to_device(getattr(self, name), device) for name in names})


def target_batches(plan: StepPlan, steps: range, progress: bool = False) -> Iterator[TargetBatch]:
    """Batches of `steps` (counted over all epochs) through Ray Data.

    Closing the iterator ends the execution. `progress` shows Ray Data's own bars and messages. Raises `InputError` for
    files that are damaged.
    """
    stream = Stream(
        "TargetBatches",
        len(steps),
        plan.step_bytes,
        lambda batches, per_block: partial(blocks_of, plan, steps[batches.start : batches.stop], per_block),
        tasks=1 if plan.pictures is None else plan.pictures.tasks,
    )
    with closing(tables_of(stream, progress=progress)) as tables:
        for table in tables:
            # Blocks are read-only; a batch is the trainer's own.
            columns = {name: tensor(table.column(name)).copy() for name in table.column_names if name != "step"}
            for index, step in enumerate(table.column("step").to_pylist()):
                yield _as_batch(plan, step, {name: values[index] for name, values in columns.items()})


def local_target_batches(plan: StepPlan, steps: range) -> Iterator[TargetBatch]:
    """The same batches, bit for bit, made in this process without Ray."""
    return (_as_batch(plan, step, plan.batch(step)) for step in steps)


def source_batches(
    dataset: Dataset, categories: Sequence[str] | None, rows: np.ndarray, *, num_points: int, batch_size: int
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Rows [M] int64 and points [M, N, 3] float32 of the sources `rows` [R], in order, through Ray Data.

    `rows` are distinct and ascending, as `SourceStore` numbers the sources of the categories; M is `batch_size`, less
    in the last batch; N a prefix of `num_points`. Only row groups with wanted rows are read. Every row comes exactly
    once, or RuntimeError is raised. Closing the iterator ends the execution. Raises `InputError` as `source_plan` does,
    and for files that are damaged. `source_store.local_source_batches` gives the same without Ray.
    """
    return _sources(source_plan(dataset, categories, rows, num_points=num_points, batch_size=batch_size))


def _sources(plan: SourcePlan) -> Iterator[tuple[np.ndarray, Tensor]]:
    def task_of(batches: range, per_block: int) -> partial:
        return partial(blocks_of_sources, plan.dataset, plan.categories, plan.num_points, plan.pieces(batches))

    done = 0
    stream = Stream("SourceBatches", plan.num_batches, plan.batch_bytes, task_of)
    with closing(tables_of(stream)) as tables:
        for rows, points in _in_batches(tables, plan.batch_size):
            if not np.array_equal(rows, plan.rows[done : done + plan.batch_size]):
                raise RuntimeError(f"the stream of sources skipped or repeated some after {done} of {len(plan.rows)}")
            done += len(rows)
            yield rows, torch.from_numpy(points)
    if done != len(plan.rows):
        raise RuntimeError(f"the stream of sources ended after {done} of {len(plan.rows)}")


def _in_batches(tables: Iterable[pa.Table], batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and points of tables of any size as batches of `batch_size`, the caller's own; what is left is the last."""
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    held = 0
    for table in tables:
        rows, points = table.column("row").to_numpy(), tensor(table.column("points"))
        while held + len(rows) >= batch_size:
            cut = batch_size - held
            yield _joined([*pieces, (rows[:cut], points[:cut])])
            rows, points, pieces, held = rows[cut:], points[cut:], [], 0
        if len(rows):
            pieces.append((rows, points))
            held += len(rows)
    if held:
        yield _joined(pieces)


def _joined(pieces: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    rows, points = zip(*pieces, strict=True)
    return np.concatenate(rows), np.concatenate(points)


def _as_batch(plan: StepPlan, step: int, arrays: dict[str, np.ndarray]) -> TargetBatch:
    whole = {"shown": arrays["points"][:, : plan.encoder_points], **whole_targets(plan.batch_size)}
    of_targets = {name: torch.from_numpy(values) for name, values in {**whole, **arrays}.items() if name != "rows"}
    return TargetBatch(step=step, rows=arrays["rows"], **of_targets)
