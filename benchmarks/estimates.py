"""The constants of jr_dist/estimates.py, which dry runs reckon times and memory with.

    python benchmarks/estimates.py [--quick] [--csv FILE] [--json FILE]

One record for each field of `Measured`. Times are processor time of one thread, of procedural furniture at default
settings; small things are measured at two sizes, which gives what each costs besides its size. --quick takes one round.
"""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from harness import Record, finish, machine, parser

from jr_dist import estimates
from jr_dist.config import Config, load_config
from jr_dist.data.dataset import open_dataset
from jr_dist.data.image_files import SHAPES_A_FILE
from jr_dist.data.ingest_file import try_ingest_file
from jr_dist.data.ingest_tasks import find_tasks
from jr_dist.data.render_images import FileRenderer, plan_images
from jr_dist.data.render_views import ViewSettings
from jr_dist.data.source_store import SourceStore
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.estimates import MB, Measured, encoded_a_step, encoder_macs, step_bytes
from jr_dist.evaluate.protocol import evaluate
from jr_dist.serve.fit import fit
from jr_dist.train.candidates import begin_draw
from jr_dist.train.embedding import refresh_embeddings
from jr_dist.train.group import Group
from jr_dist.train.methods.plan import StepPlan
from jr_dist.train.state import new_state
from jr_dist.train.step import joint_step
from jr_dist.train.trainer import train

SOURCES, TARGETS = 12, 20
UNITS = {"_mb": "MB", "_kb": "kB", "_ms": "ms", "_us": "us", "_ns": "ns", "_s": "s"}
JOINT = StepPlan(soft=True, weighted=True, deformation=True, retrieval=True)


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The least processor time of some calls, after one that isn't counted."""
    work()
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def line(small: tuple[float, float], large: tuple[float, float]) -> tuple[float, float]:
    """What a straight line through (size, time) of two sizes has at size 0, and a unit of size; neither below 0."""
    slope = max(0.0, (large[1] - small[1]) / (large[0] - small[0]))
    return max(0.0, small[1] - slope * small[0]), slope


def of_synthesis(path: Path) -> dict[str, float]:
    """Makes the dataset that the others measure on."""
    start = time.process_time()
    synthesize(path, num_sources=SOURCES, num_targets=TARGETS, categories=("chair", "table", "cabinet"), seed=0)
    taken = time.process_time() - start
    size = sum(file.stat().st_size for file in path.rglob("*.parquet"))
    return {
        "synthesize_ms": 1e3 * taken / (SOURCES + TARGETS),
        "shape_bytes_point": size / (SOURCES + TARGETS) / 2048,
    }


def of_ingest(path: Path, rounds: int) -> dict[str, float]:
    """A small file and a large one."""
    path.mkdir()
    for name, subdivisions in (("small", 3), ("large", 6)):
        trimesh.creation.icosphere(subdivisions=subdivisions).export(path / f"{name}.glb")
    tasks, _ = find_tasks(path)
    times = {
        task.id: (
            Path(task.path).stat().st_size / MB,
            seconds(lambda task=task: try_ingest_file(task, num_points=2048, seconds=300, picture=False), rounds),
        )
        for task in tasks
    }
    each, per_mb = line(times["small"], times["large"])
    return {"ingest_ms": 1e3 * each, "ingest_ms_mb": 1e3 * per_mb}


def of_render(dataset: Path, rounds: int) -> dict[str, float]:
    """Whole files at two sizes."""
    found: dict[int, tuple[float, float]] = {}
    num_bytes = 0
    for size in (64, 224):
        plan = plan_images(open_dataset(dataset), ViewSettings(size=size), num_views=2, tables=("train",))
        task, renderer = plan.tasks[0], FileRenderer(plan)
        num_bytes = len(renderer(task))
        found[size] = (size**2, seconds(lambda r=renderer, t=task: r(t), rounds) / task.num_pictures)
        pictures = task.num_pictures
    each, per_pixel = line(found[64], found[224])
    assert pictures <= SHAPES_A_FILE * 2
    return {
        "render_ms": 1e3 * each,
        "render_ns_pixel": 1e9 * per_pixel,
        "picture_bytes_pixel": num_bytes / pictures / 224**2,
    }


def config_of(dataset: Path, run: Path | str, **overrides: Any) -> Config:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(None, {"data.path": str(dataset), "run.path": str(run), "train.num_workers": 0, **named})


def stepper(config: Config) -> Callable[[], object]:
    """A joint step on the first targets."""
    from jr_dist.data.dataset import read_targets
    from jr_dist.data.streams import TargetBatch

    dataset, batch = open_dataset(config.data.path), config.train.batch_size
    state = new_state(config, SourceStore.open(dataset), Group())
    refresh_embeddings(state)
    points = torch.from_numpy(np.array(read_targets(dataset, "train").points[:batch]))
    shown = points[:, : config.data.encoder_points]
    targets = TargetBatch(0, np.arange(batch), points, shown, torch.ones(batch), torch.zeros(batch, 3))

    def step() -> object:
        return joint_step(state, targets, JOINT, 1e-3, begin_draw(state, targets, soft=True))

    return step


