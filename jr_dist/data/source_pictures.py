"""The pictures of sources, where they stand for them in the retrieval space: decoded once into a mapped file.

All processes of a machine share the file, which lies in the scratch folder (`decoded`) under the dataset's hash.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jr_dist.data.decoded import scratch_folder
from jr_dist.data.pictures import Pictures, PictureSettings, check_views, open_pictures
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.progress import progress


@dataclass(frozen=True)
class SourcePictures:
    """V plain pictures of each of S sources."""

    values: np.ndarray  # [S, V, 3, s, s] uint8, mapped from a file

    @property
    def num_views(self) -> int:
        """V."""
        return self.values.shape[1]

    def take(self, rows: np.ndarray, views: np.ndarray | int) -> Tensor:
        """The pictures [M, 3, s, s] uint8 of the sources `rows` [M], one view of each."""
        return torch.from_numpy(np.array(self.values[rows, views]))


def source_pictures(store: SourceStore, settings: PictureSettings, num_views: int) -> SourcePictures:
    """The first `num_views` pictures of each source, in the order of the store.

    Raises `InputError` as `open_pictures` does, and where there are fewer views or no room for the file.
    """
    chosen = sorted(set(store.categories))
    pictures = open_pictures(store.dataset, "sources", chosen, settings)
    check_views(pictures, num_views)
    assert pictures.num_rows == len(store), "the same sources in the same order"
    of_content = pictures.identity, pictures.size, num_views, chosen, pictures.plain(0, 0).tobytes()
    key = hashlib.sha256(repr(of_content).encode()).hexdigest()[:24]  # a picture among it: renderers change
    try:
        path = scratch_folder() / store.dataset.hash / f"pictures-{key}.npy"
        if not path.exists():
            _decode(pictures, num_views, path)
    except OSError as error:
        raise InputError(f"no scratch file for pictures ({error}); name a folder with room in JR_SCRATCH") from error
    return SourcePictures(np.load(path, mmap_mode="r", allow_pickle=False))


def _decode(pictures: Pictures, num_views: int, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    shape = (pictures.num_rows, num_views, 3, pictures.size, pictures.size)
    try:
        values = np.lib.format.open_memmap(aside, "w+", np.uint8, shape)
        with progress("pictures of sources", pictures.num_rows, unit="source") as report:
            for row in range(pictures.num_rows):
                for view in range(num_views):
                    values[row, view] = pictures.plain(row, view)
                report.advance(1)
        values.flush()
        os.replace(aside, path)  # two processes may have done the same work: the files are equal
    finally:
        aside.unlink(missing_ok=True)
