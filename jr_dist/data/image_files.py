"""The files of rendered pictures: where they lie, what is in them, how each says what it is of.

A file holds the views VIEWS_A_FILE * j ... of the shapes SHAPES_A_FILE * i ... of one category, a row group a shape,
and in its metadata all that the pictures depend on: so a rerun keeps what is finished, whatever was interrupted.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from jr_dist.atomic import atomic_write
from jr_dist import storage
from jr_dist.data.manifest import MANIFEST, canonical_json
from jr_dist.data.table_reader import Dataset
from jr_dist.errors import InputError

IMAGES = "images"
SHAPES_A_FILE = 32
VIEWS_A_FILE = 8
SCHEMA_VERSION = 1
CAMERA_COLUMNS = ("azimuth", "elevation", "distance", "field_of_view")
_ABOUT = b"jr_dist"  # the entry of the metadata
# Nothing that a clock or the machine could move; PNG is compressed already.
_OPTIONS: dict[str, Any] = {
    "version": "2.6",
    "compression": "none",
    "use_dictionary": False,
    "write_statistics": False,
    "write_page_checksum": True,
}


@dataclass(frozen=True)
class RenderTask:
    """One file: which pictures are in it."""

    table: str  # "sources" or a split
    category: int  # its place among the dataset's categories
    shapes: int  # which block of the category's shapes
    views: int  # which block of views
    rows: tuple[int, ...]  # the shapes, as `Shapes` of the table and all categories numbers them
    ids: tuple[str, ...]  # of these
    num_views: int  # how many views are in it: VIEWS_A_FILE, or what is left

    @property
    def path(self) -> str:
        """Below the dataset."""
        name = f"category-{self.category:02d}-shapes-{self.shapes:05d}-views-{self.views:03d}.parquet"
        return f"{IMAGES}/{self.table}/{name}"

    @property
    def view_numbers(self) -> range:
        """The views in it."""
        return range(self.views * VIEWS_A_FILE, self.views * VIEWS_A_FILE + self.num_views)

    @property
    def num_pictures(self) -> int:
        """Its rows."""
        return len(self.rows) * self.num_views


def about(task: RenderTask, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that a file's content depends on, JSON-able."""
    return {
        "schema_version": SCHEMA_VERSION,
        "settings": dict(settings),
        "ids": list(task.ids),
        "views": list(task.view_numbers),
    }


def file_content(task: RenderTask, settings: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]) -> bytes:
    """The Parquet file of a task's pictures: columns in the order of its shapes, then of its views."""
    kinds = {name: pa.float32() for name in CAMERA_COLUMNS} | {"id": pa.string(), "view": pa.int32()}
    fields = [pa.field(name, kinds.get(name, pa.binary()), nullable=False) for name in columns]
    schema = pa.schema(fields, metadata={_ABOUT: canonical_json(about(task, settings))})
    table = pa.table(dict(columns), schema=schema)
    assert table.num_rows == task.num_pictures, "all pictures of the task"
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, **_OPTIONS) as writer:
        writer.write_table(table, row_group_size=task.num_views)
    return sink.getvalue()


def content_of(dataset: Dataset, path: str) -> bytes | None:
    """A file below the dataset; None where there is none."""
    place, root = storage.resolve(dataset.path, dataset.filesystem)
    if storage.file_size(place, f"{root}/{path}") is None:
        return None
    return storage.read_bytes(place, f"{root}/{path}")


def about_of(content: bytes) -> dict[str, Any] | None:
    """What a file says of itself; None where it is damaged or somebody else's."""
    try:
        return json.loads(pq.read_schema(io.BytesIO(content)).metadata[_ABOUT])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None


def write_file(dataset: Dataset, path: str, content: bytes) -> None:
    """Leave a file whole or not at all."""
    place, root = storage.resolve(dataset.path, dataset.filesystem)
    if isinstance(place, pafs.LocalFileSystem):
        atomic_write(f"{root}/{path}", content)
    else:
        storage.write_bytes(place, f"{root}/{path}", content)


def write_manifest(dataset: Dataset, settings: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    """`images/manifest.json`: what the pictures are of and how they were made, and every file with its hash."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "dataset": settings["dataset"],
        "settings": dict(settings),
        "tables": dict(tables),
    }
    text = json.dumps(content, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_file(dataset, f"{IMAGES}/{MANIFEST}", text.encode())


def read_manifest(dataset: Dataset) -> dict[str, Any] | None:
    """`images/manifest.json`; None where there is none. Raises `InputError` for what is no such file."""
    content = content_of(dataset, f"{IMAGES}/{MANIFEST}")
    if content is None:
        return None
    try:
        manifest = json.loads(content)
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{dataset.path}/{IMAGES}/{MANIFEST} is no manifest ({error!r}); delete it and run `jr-dist render` again"
        ) from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"the pictures in {dataset.path}/{IMAGES} have schema version {version}; this release reads "
            f"{SCHEMA_VERSION}; delete them and run `jr-dist render` again"
        )
    return manifest
