"""Results of an ingest on disk while they arrive, so that memory holds one model and not all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa

from jr_dist.data.records import SourceModel, TargetShape
from jr_dist.data.schema import source_schema, sources_from, target_schema, targets_from, to_batch


class IngestSpool(AbstractContextManager["IngestSpool"]):
    """Two Arrow files in `folder`, a record batch a model; read back by id after `close`."""

    def __init__(self, folder: Path, num_points: int) -> None:
        self._schemas = {"sources": source_schema(num_points), "targets": target_schema(num_points)}
        self._paths = {table: folder / f"{table}.arrow" for table in self._schemas}
        self._writers = {
            table: pa.ipc.new_file(str(self._paths[table]), schema) for table, schema in self._schemas.items()
        }
        self._rows: dict[str, int] = {}

    def __exit__(self, *error: Any) -> None:
        self.close()

    def add(self, source: SourceModel, target: TargetShape) -> None:
        """Keep one model."""
        self._rows[source.id] = len(self._rows)
        self._writers["sources"].write_batch(to_batch([source], self._schemas["sources"]))
        self._writers["targets"].write_batch(to_batch([target], self._schemas["targets"]))

    def close(self) -> None:
        """End writing; nothing can be read before."""
        for writer in self._writers.values():
            writer.close()

    def sources(self, ids: Sequence[str]) -> Iterator[SourceModel]:
        """The sources with these ids, in their order, one in memory at a time."""
        for batch in self._batches("sources", ids):
            yield from sources_from(batch)

    def targets(self, ids: Sequence[str]) -> Iterator[TargetShape]:
        """The targets with these ids, in their order."""
        for batch in self._batches("targets", ids):
            yield from targets_from(batch)

    def _batches(self, table: str, ids: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self._paths[table])) as file:
            reader = pa.ipc.open_file(file)
            for name in ids:
                yield reader.get_batch(self._rows[name])
