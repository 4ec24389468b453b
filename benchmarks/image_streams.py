"""Share of a training step that waits for pictures, streamed by Ray Data beside the training on 2 cores.

    python benchmarks/image_streams.py [--quick] [--csv FILE] [--json FILE]

ResNet-18 at 64 pixels, 16 targets a step, photo augmentation; one process trains with one thread, one task makes the
pictures. Peer: the same pictures made by the process that trains, in the step, as `train.num_workers 0` has it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from harness import Record, finish, machine, parser

from jr_dist.cluster import connect
from jr_dist.config import ClusterConfig, Config, load_config
from jr_dist.data.dataset import Dataset, open_dataset
from jr_dist.data.pictures import picture_settings
from jr_dist.data.render_images import plan_images, render_images
from jr_dist.data.render_views import ViewSettings
from jr_dist.data.step_plan import StepPlan, step_plan
from jr_dist.data.streams import TargetBatch, local_target_batches, target_batches
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.train.group import Group
from jr_dist.train.loop import run_training
from jr_dist.train.run_directory import claim, prepare

IMAGES = Path(__file__).parent.parent / "configs" / "images.yaml"
SIZE, NUM_VIEWS, SKIPPED_STEPS = 64, 8, 5  # the first steps start processes and compile kernels
Batches = Callable[[StepPlan, range], Iterator[TargetBatch]]


def shares(config: Config, batches: Batches) -> tuple[float, float]:
    """(share of the time that waits for a batch, seconds a step) of a training from scratch."""
    waits: list[tuple[float, float]] = []  # when a batch was asked for, when it came

    def timed(dataset: Dataset, config: Config, group: Group, first: int, count: int) -> Iterator[TargetBatch]:
        plan = step_plan(
            dataset, "train", None, batch_size=config.train.batch_size, num_points=config.data.num_points,
            encoder_points=config.data.encoder_points, seed=0, rank=0, world_size=1,
            pictures=picture_settings(config.data),
        )  # fmt: skip
        stream, asked = batches(plan, range(first, first + count)), time.perf_counter()
        for batch in stream:
            waits.append((asked, time.perf_counter()))
            yield batch
            asked = time.perf_counter()

    run = prepare(config)
    run_training(config, Group(), timed, start=None, report=lambda _: None, incarnation=claim(run, "benchmark"))
    counted = waits[SKIPPED_STEPS:]
    total = counted[-1][1] - counted[0][0]
    return sum(came - asked for asked, came in counted) / total, total / (len(counted) - 1)


def main() -> None:
    """Train on files and on pictures rendered on the spot, streamed and in the step."""
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    num_targets, epochs = (160, 4) if arguments.quick else (400, 6)
    print(f"{machine(2)}: wall time")
    records = []
    with tempfile.TemporaryDirectory() as folder, connect(ClusterConfig(num_cpus=2, object_store_mb=256)):
        path = Path(folder) / "dataset"
        synthesize(path, num_sources=20, num_targets=num_targets, categories=("chair",), seed=0, num_points=512)
        plan = plan_images(open_dataset(path), ViewSettings(size=SIZE), num_views=NUM_VIEWS, tables=("train", "val"))
        render_images(plan)
        for images in ("files", "render"):
            measured = {}
            for name, batches in (("in the step", local_target_batches), ("streamed", target_batches)):
                settings = {
                    "data.path": str(path), "data.images": images, "data.augment": "photo", "train.epochs": epochs,
                    "train.validate_every": epochs, "train.checkpoint_every": epochs,
                    "run.path": f"{folder}/{images}-{name}",
                }  # fmt: skip
                measured[name] = shares(load_config(IMAGES, settings), batches)
                print(
                    f"{images}, {name}: {measured[name][1]:.2f} s a step, {measured[name][0]:.1%} waiting", flush=True
                )
            (alone, step_alone), (share, step) = measured["in the step"], measured["streamed"]
            records += [
                Record(f"{images}: share waiting", 100 * share, "%", "made in the step", alone / max(share, 1e-9)),
                Record(f"{images}: step", step, "s", "made in the step", step_alone / step),
            ]
    finish(records, arguments.json, arguments.csv)


if __name__ == "__main__":
    main()
