"""What all tests share: checks of array shapes, one local Ray, the real furniture, a tiny dataset."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Two processors are shared by pytest, Ray and the kernels: one thread each, set before torch reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# For the S3 server of `s3_server`: Ray's workers have what this process had when Ray was started.
os.environ |= {"AWS_ACCESS_KEY_ID": "jr-dist", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
os.environ |= {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_EC2_METADATA_DISABLED": "true"}

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from s3_server import S3Server

ROOT = Path(__file__).parent.parent

# Shapes in signatures are checked while testing; not in the files of numba's and Triton's kernels, which are compiled.
CHECKED_MODULES = (
    *(
        f"jr_dist.geometry.{name}"
        for name in (
            "boxes",
            "chamfer",
            "deformed",
            "frames",
            "joints",
            "observation",
            "projection",
            "sampling",
            "symmetry",
        )
    ),
    *(f"jr_dist.models.{path.stem}" for path in (ROOT / "jr_dist/models").glob("*.py") if "_kernels" not in path.stem),
    "jr_dist.train.losses",
)
install_import_hook(CHECKED_MODULES, "beartype.beartype")
torch.set_num_threads(1)
# How long an example takes says nothing on a machine that others use, and the first one may compile a kernel.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for the whole session, of 4 logical CPUs; it starts in seconds and costs 400 MB."""
    from jr_dist.cluster import connect
    from jr_dist.config import ClusterConfig

    with connect(ClusterConfig(num_cpus=4, object_store_mb=256), log_to_driver=False):
        yield


@pytest.fixture(scope="session")
def furniture() -> Path:
    """The folder of real models: JR_FURNITURE, else `shared/data/furniture` beside the clone."""
    path = Path(os.environ.get("JR_FURNITURE", ROOT.parent / "shared" / "data" / "furniture"))
    if not (path / "index.csv").is_file():
        pytest.skip(f"no furniture in {path}: set JR_FURNITURE to a folder of models with an index.csv")
    return path


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A procedural dataset of 12 sources and 30 targets of 256 points."""
    from jr_dist.data.synthesize.generate import synthesize

    path = tmp_path_factory.mktemp("tiny") / "dataset"
    synthesize(path, num_sources=12, num_targets=30, categories=("chair", "table", "cabinet"), seed=0, num_points=256)
    return path


#: settings with which every verb runs in seconds on `tiny_dataset`
TINY_SETTINGS = {
    "data.num_points": 128,
    "data.encoder_points": 64,
    "model.encoder_channels": (16, 32),
    "model.hidden": (32, 16),
    "model.global_code": 16,
    "model.part_code": 8,
    "model.target_code": 16,
    "retrieval.embedding": 16,
    "retrieval.num_candidates": 4,
    "train.epochs": 2,
    "train.warmup_epochs": 1,
    "train.batch_size": 8,
    "train.num_workers": 0,
    "train.validate_every": 1,
    "train.checkpoint_every": 1,
    "evaluate.num_points": 256,
}


@pytest.fixture(scope="session")
def tiny_run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `ours` on `tiny_dataset`, trained for a few steps in this process."""
    from jr_dist.config import load_config
    from jr_dist.train.trainer import train

    path = tmp_path_factory.mktemp("tiny") / "run"
    train(load_config(None, {**TINY_SETTINGS, "data.path": str(tiny_dataset), "run.path": str(path)}))
    return path


@pytest.fixture(scope="session")
def pictured_dataset(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_dataset` with three pictures of every shape, of 32 pixels, as `jr-dist render` leaves them."""
    from jr_dist.data.dataset import open_dataset
    from jr_dist.data.render_images import plan_images, render_images
    from jr_dist.data.render_views import ViewSettings

    path = tmp_path_factory.mktemp("pictured") / "dataset"
    shutil.copytree(tiny_dataset, path)
    tables = ("sources", "train", "val", "test")
    render_images(plan_images(open_dataset(path), ViewSettings(size=32), num_views=3, tables=tables))
    return path


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with a bucket, whose requests a test may count and break; it answers at `S3Server.uri`."""
    from s3_server import s3_server

    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a task and several tasks a stream, as in a long run."""
    from jr_dist.data import ray_stream

    monkeypatch.setattr(ray_stream, "_BLOCK_BYTES", 2000)
    monkeypatch.setattr(ray_stream, "_BLOCKS_PER_TASK", 4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
