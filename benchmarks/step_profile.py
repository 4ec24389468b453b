"""Where each millisecond of a joint training step goes, on this machine's CPU or its GPU.

    python benchmarks/step_profile.py [--quick] [--device cuda] [--csv FILE --name NAME] [--picture FILE]

The step is a user's: default networks and optimiser, 16 targets, 10 of 100 sources each (boxes of 4 to 16 parts), 2048
points, candidates by soft retrieval, from the batch being made to the codes being pushed. torch's profiler sees each
operation; it counts towards the innermost of the ranges named here, and one going backward towards the range in which
the operation that it undoes was called (both bear one sequence number). On a GPU `kernels` is what those took that a
range started, forward and backward what the host did meanwhile.

The bound is what can't be left out: products of matrices at the rate that this machine's own reaches at 1024 x 1024,
and the search for neighbours with all points in spatial order already. A CSV keeps the rows of runs under other names,
and the picture shows a bar a name and the bound.
"""

from __future__ import annotations

import csv
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from harness import AT_START, clock, machine, parser, progress, random_boxes, sample
from records import hardware
from step import JOINT, NUM_SOURCES, RATE, random_source
from torch.profiler import ProfilerActivity, profile, record_function

from jr_dist.atomic import atomic_write
from jr_dist.config import load_config
from jr_dist.data.dataset import open_dataset, write_dataset
from jr_dist.data.records import TargetShape
from jr_dist.data.source_store import SourceStore
from jr_dist.data.step_plan import step_plan
from jr_dist.data.streams import TargetBatch, local_target_batches
from jr_dist.geometry import deformed
from jr_dist.geometry.chamfer import chamfer, spatial_order
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.symmetry import symmetry_loss
from jr_dist.train import candidates, pairs
from jr_dist.train.draw import Draw
from jr_dist.train.embedding import refresh_embeddings
from jr_dist.train.group import Group
from jr_dist.train.state import TrainState, new_state
from jr_dist.train.step import joint_step

NUM_TARGETS, NUM_POINTS, PROFILED = 64, 2048, 2
STEP, LOSSES = "step", "losses and the rest"
#: the parts of a step, in the order in which they are shown
RANGES = (
    "targets", "queries", "draw", "pull", "geometry", "deformation encoder", "deformation network", "projection",
    "moving points", "search, fitting", "search, symmetry", "retrieval encoder", LOSSES, "backward, the rest",
    "push", "optimiser",
)  # fmt: skip
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


@dataclass(frozen=True)
class Row:
    """What one range of a step takes, in ms a step."""

    name: str  # of the run
    device: str
    range: str
    forward: float  # on the host
    backward: float
    kernels: float  # on a GPU, forward and backward
    products: float  # GFLOP of matrix products
    bound: float
    commit: str
    hardware: str


class Problem:
    """A run at step 0, and its stream."""

    def __init__(self, folder: Path, device: str, batch_size: int) -> None:
        path = folder / "dataset"
        shapes = {"train": map(_target, range(NUM_TARGETS)), "val": [_target(NUM_TARGETS)]}
        write_dataset(
            path, map(random_source, range(NUM_SOURCES)), shapes, how={"made_by": "benchmarks/step_profile.py"}
        )
        dataset = open_dataset(path)
        config = load_config(None, {"data.path": str(path), "run.path": "-", "train.batch_size": batch_size})
        self.state = new_state(config, SourceStore.open(dataset), Group(), device)
        refresh_embeddings(self.state)
        settings = config.data
        plan = step_plan(
            dataset, "train", None, batch_size=batch_size, num_points=settings.num_points,
            encoder_points=settings.encoder_points, seed=0, rank=0, world_size=1,
        )  # fmt: skip
        self._batches = local_target_batches(plan, range(10**6))
        self.batch: TargetBatch | None = None

    def step(self) -> None:
        """Make a batch and train on it."""
        with record_function(STEP):
            with record_function("targets"):
                self.batch = next(self._batches)
            joint_step(self.state, self.batch, JOINT, RATE, candidates.begin_draw(self.state, self.batch, soft=True))
            if self.state.device.type == "cuda":
                torch.cuda.synchronize()


def _target(number: int) -> TargetShape:
    rng = np.random.default_rng([1, number])
    points, part_index = sample(random_boxes(rng), NUM_POINTS, rng)
    return TargetShape(f"target-{number:04}", "boxes", points, part_index.astype(np.int16), np.eye(4))


# ---- ranges ------------------------------------------------------------------------------------


