"""An opened dataset and its Parquet files, row group by row group."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from jr_dist import storage
from jr_dist.data.manifest import FileEntry, Manifest
from jr_dist.data.schema import source_schema, target_schema
from jr_dist.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """An opened dataset: where it lies and its manifest; rows are read when asked for. Small, and it pickles."""

    path: str
    manifest: Manifest
    filesystem: pafs.FileSystem | None = field(default=None, repr=False, compare=False)

    @property
    def num_points(self) -> int:
        """Points stored for every source and target."""
        return self.manifest.num_points

    @property
    def categories(self) -> tuple[str, ...]:
        """All categories, sorted."""
        return tuple(sorted(self.manifest.categories))

    @property
    def hash(self) -> str:
        """The name of its content: two datasets with this hash hold the same rows in the same order."""
        return self.manifest.hash


def read_groups(
    dataset: Dataset, table: str, columns: Sequence[str]
) -> Iterator[tuple[FileEntry, int, pa.RecordBatch]]:
    """All row groups of a table in order: the file, the number of the group in it, its rows."""
    for entry in dataset.manifest.table_files(table):
        with _open_parquet(dataset, entry, schema_of(dataset, table)) as file:
            for group in range(file.num_row_groups):
                yield entry, group, _read_group(dataset, entry, file, group, columns)


def read_group(
    dataset: Dataset, table: str, entry: FileEntry, group: int, columns: Sequence[str] | None = None
) -> pa.RecordBatch:
    """One row group, with all columns by default."""
    schema = schema_of(dataset, table)
    with _open_parquet(dataset, entry, schema) as file:
        return _read_group(dataset, entry, file, group, columns or schema.names)


def schema_of(dataset: Dataset, table: str) -> pa.Schema:
    return (source_schema if table == "sources" else target_schema)(dataset.num_points)


def _open_parquet(dataset: Dataset, entry: FileEntry, schema: pa.Schema) -> pq.ParquetFile:
    place, root = storage.resolve(dataset.path, dataset.filesystem)
    local = isinstance(place, pafs.LocalFileSystem)
    try:
        file = pq.ParquetFile(
            f"{root}/{entry.path}",
            filesystem=None if local else place,
            memory_map=local,
            page_checksum_verification=True,
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{dataset.path}/{entry.path} is not on machine {platform.node()}; restore it, or keep the dataset of a "
            f"cluster where all its machines reach it"
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise _damaged(dataset, entry, error) from error
    if not file.schema_arrow.equals(schema) or file.metadata.num_rows != entry.rows:
        raise _damaged(dataset, entry, f"its columns or its rows ({file.metadata.num_rows}) are not what was written")
    return file


def _read_group(
    dataset: Dataset, entry: FileEntry, file: pq.ParquetFile, group: int, columns: Sequence[str]
) -> pa.RecordBatch:
    try:
        return file.read_row_group(group, columns=list(columns)).combine_chunks().to_batches()[0]
    except (pa.ArrowException, OSError) as error:
        raise _damaged(dataset, entry, error) from error


def _damaged(dataset: Dataset, entry: FileEntry, reason: object) -> InputError:
    return InputError(f"{dataset.path}/{entry.path} is damaged ({reason}); restore it or make the dataset again")
