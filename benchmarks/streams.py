"""Training batches through Ray Data: time to the first one and steps a second, 16 targets of 512 points a step.

    python benchmarks/streams.py [--quick] [--csv FILE] [--json FILE]

Peer: what one writes with Ray Data alone, `read_parquet(...).iter_torch_batches(local_shuffle_buffer_size=...)` once an
epoch, on the same files. It shuffles approximately, ends epochs with short batches and starts an execution every epoch;
ours is one execution over all epochs, in an order that resumes exactly. Both are consumed as fast as they deliver.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from harness import Record, finish, machine, parser

from jr_dist.cluster import connect
from jr_dist.config import ClusterConfig
from jr_dist.data.build import build_source
from jr_dist.data.dataset import Dataset, open_dataset, write_dataset
from jr_dist.data.part_mesh import PartMesh
from jr_dist.data.records import TargetShape
from jr_dist.data.step_plan import step_plan

BATCH_SIZE, NUM_POINTS, STORED_POINTS = 16, 512, 2048
Stream = Callable[[Dataset, int], Iterator[torch.Tensor]]


def ours(dataset: Dataset, num_steps: int) -> Iterator[torch.Tensor]:
    """jr_dist's stream."""
    from jr_dist.data.streams import target_batches

    plan = step_plan(
        dataset, "train", None, batch_size=BATCH_SIZE, num_points=NUM_POINTS, encoder_points=128, seed=0,
        rank=0, world_size=1,
    )  # fmt: skip
    for batch in target_batches(plan, range(num_steps)):
        yield batch.points


def plain_ray_data(dataset: Dataset, num_steps: int) -> Iterator[torch.Tensor]:
    """Ray Data as its guide has it, an execution an epoch."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    table = ray.data.read_parquet(f"{dataset.path}/targets/train").select_columns(["points"])
    done = 0
    while done < num_steps:
        batches = table.iter_torch_batches(batch_size=BATCH_SIZE, local_shuffle_buffer_size=16 * BATCH_SIZE)
        for batch in islice(batches, num_steps - done):
            done += 1
            yield batch["points"][:, torch.randperm(STORED_POINTS)[:NUM_POINTS]]


def measure(stream: Stream, dataset: Dataset, num_steps: int) -> tuple[float, float]:
    """(seconds to the first batch, steps a second over all, the first included)."""
    start = time.perf_counter()
    batches = stream(dataset, num_steps)
    assert next(batches).shape == (BATCH_SIZE, NUM_POINTS, 3)
    first = time.perf_counter() - start
    num_batches = 1 + sum(1 for _ in batches)
    assert num_batches == num_steps
    return first, num_steps / (time.perf_counter() - start)


def make_dataset(path: Path, num_targets: int) -> Dataset:
    """Noise of the right size: nothing here looks at the points."""
    import trimesh

    rng = np.random.default_rng(0)
    box = PartMesh(("box",), ((trimesh.creation.box(),),))
    source = build_source(box, id="box", category="chair", num_points=STORED_POINTS, seed=0, provenance={})
    targets = (
        TargetShape(
            id=f"{index:06d}",
            category="chair",
            points=rng.random((STORED_POINTS, 3), dtype=np.float32),
            part_index=np.zeros(STORED_POINTS, np.int16),
            transform=np.eye(4),
        )
        for index in range(num_targets)
    )
    write_dataset(path, [source], {"train": targets}, how={"benchmark": "streams"})
    return open_dataset(path)


def main() -> None:
    """Measure both, when the processes that read for them have started."""
    arguments = parser(__doc__).parse_args()
    num_targets, num_epochs = (320, 5) if arguments.quick else (1600, 10)
    num_steps = num_targets // BATCH_SIZE * num_epochs
    print(f"{machine(2)}: wall time\n{num_targets} targets, {num_steps} steps of {BATCH_SIZE} x {NUM_POINTS} points")
    with tempfile.TemporaryDirectory() as folder, connect(ClusterConfig(num_cpus=2, object_store_mb=256)):
        dataset = make_dataset(Path(folder) / "dataset", num_targets)
        cold, _ = measure(ours, dataset, 1)
        measure(plain_ray_data, dataset, num_targets // BATCH_SIZE)  # its processes start as well
        plain_first, plain = measure(plain_ray_data, dataset, num_steps)
        warm, rate = measure(ours, dataset, num_steps)
    records = [
        Record("stream first batch, new processes", cold, "s"),
        Record("stream first batch", warm, "s", "plain Ray Data", plain_first / warm),
        Record("stream", rate, "steps/s", "plain Ray Data", rate / plain),
    ]
    finish(records, arguments.json, arguments.csv)


if __name__ == "__main__":
    main()