@contextmanager
def named_ranges(state: TrainState) -> Iterator[None]:
    """Have the profiler see the parts of a step by name."""
    bank, networks = type(state.bank), state.networks
    places: list[tuple[Any, str, str]] = [
        (candidates, "embed", "queries"),
        (bank, "begin_propose", "draw"),
        (Draw, "candidates", "draw"),
        (Draw, "codes", "pull"),
        (pairs, "source_geometry", "geometry"),
        (PartGeometry, "take", "geometry"),
        (networks.deformation_encoder, "forward", "deformation encoder"),
        (networks.deformation, "forward", "deformation network"),
        (pairs, "part_parameters", "projection"),
        (deformed, "deform", "moving points"),
        (deformed, "chamfer", "search, fitting"),
        (deformed, "symmetry_loss", "search, symmetry"),
        (deformed._Losses, "apply", "search, fitting"),  # a GPU moves points and looks for both in one call
        (networks.retrieval_encoder, "forward", "retrieval encoder"),
        (torch.Tensor, "backward", "backward, the rest"),
        (bank, "push", "push"),
        (state.optimiser, "zero_grad", "optimiser"),
        (state.optimiser, "step", "optimiser"),
    ]
    with ExitStack() as stack:
        for where, attribute, name in places:
            stack.enter_context(patch.object(where, attribute, _within(name, getattr(where, attribute))))
        yield


def _within(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **options: Any) -> Any:
        own = getattr(function, "__self__", None)
        # What encodes the queries of a draw is the retrieval encoder in evaluation.
        is_query = name == "retrieval encoder" and own is not None and not own.training
        with record_function("queries" if is_query else name):
            return function(*arguments, **options)

    return called


def by_range(events: list[Any], num_steps: int) -> dict[tuple[str, str], np.ndarray]:
    """(range, "forward" or "backward") -> ms on the host, ms of kernels, GFLOP of products, a step."""
    home: dict[tuple[int, int], str] = {}
    ordered = sorted(events, key=lambda event: event.time_range.start)
    for event in ordered:  # of those that bear a number the last made the node that bears it as well
        if event.sequence_nr >= 0 and not _is_backward(event):
            home[event.thread, event.sequence_nr] = _range_above(event)
    found: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(3))
    for event in ordered:
        if event.device_type.name != "CPU":
            continue
        place = _range_above(event)
        if not place:
            continue
        node = _node_above(event)
        direction = "forward" if node is None else "backward"
        if node is not None:
            place = home.get((node.fwd_thread, node.sequence_nr), "backward, the rest")
        elif place == "backward, the rest":
            direction = "backward"
        kernels = sum(kernel.duration for kernel in event.kernels)
        products = event.flops / 1e9 if event.name in PRODUCTS else 0.0
        found[place, direction] += (event.self_cpu_time_total / 1e3, kernels / 1e3, products)
    return {key: value / num_steps for key, value in found.items()}


def _is_backward(event: Any) -> bool:
    return _node_above(event) is not None or event.name.startswith("autograd::engine")


def _range_above(event: Any) -> str:
    """The innermost range around an event; "" outside of steps."""
    while event is not None and event.name not in (*RANGES, STEP):
        event = event.cpu_parent
    return "" if event is None else LOSSES if event.name == STEP else event.name


def _node_above(event: Any) -> Any:
    """The node of the graph, going backward, that an event is part of."""
    while event is not None and not (event.scope == 1 and event.sequence_nr >= 0):
        event = event.cpu_parent
    return event


# ---- measuring ---------------------------------------------------------------------------------


def measure(problem: Problem, name: str, rounds: int, commit: str, on: str) -> list[Row]:
    """Steps by range, scaled to what a step takes where no profiler looks on, and the bound of each range."""
    state = problem.state
    for _ in range(3):
        problem.step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if state.device.type == "cuda" else [])]
    now, seconds = clock(), []
    with profile(activities=activities, record_shapes=True, with_flops=True) as profiled, named_ranges(state):
        for _ in range(PROFILED):  # a step is some 60,000 operations
            problem.step()
    for number in range(rounds):
        start = now()
        problem.step()
        seconds.append(now() - start)
        progress(f"step {number + 1} of {rounds}")
    progress("")
    found = by_range(list(profiled.events() or []), PROFILED)
    whole = sum(host for host, _, _ in found.values())
    scale = 1e3 * median(seconds) / whole
    print(f"a step takes {1e3 * median(seconds):.1f} ms, under the profiler {whole:.1f} ms")
    rate, searches = product_rate(state.device), search_seconds(problem)
    print(f"products of matrices: {rate / 1e9:.0f} GFLOP/s")
    rows = []
    for part in RANGES:
        forward, backward = (found.get((part, direction), np.zeros(3)) for direction in ("forward", "backward"))
        products = forward[2] + backward[2]
        bound = 1e12 * products / rate + 1e3 * searches.get(part, 0.0)
        kernels = forward[1] + backward[1]
        rows.append(
            Row(
                name, state.device.type, part, scale * forward[0], scale * backward[0], kernels, products, bound,
                commit, on,
            )
        )  # fmt: skip
    return rows


