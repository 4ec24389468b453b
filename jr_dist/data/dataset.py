"""A dataset on disk: written as a stream, whole or not there, byte for byte the same for the same content.

DATASET/manifest.json, sources/*.parquet, targets/{train,val,test}/*.parquet; the columns are in `schema`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from jr_dist.atomic import atomic_directory
from jr_dist import storage
from jr_dist.data.manifest import MANIFEST, SPLITS, FileEntry, Manifest, from_text
from jr_dist.data.records import SourceModel, TargetShape
from jr_dist.data.schema import sources_from, targets_from, tensor
from jr_dist.data.table_reader import Dataset, read_groups, schema_of
from jr_dist.data.table_writer import write_tables
from jr_dist.errors import InputError
from jr_dist.locations import AnyPath, UriPath, check_access


@dataclass(frozen=True)
class TargetTable:
    """The targets of a split, in the order of the file: T rows."""

    ids: tuple[str, ...]
    categories: tuple[str, ...]
    points: np.ndarray  # [T, N, 3] float32
    transforms: np.ndarray  # [T, 4, 4] float64
    part_index: np.ndarray  # [T, N] int16, -1 where unknown

    def __len__(self) -> int:
        return len(self.ids)


def split_targets(ids: Iterable[str], seed: int) -> dict[str, list[str]]:
    """80/10/10 of the ids, each part sorted; depends on the set of ids and the seed, not on their order.

    Three or more ids leave no split empty.
    """
    ordered = sorted(set(ids))
    order = np.argsort(np.random.PCG64(seed).random_raw(len(ordered)), kind="stable")
    num_val = num_test = max(round(len(ordered) / 10), int(len(ordered) >= 3))
    cuts = {"val": order[:num_val], "test": order[num_val : num_val + num_test], "train": order[num_val + num_test :]}
    return {split: sorted(ordered[i] for i in cuts[split]) for split in SPLITS}


def write_dataset(
    path: str | Path,
    sources: Iterable[SourceModel],
    targets: Mapping[str, Iterable[TargetShape]],
    *,
    how: Mapping[str, Any],
    replace: bool = False,
    filesystem: pafs.FileSystem | None = None,
) -> Manifest:
    """Write sources and the targets of each split ("train", "val", "test") and return the manifest.

    Iterables are consumed once, one row group in memory at a time. A local dataset appears whole or not at all; on an
    object store the manifest comes last. Raises `InputError` where something lies at `path` (unless `replace`), for two
    rows with one id, a target in two splits, and a dataset without sources.
    """
    assert set(targets) <= set(SPLITS), f"splits are {SPLITS}"
    location = storage.as_location(path) if filesystem is None else str(path)
    if filesystem is not None or storage.is_uri(location):
        place, root = storage.resolve(location, filesystem)
        if filesystem is None:
            check_access(UriPath(location), "output")
        if not storage.is_empty(place, root):
            raise InputError(f"output {location} is not empty; allowed is a new place; remove it or name another")
        return write_tables(place, root, location, sources, targets, how)
    with atomic_directory(location, replace=replace) as aside:
        return write_tables(pafs.LocalFileSystem(), str(aside), location, sources, targets, how)


def open_dataset(path: str | AnyPath, *, verify: bool = False, filesystem: pafs.FileSystem | None = None) -> Dataset:
    """Open a dataset; `verify` reads every byte and compares the hashes.

    Raises `InputError`: no such directory, no manifest (writing was not finished), another schema version, a file that
    is missing, of another size or (with `verify`) of other content.
    """
    location = storage.as_location(path) if filesystem is None else str(path)
    place, root = storage.resolve(location, filesystem)
    try:
        info = place.get_file_info([root, f"{root}/{MANIFEST}"])
    except OSError as error:
        raise InputError(f"dataset {location} can't be reached ({error}); check the address and the rights") from error
    if info[1].type != pafs.FileType.File:
        # Object stores know no directories: there, only the manifest says that something is there.
        if info[0].type == pafs.FileType.Directory:
            raise InputError(f"{location} has no {MANIFEST}: no dataset, or one not written to its end; make it again")
        raise InputError(f"no dataset at {location}; allowed is a directory with a {MANIFEST}; check the path")
    manifest = from_text(storage.read_bytes(place, f"{root}/{MANIFEST}"), location)
    dataset = Dataset(location, manifest, filesystem)
    for entry in manifest.files:
        _check_file(place, root, entry, verify)
    return dataset


def check_categories(dataset: Dataset, categories: Sequence[str] | None) -> tuple[str, ...] | None:
    """The categories as a tuple; None (all) for none. Raises `InputError` for one the dataset lacks."""
    if not categories:
        return None
    for category in categories:
        if category not in dataset.manifest.categories:
            raise InputError(
                f"category {category!r} is not in dataset {dataset.path}; allowed are {', '.join(dataset.categories)}"
            )
    return tuple(categories)


def count_rows(dataset: Dataset, table: str, categories: Sequence[str] | None = None) -> int:
    """Rows of "sources", "train", "val" or "test" in the categories, from the manifest alone.

    Raises `InputError` for an unknown split or category.
    """
    if table not in dataset.manifest.counts:
        raise InputError(f"split {table!r} is unknown; allowed are {', '.join(SPLITS)}")
    chosen = check_categories(dataset, categories) or dataset.categories
    return sum(dataset.manifest.categories[category][table] for category in set(chosen))


def require_rows(dataset: Dataset, table: str, categories: Sequence[str] | None = None) -> int:
    """`count_rows`, which must not be 0: raises `InputError` where there is nothing."""
    num_rows = count_rows(dataset, table, categories)
    if not num_rows:
        kind = "source" if table == "sources" else f"target in split {table!r}"
        of = f" of {', '.join(categories)}" if categories else ""
        raise InputError(f"dataset {dataset.path} has no {kind}{of}; choose other categories or make a larger dataset")
    return num_rows


def read_sources(dataset: Dataset, categories: Sequence[str] | None = None) -> Iterator[SourceModel]:
    """The sources one by one, in the order of the file. Raises `InputError` where there is none or one is damaged."""
    require_rows(dataset, "sources", categories)
    return (source for batch in read_batches(dataset, "sources", categories) for source in sources_from(batch))


def iter_targets(dataset: Dataset, split: str, categories: Sequence[str] | None = None) -> Iterator[TargetShape]:
    """The targets of a split one by one, provenance included. Raises `InputError` as `read_targets` does."""
    require_rows(dataset, split, categories)
    return (target for batch in read_batches(dataset, split, categories) for target in targets_from(batch))


def read_targets(dataset: Dataset, split: str, categories: Sequence[str] | None = None) -> TargetTable:
    """All targets of a split in memory: 26 kB each at 2048 points.

    Raises `InputError` for an unknown split or category, a selection without targets, and damaged files.
    """
    num_targets = require_rows(dataset, split, categories)
    ids, names, transforms = [], [], []
    points = np.empty((num_targets, dataset.num_points, 3), np.float32)
    part_index = np.empty((num_targets, dataset.num_points), np.int16)
    columns = ["id", "category", "points", "part_index", "transform"]
    for batch in read_batches(dataset, split, categories, columns):
        rows = slice(len(ids), len(ids) + batch.num_rows)
        points[rows], part_index[rows] = tensor(batch["points"]), tensor(batch["part_index"])
        transforms.append(tensor(batch["transform"]))
        ids += batch["id"].to_pylist()
        names += batch["category"].to_pylist()
    assert len(ids) == num_targets, "the manifest counts the rows"
    return TargetTable(tuple(ids), tuple(names), points, np.concatenate(transforms), part_index)


def read_batches(
    dataset: Dataset, table: str, categories: Sequence[str] | None = None, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Row groups of a table ("sources" or a split), filtered by category, with `columns` (all by default).

    Raises `InputError` for a file that is damaged.
    """
    chosen = check_categories(dataset, categories)
    wanted = list(columns or schema_of(dataset, table).names)
    read = wanted if chosen is None or "category" in wanted else [*wanted, "category"]
    for _, _, batch in read_groups(dataset, table, read):
        if chosen is not None:
            batch = batch.filter(pa.array([name in chosen for name in batch["category"].to_pylist()]))
        if batch.num_rows:
            yield batch.select(wanted)


def _check_file(place: pafs.FileSystem, root: str, entry: FileEntry, verify: bool) -> None:
    size = storage.file_size(place, f"{root}/{entry.path}")
    if size is None:
        raise InputError(f"{root}/{entry.path} is missing; restore the file or make the dataset again")
    if size != entry.bytes:
        raise InputError(
            f"{root}/{entry.path} has {size} bytes, the manifest says {entry.bytes}; restore it or make it again"
        )
    if verify:
        digest = hashlib.sha256()
        with place.open_input_stream(f"{root}/{entry.path}") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest() != entry.sha256:
            raise InputError(f"{root}/{entry.path} differs from its hash in the manifest; restore it or make it again")