def of_training(dataset: Path, rounds: int) -> dict[str, float]:
    """A step with many points in the encoders and few, which tells encoders from pairs; and its peak."""
    rows, times = [], []
    for encoder_points in (64, 2048):
        config = config_of(dataset, "-", train__batch_size=4, data__encoder_points=encoder_points)
        macs = encoder_macs(config, encoder_points) * encoded_a_step(config, SOURCES)
        pairs = config.train.batch_size * config.retrieval.num_candidates * config.data.num_points
        rows.append([1e-9 * macs, 1e-6 * pairs])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times.append(seconds(stepper(config), rounds))
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    encode, pair = np.linalg.solve(np.array(rows), np.array(times))
    formula = step_bytes(config, SOURCES, replace(Measured(), activations=1.0))
    return {"encode_ns": max(encode, 0.01), "pair_us": max(pair, 0.01), "activations": grown / formula}


def of_measuring(dataset: Path, folder: Path) -> dict[str, float]:
    """The tables of a run, its labels' kernel, and a scan fitted by it."""
    from jr_dist.train.labels import make_labels

    run = folder / "run"
    common = {"train__epochs": 2, "train__warmup_epochs": 1, "train__batch_size": 16, "data__encoder_points": 256}
    config = config_of(dataset, run, **common)
    train(config)
    found = {}
    evaluate([run], out=folder / "first", ido=True, gallery=1)  # kernels are compiled, or read from their cache
    for name, ido in (("measure_us", False), ("measure_ido_us", True)):
        sizes = []
        for split in ("test", "train"):
            start = time.process_time()
            tables = evaluate([run], out=folder / f"{name}-{split}", split=split, ido=ido, gallery=1)
            found["report_mb"] = (folder / f"{name}-{split}" / "report.html").stat().st_size / MB
            points = max(row.n for row in tables.rows) * SOURCES * 2048
            sizes.append((points, time.process_time() - start))
        found["measure_s"], each = line(*sizes)
        found[name] = 1e6 * each
    labels = config_of(dataset, folder / "labelled", labels__copies=0, train__method="fit_aware", **common)
    start = time.process_time()
    make_labels(labels)
    pairs = 16 * SOURCES
    found["label_us"] = 1e6 * (time.process_time() - start) / (pairs * labels.labels.num_points)
    scan = sorted((dataset / "scans").iterdir())[0]
    for name, refine in (("fit_s", False), ("fit_refine_s", True)):
        start = time.process_time()
        fit(run, [scan], out=folder / name, top_k=2, refine=refine)
        found[name] = time.process_time() - start
    found["fit_refine_s"] = max(0.01, (found["fit_refine_s"] - found["fit_s"]) / 2)
    return found


def resident_mb(pid: int) -> float:
    """Of a process, without what it shares."""
    fields_of = dict(part.split(":", 1) for part in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(fields_of["Pss"].split()[0]) * 1024 / MB


def of_memory(dataset: Path, folder: Path) -> dict[str, float]:
    """The peak of a process that trains next to nothing, and the daemons of a small Ray."""
    small = {"model.encoder_channels": "16,32", "model.hidden": "16", "data.num_points": 64, "data.encoder_points": 64}
    words = {"data.path": dataset, "run.path": folder / "small", "train.num_workers": 0, "train.epochs": 2, **small}
    code = (
        "import ray.train, sys; from jr_dist.cli import main; main(sys.argv[1:]); "
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    flags = [f"--{name}={value}" for name, value in {**words, "train.warmup_epochs": 1}.items()]
    command = [sys.executable, "-c", code, "train", *flags]
    own = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    from jr_dist.cluster import connect
    from jr_dist.config import ClusterConfig

    mark = f"JR_ESTIMATES={uuid.uuid4().hex}"
    os.environ[mark[:12]] = mark[13:]
    start = time.perf_counter()
    with connect(ClusterConfig(num_cpus=1, object_store_mb=100)):
        started = time.perf_counter() - start
        daemons = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _bears(path, mark)]
        total = sum(resident_mb(pid) for pid in daemons if pid != os.getpid())
    return {"process_mb": int(own) * 1024 / MB, "ray_mb": total, "ray_start_s": started}


def _bears(path: Path, mark: str) -> bool:
    try:
        return mark.encode() in (path / "environ").read_bytes()
    except OSError:
        return False


def main() -> None:
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = 1 if arguments.quick else 3
    print(machine(arguments.threads))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        values = of_synthesis(path / "dataset")
        values |= of_training(path / "dataset", rounds)
        values |= of_render(path / "dataset", rounds)
        values |= of_ingest(path / "models", rounds)
        values |= of_measuring(path / "dataset", path)
        values |= of_memory(path / "dataset", path)
    names = [field.name for field in fields(Measured) if field.name != "machine"]
    assert sorted(values) == sorted(names) and all(map(math.isfinite, values.values()))
    records = [Record(name, values[name], _unit(name)) for name in names]
    finish(records, arguments.json, arguments.csv)
    print(f"\nestimates.py, to copy: {', '.join(f'{name}={values[name]:.3g}' for name in names)}")


def _unit(name: str) -> str:
    return next((unit for end, unit in UNITS.items() if name.endswith(end) or f"{end}_" in name), "")


if __name__ == "__main__":
    assert estimates.MEASURED
    main()