def product_rate(device: torch.device) -> float:
    """FLOP a second of a float32 product of two square matrices."""
    now, seconds, size = clock(), [], 1024
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    for _ in range(8):
        start = now()
        float((a @ b)[0, 0])
        seconds.append(now() - start)
    return 2 * size**3 / min(seconds)


def search_seconds(problem: Problem) -> dict[str, float]:
    """The two searches of a step on points that lie in spatial order, of sources as they are: no sorting."""
    state, batch = problem.state, problem.batch
    if state.device.type != "cpu" or batch is None:
        return {}
    targets = _in_order(batch.points)
    drawn = np.arange(len(targets) * state.config.retrieval.num_candidates) % NUM_SOURCES
    clouds = _in_order(state.store.clouds(drawn)).requires_grad_()
    meets = torch.arange(len(targets)).repeat_interleave(state.config.retrieval.num_candidates)
    as_it_is = [torch.arange(NUM_POINTS, dtype=torch.int32).expand(len(cloud), -1) for cloud in (clouds, targets)]
    searches = {
        "search, fitting": lambda: chamfer(
            clouds, targets, y_index=meets, x_order=as_it_is[0].contiguous(), y_order=as_it_is[1].contiguous()
        ),
        "search, symmetry": lambda: symmetry_loss(clouds, order=as_it_is[0].contiguous()),
    }
    now, seconds = clock(), {}
    for name, search in searches.items():
        times = []
        for _ in range(4):
            start = now()
            search()
            times.append(now() - start)
        seconds[name] = min(times)
    return seconds


def _in_order(clouds: torch.Tensor) -> torch.Tensor:
    order = spatial_order(clouds).long()
    return clouds.gather(1, order[..., None].expand(-1, -1, 3)).contiguous()


# ---- telling -----------------------------------------------------------------------------------


def show(rows: list[Row]) -> None:
    """The table."""
    whole = sum(row.forward + row.backward for row in rows)
    print(f"\n{'range':22}{'forward':>10}{'backward':>10}{'share':>8}{'GFLOP':>8}{'bound':>8}{'kernels':>9}   (ms)")
    for row in rows:
        share = (row.forward + row.backward) / whole
        print(f"{row.range:22}{row.forward:10.2f}{row.backward:10.2f}{share:8.1%}{row.products:8.2f}{row.bound:8.1f}"
              f"{row.kernels:9.2f}")  # fmt: skip
    forward, backward, bound = (sum(getattr(row, name) for row in rows) for name in ("forward", "backward", "bound"))
    print(f"{'whole':22}{forward:10.2f}{backward:10.2f}{1:8.1%}{sum(row.products for row in rows):8.2f}{bound:8.1f}")
    print(f"the step takes {whole / max(bound, 1e-9):.2f} times its bound")


def read(path: Path) -> list[Row]:
    """The rows of a CSV, none where there is none."""
    if not path.is_file():
        return []
    text = {"name", "device", "range", "commit", "hardware"}
    rows = csv.DictReader(StringIO(path.read_text()))
    return [Row(**{key: value if key in text else float(value) for key, value in row.items()}) for row in rows]  # type: ignore[arg-type]


def write(path: Path, rows: list[Row]) -> None:
    """The rows as a CSV."""
    out = StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: f"{value:.3f}" if isinstance(value, float) else value for key, value in asdict(row).items()}
        )
    atomic_write(path, out.getvalue())


def main() -> None:
    """Measure, print, write, draw."""
    options = parser(__doc__)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    options.add_argument("--name", default="now", help="what the CSV calls this run")
    options.add_argument("--csv", type=Path, metavar="FILE", help="add the rows to these")
    options.add_argument("--picture", type=Path, metavar="FILE", help="draw all rows of the CSV as stacked bars")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    batch_size, rounds = (4, 2) if options.quick else (16, 8)
    print(f"{batch_size} targets, 10 candidates, {NUM_SOURCES} sources, {options.device}, {machine(options.threads)}")
    with tempfile.TemporaryDirectory() as folder:
        problem = Problem(Path(folder), options.device, batch_size)
        rows = measure(problem, options.name, rounds, AT_START[0], hardware(options.threads))
    show(rows)
    if options.csv:
        rows = [row for row in read(options.csv) if row.name != options.name] + rows
        write(options.csv, rows)
    if options.picture:
        from step_profile_picture import draw

        draw(options.picture, rows)


if __name__ == "__main__":
    main()
