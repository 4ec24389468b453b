"""Other people's models as a dataset: files in, sources and targets out, a reason for what could not be
used.
"""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jr_dist.atomic import atomic_directory
from jr_dist.config import ClusterConfig
from jr_dist import storage
from jr_dist.data.dataset import write_dataset
from jr_dist.data.ingest_file import IngestedFile, try_ingest_file
from jr_dist.data.ingest_report import IngestReport, write_report
from jr_dist.data.ingest_spool import IngestSpool
from jr_dist.data.ingest_tasks import IngestTask, find_tasks
from jr_dist.data.model_index import UP_AXES
from jr_dist.data.roles import choose_sources, split_rest
from jr_dist.errors import InputError
from jr_dist.locations import UriPath, check_access
from jr_dist.progress import Progress

MIN_POINTS, MAX_POINTS = 32, 65536
MAX_PICTURES = 256


def ingest(
    path: str | Path,
    out: str | Path,
    *,
    num_sources: int | None = None,
    split_seed: int = 0,
    index: str | Path | None = None,
    num_points: int = 2048,
    partnet: bool = False,
    up: str = "y",
    category: str | None = None,
    file_seconds: float = 300.0,
    pictures: bool = True,
    cluster: ClusterConfig | None = None,
    local: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Make a dataset of the mesh files at or below `path`; `find_tasks` explains `index`, `up` and
    `category`.

    `num_sources` of the usable models become sources (`choose_sources` has the default), the rest targets,
    80/10/10 in each category. Files are read in parallel by Ray Data (`cluster`), or one after the other in
    this process where `local` is set; the tables are the same, byte for byte. Beside them lie `ingest.json`
    (every file with its parts or its problem) and, unless `pictures` is off, `contact_sheet.png`: at most 256
    models, evenly chosen, their parts in colours. `progress` advances by one a file.

    Raises `InputError` for settings out of range, an `out` that exists, no file at all, and no file that
    can be used; otherwise a bad file is told in the report and stops nothing.
    """
    _check(out, num_sources, split_seed, num_points, file_seconds)
    if up not in (*UP_AXES, "auto"):
        raise InputError(f"up is {up!r}; allowed are {', '.join(UP_AXES)} and auto; change --up")
    location = storage.as_location(out)
    beside = None if storage.is_uri(location) else Path(location)
    tasks, skipped = find_tasks(path, index=index, up=up, category=category, partnet=partnet, leave_out=beside)
    if num_sources is not None and num_sources > len(tasks):
        raise InputError(
            f"num_sources is {num_sources}, but {path} holds {len(tasks)} models; allowed is 1 to {len(tasks)}; "
            "lower --num-sources or add models"
        )
    even = np.linspace(0, len(tasks) - 1, min(len(tasks), MAX_PICTURES)).astype(int)
    shown = frozenset(tasks[place].id for place in even) if pictures else frozenset()
    options: dict[str, Any] = {"num_points": num_points, "seconds": file_seconds, "pictures": shown}
    with tempfile.TemporaryDirectory(prefix="jr-dist-ingest-") as folder:
        with IngestSpool(Path(folder), num_points) as spool:
            results = _one_by_one(tasks, **options) if local else _in_parallel(tasks, cluster, **options)
            models, images = _collect(tasks, results, spool, skipped, progress)
        if not models:
            raise InputError(_nothing_left(path, skipped))
        sources = choose_sources(models, num_sources, split_seed)
        targets = split_rest(models, sources, split_seed)
        how = {"made_by": "ingest", "num_sources": len(sources), "split_seed": split_seed, "num_points": num_points}
        with nullcontext(location) if storage.is_uri(location) else atomic_directory(location) as root:
            tables = {split: spool.targets(names) for split, names in targets.items()}
            manifest = write_dataset(root, spool.sources(sources), tables, how=how)
            roles = {name: split for split, names in targets.items() for name in names}
            write_report(str(root), _folder(path), models, roles | dict.fromkeys(sources, "source"), skipped, images)
    return IngestReport(manifest, models, skipped)


def _folder(path: str | Path) -> Path:
    return Path(path) if Path(path).is_dir() else Path(path).parent


def _check(out: str | Path, num_sources: int | None, split_seed: int, num_points: int, file_seconds: float) -> None:
    if not MIN_POINTS <= num_points <= MAX_POINTS:
        raise InputError(f"num_points is {num_points}; allowed is {MIN_POINTS} to {MAX_POINTS}; change --num-points")
    if num_sources is not None and num_sources < 1:
        raise InputError(f"num_sources is {num_sources}; allowed is 1 or more; change --num-sources")
    if split_seed < 0:
        raise InputError(f"split_seed is {split_seed}; allowed is 0 or more; change --split-seed")
    if not 0 < file_seconds < 1e6:
        raise InputError(f"file_seconds is {file_seconds}; allowed is above 0, below 1e6; change --file-seconds")
    location = storage.as_location(out)
    place = Path(location)
    if storage.is_uri(location):
        check_access(UriPath(location), "output")  # before hours of reading
        if not storage.is_empty(*storage.resolve(location)):
            raise InputError(f"output {out} is not empty; allowed is a new place; remove it or name another")
    elif place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"output {out} exists already; allowed is a new or empty directory; remove it or name another")


def _one_by_one(tasks: Sequence[IngestTask], *, pictures: frozenset[str], **options: Any) -> Iterator[IngestedFile]:
    return (try_ingest_file(task, picture=task.id in pictures, **options) for task in tasks)


def _in_parallel(tasks: Sequence[IngestTask], cluster: ClusterConfig | None, **options: Any) -> Iterator[IngestedFile]:
    # Ray takes seconds to import and is not needed to read a few files.
    from jr_dist.data.ingest_job import ingest_in_parallel

    return ingest_in_parallel(tasks, cluster=cluster or ClusterConfig(), **options)


def _collect(
    tasks: Sequence[IngestTask],
    results: Iterable[IngestedFile],
    spool: IngestSpool,
    skipped: dict[str, str],
    progress: Progress | None,
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Spool the usable models as they arrive. Returns what is known of each and pictures, by id, sorted;
    problems go
    to `skipped`, by file."""
    file = {task.id: task.file for task in tasks}
    models: dict[str, dict[str, Any]] = {}
    images: dict[str, np.ndarray] = {}
    counted = Counter(used=0, left_out=0)
    for result in results:
        if result.source is None or result.target is None:
            skipped[file[result.id]] = result.problem or f"{file[result.id]} gave nothing"
            counted["left_out"] += 1
        else:
            spool.add(result.source, result.target)
            models[result.id] = _told(result)
            if result.picture:
                images[result.id] = np.asarray(Image.open(io.BytesIO(result.picture)))
            counted["used"] += 1
        if progress:
            progress.advance(**counted)
    return dict(sorted(models.items())), dict(sorted(images.items()))


def _told(result: IngestedFile) -> dict[str, Any]:
    source = result.source
    assert source is not None
    return {
        **source.provenance,
        "category": source.category,
        "num_parts": source.num_parts,
        "part_names": list(source.part_names),
    }


def _nothing_left(path: str | Path, skipped: Mapping[str, str]) -> str:
    reasons = [skipped[file] for file in sorted(skipped)]
    if len(reasons) == 1:
        return reasons[0]
    return f"none of the {len(reasons)} models in {path} can be used; the first: {reasons[0]}"
