"""Tables that outgrow memory: a fixed-shape column decoded once a machine into a file that all its processes map.

Parquet can't be mapped as an array, and decoding a row group for each row that is asked for is too slow. The files lie
in the folder that JR_SCRATCH names, else in one of the user's own in the system's temporary folder, under the hash of
the dataset; they may be deleted whenever nothing runs.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

import numpy as np

from jr_dist.data.dataset import Dataset, read_batches
from jr_dist.data.schema import tensor
from jr_dist.errors import InputError


def mapped_column(dataset: Dataset, table: str, column: str) -> np.ndarray:
    """A fixed-shape column of all rows of "sources" or a split, [rows, *shape], read-only and mapped from a file.

    Raises `InputError` where the scratch folder is somebody else's, full or not writable, and for damaged files.
    """
    try:
        path = scratch_folder() / dataset.hash / f"{table}-{column}.npy"
        if not path.exists():
            _decode(dataset, table, column, path)
    except OSError as error:
        raise InputError(f"no scratch file for {table} ({error}); name a folder with room in JR_SCRATCH") from error
    return np.load(path, mmap_mode="r", allow_pickle=False)


def scratch_folder() -> Path:
    """Where decoded columns lie; made for the user alone."""
    given = os.environ.get("JR_SCRATCH")
    path = Path(given) if given else Path(tempfile.gettempdir()) / f"jr-dist-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        # In a folder that all may write to, somebody else's files would be taken for ours.
        raise InputError(f"scratch folder {path} belongs to another user; name one of your own in JR_SCRATCH")
    return path


def _decode(dataset: Dataset, table: str, column: str, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    result, filled = None, 0
    try:
        for batch in read_batches(dataset, table, columns=[column]):
            values = tensor(batch[column])
            if result is None:
                shape = (dataset.manifest.counts[table], *values.shape[1:])
                result = np.lib.format.open_memmap(aside, "w+", values.dtype, shape)
            result[filled : filled + len(values)] = values
            filled += len(values)
        assert result is not None, "callers know that the table has rows"
        assert filled == len(result), "the manifest counts the rows"
        result.flush()
        os.replace(aside, path)  # two processes may have done the same work: the files are equal
    finally:
        aside.unlink(missing_ok=True)
