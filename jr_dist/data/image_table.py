"""The pictures of a dataset as `jr-dist render` left them, read by row and view.

DATASET/images/{sources,train,val,test}/*.parquet hold a row group for each shape and block of views, and
DATASET/images/manifest.json says what they are of. Only row groups that are asked for are read.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from jr_dist import storage
from jr_dist.data.dataset import check_categories, count_rows, read_batches, require_rows
from jr_dist.data.image_files import CAMERA_COLUMNS, IMAGES, SHAPES_A_FILE, VIEWS_A_FILE, read_manifest
from jr_dist.data.manifest import canonical_json
from jr_dist.data.table_reader import Dataset
from jr_dist.errors import InputError

_OPEN_FILES = 64


@dataclass(frozen=True, eq=False)
class ImageTable:
    """Pictures of R shapes, numbered as `read_targets` and `SourceStore` number them. Small, and it pickles."""

    dataset: Dataset
    table: str  # "sources" or a split
    size: int  # S: pictures are S x S
    num_views: int  # of each shape
    identity: str  # hex digest of the pictures' content
    _places: np.ndarray  # [R, 2] int32: the shape's category, and its number in it
    _paths: dict[tuple[int, int, int], str]  # category, block of shapes, block of views -> file
    _open: dict[str, pq.ParquetFile] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}}

    def __len__(self) -> int:
        return len(self._places)

    def png(self, rows: np.ndarray | Sequence[int], views: np.ndarray | Sequence[int]) -> list[bytes]:
        """The pictures of `rows` [M] in `views` [M] as RGBA PNG files.

        Raises `IndexError` for a row or view that there is not, `InputError` for files that are gone or damaged.
        """
        return [batch["png"][at].as_py() for batch, at in self._cells(rows, views, ["png"])]

    def parts_png(self, rows: np.ndarray | Sequence[int], views: np.ndarray | Sequence[int]) -> list[bytes]:
        """1 + the part that each pixel shows, 0 for none, as 8-bit PNG; like `png`, and `InputError` where not asked
        for when rendering."""
        return [batch["parts_png"][at].as_py() for batch, at in self._cells(rows, views, ["parts_png"])]

    def depth_png(self, rows: np.ndarray | Sequence[int], views: np.ndarray | Sequence[int]) -> list[bytes]:
        """Depth in steps of `render_views.DEPTH_STEP`, 0 for none, as 16-bit PNG; like `parts_png`."""
        return [batch["depth_png"][at].as_py() for batch, at in self._cells(rows, views, ["depth_png"])]

    def ids(self, rows: np.ndarray | Sequence[int]) -> list[str]:
        """The ids of the shapes `rows` [M]; like `png`."""
        return [batch["id"][at].as_py() for batch, at in self._cells(rows, np.zeros(len(rows), int), ["id"])]

    def cameras(self, rows: np.ndarray | Sequence[int], views: np.ndarray | Sequence[int]) -> np.ndarray:
        """Azimuth and elevation (degrees), distance (canonical units), field of view (degrees), [M, 4] float32."""
        cells = self._cells(rows, views, CAMERA_COLUMNS)
        values = [[batch[name][at].as_py() for name in CAMERA_COLUMNS] for batch, at in cells]
        return np.array(values, np.float32).reshape(-1, 4)

    def _cells(self, rows: Any, views: Any, columns: Sequence[str]) -> list[tuple[pa.RecordBatch, int]]:
        rows, views = np.asarray(rows, np.int64), np.asarray(views, np.int64)
        assert rows.shape == views.shape and rows.ndim == 1, "a view a row"
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of {len(self)} shapes")
        if rows.size and not (views.min() >= 0 and views.max() < self.num_views):
            raise IndexError(f"views {views.min()}..{views.max()} of {self.num_views}")
        return [self._cell(int(row), int(view), columns) for row, view in zip(rows, views)]

    def _cell(self, row: int, view: int, columns: Sequence[str]) -> tuple[pa.RecordBatch, int]:
        category, number = self._places[row].tolist()
        block, group = divmod(number, SHAPES_A_FILE)
        views, at = divmod(view, VIEWS_A_FILE)
        path = self._paths[category, block, views]
        try:
            batch = self._file(path).read_row_group(group, columns=list(columns)).combine_chunks().to_batches()[0]
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{self.dataset.path}/{path} is damaged ({error}); delete it and run `jr-dist render` again"
            ) from error
        missing = set(columns) - set(batch.schema.names)
        if missing:
            name = missing.pop()
            raise InputError(
                f"the pictures of dataset {self.dataset.path} have no {name}; delete {IMAGES}/ and render with "
                f"--{name.removesuffix('_png')}"
            )
        return batch, at

    def _file(self, path: str) -> pq.ParquetFile:
        if path not in self._open:
            while len(self._open) >= _OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            place, root = storage.resolve(self.dataset.path, self.dataset.filesystem)
            local = isinstance(place, pafs.LocalFileSystem)
            self._open[path] = pq.ParquetFile(
                f"{root}/{path}", filesystem=None if local else place, memory_map=local, page_checksum_verification=True
            )
        return self._open[path]


def open_images(dataset: Dataset, split: str, categories: Sequence[str] | None = None) -> ImageTable:
    """The pictures of "sources" or a split, of the categories (all by default).

    Raises `InputError` for an unknown split or category, and where the pictures are not there, not finished, or of
    another dataset.
    """
    num_rows = require_rows(dataset, split, categories)
    command = f"jr-dist render {shlex.quote(str(dataset.path))}"
    remedy = f"run `{command}`"
    manifest = read_manifest(dataset)
    if manifest is None:
        raise InputError(f"dataset {dataset.path} has no finished pictures (no {IMAGES}/manifest.json); {remedy}")
    if manifest["dataset"] != dataset.hash:
        raise InputError(
            f"the pictures in {dataset.path}/{IMAGES} are of another dataset than the one that lies there now; delete "
            f"them and {remedy}"
        )
    chosen = check_categories(dataset, categories) or dataset.categories
    told = manifest["tables"].get(split, {"categories": []})
    missing = sorted(name for name in set(chosen) - set(told["categories"]) if count_rows(dataset, split, [name]))
    if missing:
        raise InputError(
            f"no pictures of split {split} of {', '.join(missing)} in dataset {dataset.path}; "
            f"run `{command} --split {split}`"
        )
    places = _places(dataset, split, chosen)
    assert len(places) == num_rows, "the manifest counts the rows"
    files = [entry for entry in told["files"] if dataset.categories[entry["category"]] in chosen]
    about = canonical_json({"settings": manifest["settings"], "hashes": sorted(entry["sha256"] for entry in files)})
    return ImageTable(
        dataset=dataset,
        table=split,
        size=manifest["settings"]["size"],
        num_views=told["num_views"],
        identity=hashlib.sha256(about.encode()).hexdigest(),
        _places=places,
        _paths={(entry["category"], entry["shapes"], entry["views"]): entry["path"] for entry in files},
    )


def _places(dataset: Dataset, split: str, categories: Sequence[str]) -> np.ndarray:
    counts = dict.fromkeys(dataset.categories, 0)
    number = {name: index for index, name in enumerate(dataset.categories)}
    places = []
    for batch in read_batches(dataset, split, categories, ["category"]):
        for name in batch["category"].to_pylist():
            places.append((number[name], counts[name]))
            counts[name] += 1
    return np.array(places, np.int32).reshape(-1, 2)
