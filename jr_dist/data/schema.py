"""The Parquet columns of sources and targets, and the way between records and rows.

Fixed shapes (points, part indices, transforms) are Arrow's fixed-shape tensors, which pyarrow and Ray Data both read as
one array; ragged ones (boxes, joints) are lists of fixed-size lists, so that their shape comes back with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from jr_dist.data.manifest import canonical_json
from jr_dist.data.records import SourceModel, TargetShape


def source_schema(num_points: int) -> pa.Schema:
    """Columns of sources/*.parquet, as the fields of `SourceModel`."""
    return _schema(
        id=pa.string(),
        category=pa.string(),
        part_names=_list(pa.string()),
        centre=_list(_fixed(pa.float32(), 3)),
        half_extent=_list(_fixed(pa.float32(), 3)),
        points=pa.fixed_shape_tensor(pa.float32(), (num_points, 3)),
        part_index=pa.fixed_shape_tensor(pa.int16(), (num_points,)),
        joint_parts=_list(_fixed(pa.int32(), 2)),
        joint_coordinates=_list(_fixed(_fixed(pa.float32(), 3), 2)),
        mesh_glb=pa.binary(),
        transform=pa.fixed_shape_tensor(pa.float64(), (4, 4)),
        provenance=pa.string(),
    )


def target_schema(num_points: int) -> pa.Schema:
    """Columns of targets/*/*.parquet, as the fields of `TargetShape`."""
    return _schema(
        id=pa.string(),
        category=pa.string(),
        points=pa.fixed_shape_tensor(pa.float32(), (num_points, 3)),
        part_index=pa.fixed_shape_tensor(pa.int16(), (num_points,)),
        transform=pa.fixed_shape_tensor(pa.float64(), (4, 4)),
        provenance=pa.string(),
    )


def to_batch(records: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    """Records (all sources or all targets) as rows of `schema`."""
    return pa.RecordBatch.from_arrays([_column(records, field) for field in schema], schema=schema)


def tensor(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A fixed-shape column as one array [rows, *shape]."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    arrays = [chunk.to_numpy_ndarray() for chunk in chunks if len(chunk)]
    if not arrays:
        return np.zeros((0, *column.type.shape), column.type.value_type.to_pandas_dtype())
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def ragged(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A list column as (offsets [rows + 1] from 0, values [total, *shape])."""
    offsets = column.offsets.to_numpy()
    values, shape = column.values.slice(offsets[0], offsets[-1] - offsets[0]), []
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.flatten()
    return offsets - offsets[0], values.to_numpy(zero_copy_only=False).reshape(-1, *shape)


def sources_from(batch: pa.RecordBatch) -> Iterator[SourceModel]:
    """The rows of a batch with `source_schema` as records."""
    rows = {name: _ragged_rows(batch[name]) for name in _RAGGED} | {name: tensor(batch[name]) for name in _TENSORS}
    for row in range(batch.num_rows):
        yield SourceModel(
            id=batch["id"][row].as_py(),
            category=batch["category"][row].as_py(),
            part_names=tuple(batch["part_names"][row].as_py()),
            mesh_glb=batch["mesh_glb"][row].as_py(),
            provenance=json.loads(batch["provenance"][row].as_py()),
            **{name: values[row] for name, values in rows.items()},
        )


def targets_from(batch: pa.RecordBatch) -> Iterator[TargetShape]:
    """The rows of a batch with `target_schema` as records."""
    rows = {name: tensor(batch[name]) for name in _TENSORS}
    for row in range(batch.num_rows):
        yield TargetShape(
            id=batch["id"][row].as_py(),
            category=batch["category"][row].as_py(),
            provenance=json.loads(batch["provenance"][row].as_py()),
            **{name: values[row] for name, values in rows.items()},
        )


_TENSORS = ("points", "part_index", "transform")
_RAGGED = ("centre", "half_extent", "joint_parts", "joint_coordinates")


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False))


def _fixed(kind: pa.DataType, size: int) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False), size)


def _ragged_rows(column: pa.Array) -> list[np.ndarray]:
    offsets, values = ragged(column)
    return [values[start:end] for start, end in pairwise(offsets)]


def _column(records: Sequence[Any], field: pa.Field) -> pa.Array:
    values = [getattr(record, field.name) for record in records]
    if isinstance(field.type, pa.FixedShapeTensorType):
        stacked = np.stack(values).astype(field.type.value_type.to_pandas_dtype(), copy=False)
        assert stacked.shape[1:] == tuple(field.type.shape), (field.name, stacked.shape, field.type.shape)
        flat = pa.array(np.ascontiguousarray(stacked).reshape(-1))
        return pa.ExtensionArray.from_storage(
            field.type, pa.FixedSizeListArray.from_arrays(flat, type=field.type.storage_type)
        )
    if field.name in _RAGGED:
        return _ragged_column(values, field.type)
    if field.name == "provenance":
        values = [canonical_json(dict(value)) for value in values]
    elif field.name == "part_names":
        values = [list(value) for value in values]
    return pa.array(values, field.type)


def _ragged_column(values: list[np.ndarray], kind: pa.DataType) -> pa.Array:
    nested, inner = [], kind.value_type
    while pa.types.is_fixed_size_list(inner):
        nested.append(inner)
        inner = inner.value_type
    shape = tuple(x.list_size for x in nested)
    stacked = np.concatenate([np.asarray(x).reshape(-1, *shape) for x in values])
    array = pa.array(stacked.astype(inner.to_pandas_dtype(), copy=False).reshape(-1))
    for x in reversed(nested):
        array = pa.FixedSizeListArray.from_arrays(array, type=x)
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in values])])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), array, type=kind)
