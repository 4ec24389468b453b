"""Stream records into Parquet files of bounded size, byte for byte the same for the same records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from jr_dist import storage
from jr_dist.data.manifest import MANIFEST, SPLITS, FileEntry, Manifest, canonical_json, folder, to_text
from jr_dist.data.records import SourceModel, TargetShape
from jr_dist.data.schema import source_schema, target_schema, to_batch
from jr_dist.errors import InputError

ROWS_PER_GROUP = 64  # a reader that wants a few rows decodes little
_GROUP_BYTES = 32 << 20  # textured meshes are big: a group is closed early
_FILE_BYTES = 256 << 20
# Nothing that a clock, a path or the machine could move; checksums so that a flipped bit is found when it is read.
_OPTIONS: dict[str, Any] = {
    "version": "2.6",
    "compression": {"mesh_glb": "zstd", "provenance": "zstd", "part_index.list.element": "zstd"},
    "use_dictionary": ["category"],
    "write_statistics": False,
    "write_page_checksum": True,
}


def write_tables(
    place: pafs.FileSystem,
    root: str,
    location: str,
    sources: Iterable[SourceModel],
    targets: Mapping[str, Iterable[TargetShape]],
    how: Mapping[str, Any],
) -> Manifest:
    """All tables below `root`, then the manifest. `location` is what errors call the dataset."""
    remaining = iter(sources)
    first = next(remaining, None)
    if first is None:
        raise InputError(f"dataset {location} would have no source; allowed is one or more; give it sources")
    num_points = len(first.points)
    tables = {"sources": _unique(chain([first], remaining), "sources", {})}
    seen: dict[str, str] = {}
    tables |= {split: _unique(targets.get(split, ()), split, seen) for split in SPLITS}
    files: list[FileEntry] = []
    counted: dict[str, Counter[str]] = {}
    for table, records in tables.items():
        schema = (source_schema if table == "sources" else target_schema)(num_points)
        entries, counted[table] = _write_table(place, root, table, records, schema)
        files += entries
    manifest = Manifest(
        num_points=num_points,
        counts={table: sum(counter.values()) for table, counter in counted.items()},
        categories={
            category: {table: counter[category] for table, counter in counted.items()}
            for category in sorted(set().union(*counted.values()))
        },
        files=tuple(files),
        how=dict(how),
    )
    storage.write_bytes(place, f"{root}/{MANIFEST}", to_text(manifest).encode())
    return manifest


def _unique(records: Iterable[Any], table: str, seen: dict[str, str]) -> Iterator[Any]:
    for record in records:
        if record.id in seen:
            raise InputError(f"id {record.id!r} comes twice, in {seen[record.id]} and {table}; ids must be unique")
        seen[record.id] = table
        yield record


def _write_table(
    place: pafs.FileSystem, root: str, table: str, records: Iterable[Any], schema: pa.Schema
) -> tuple[list[FileEntry], Counter[str]]:
    """Write the records as files of the table; returns the files and the rows of each category.

    One row group of records is in memory at a time. No records, no file.
    """
    entries: list[FileEntry] = []
    categories: Counter[str] = Counter()
    groups = _groups(records)
    group = next(groups, None)
    while group is not None:
        path = f"{folder(table)}/part-{len(entries):05d}.parquet"
        place.create_dir(f"{root}/{folder(table)}", recursive=True)
        rows = 0
        sink = _Sink(place.open_output_stream(f"{root}/{path}"))
        with sink, pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, **_OPTIONS) as writer:
            while group is not None and (rows == 0 or sink.size < _FILE_BYTES):
                writer.write_batch(to_batch(group, schema), row_group_size=ROWS_PER_GROUP)
                rows += len(group)
                categories.update(record.category for record in group)
                group = next(groups, None)
        entries.append(FileEntry(path, rows, sink.size, sink.digest.hexdigest()))
    return entries, categories


def _groups(records: Iterable[Any]) -> Iterator[list[Any]]:
    """Row groups; where they end depends on the records alone."""
    group, size = [], 0
    for record in records:
        group.append(record)
        size += len(getattr(record, "mesh_glb", b"")) + len(canonical_json(dict(record.provenance)))
        if len(group) == ROWS_PER_GROUP or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


class _Sink:
    """A file-like object that counts and hashes what passes through it, so that no file is read back."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.size = 0
        self.closed = False

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stream.close()

    def write(self, data: Any) -> int:
        data = memoryview(data)
        self.digest.update(data)
        self.size += data.nbytes
        self._stream.write(data)
        return data.nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.closed = True  # the stream is closed by `with`, also after an error

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
