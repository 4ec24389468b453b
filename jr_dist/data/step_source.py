"""Steps as the rows of a Ray Data source: consecutive ranges of steps as read tasks, a few steps a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from jr_dist.data.step_plan import StepPlan

BLOCK_BYTES = 1 << 20  # small blocks, so that the first batch comes soon and few are made in advance
_BLOCKS_PER_TASK = 64  # starting a task costs as much as some blocks


class StepSource(Datasource):
    """A row a step: "step", "rows" [B] and "points" [B, N, 3]."""

    def __init__(self, plan: StepPlan, steps: range) -> None:
        super().__init__()
        self._plan, self._steps = plan, steps

    def get_name(self) -> str:
        """What Ray Data's progress calls it."""
        return "TargetBatches"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all steps."""
        return len(self._steps) * self._plan.step_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Tasks in the order of the steps; their number follows from the steps, not from `parallelism`."""
        per_block = max(1, BLOCK_BYTES // self._plan.step_bytes)
        per_task = per_block * _BLOCKS_PER_TASK
        ranges = [self._steps[first : first + per_task] for first in range(0, len(self._steps), per_task)]
        return [ReadTask(_reader(self._plan, steps, per_block), self._metadata(steps)) for steps in ranges]

    def _metadata(self, steps: range) -> BlockMetadata:
        size = len(steps) * self._plan.step_bytes
        return BlockMetadata(num_rows=len(steps), size_bytes=size, input_files=None, exec_stats=None)


def _reader(plan: StepPlan, steps: range, per_block: int) -> Callable[[], Iterator[pa.Table]]:
    def read() -> Iterator[pa.Table]:
        for first in range(0, len(steps), per_block):
            yield _block(plan, steps[first : first + per_block])

    return read


def _block(plan: StepPlan, steps: range) -> pa.Table:
    batches = [plan.batch(step) for step in steps]
    rows, points = (pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(arrays)) for arrays in zip(*batches))
    return pa.table({"step": pa.array(steps), "rows": rows, "points": points})
