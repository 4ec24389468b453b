"""The pictures that encoders see of targets and sources: read from files or rendered on the spot, then framed.

Which view a training target shows is a function of seed, epoch and target, and so is its augmentation: a resumed run
sees the same, and so do any number of workers. No torch: read tasks import this.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from jr_dist.data.augment import photo_picture, plain_picture
from jr_dist.data.table_reader import Dataset
from jr_dist.errors import InputError
from jr_dist.geometry.observation import generator

if TYPE_CHECKING:  # it takes a while to import, and read tasks don't need it
    from jr_dist.config import DataConfig
    from jr_dist.data.render_views import ViewSettings


@dataclass(frozen=True)
class PictureSettings:
    """Where pictures come from and how they are shown."""

    images: Literal["files", "render"]
    size: int
    num_views: int  # where they are rendered; files have as many as they have
    augment: Literal["none", "photo"]
    tasks: int  # of the stream that makes a worker's pictures, at the same time


@dataclass(frozen=True)
class Pictures:
    """The pictures of the targets of a split, or of the sources: R rows of `num_views`."""

    num_rows: int
    num_views: int
    size: int  # S, of what is shown
    identity: str  # names their content
    rgba: Callable[[int, int], np.ndarray]  # (row, view) -> [H, W, 4] uint8
    azimuth: Callable[[int, int], float]  # (row, view) -> degrees, 0 in front

    def plain(self, row: int, view: int) -> np.ndarray:
        """One picture framed on a plain background: [3, S, S] uint8."""
        return plain_picture(self.rgba(row, view), self.size)

    def training(self, rows: np.ndarray, *, seed: int, epoch: int, augment: Literal["none", "photo"]) -> np.ndarray:
        """One view of each of B targets in an epoch: [B, 3, S, S] uint8."""
        return np.stack([self._training(int(row), seed, epoch, augment) for row in rows])

    def _training(self, row: int, seed: int, epoch: int, augment: str) -> np.ndarray:
        rng = generator("picture", seed, epoch, row)
        view = int(rng.integers(self.num_views))
        if augment == "photo":
            return photo_picture(self.rgba(row, view), self.size, rng)
        return self.plain(row, view)

    def fixed(self, ids: Sequence[str]) -> np.ndarray:
        """The one view by which each of T targets is validated, whatever the seed: [T, 3, S, S] uint8.

        It depends on the target's id alone.
        """
        assert len(ids) == self.num_rows, "the ids of all rows"
        views = [int(generator("view", name).integers(self.num_views)) for name in ids]
        return np.stack([self.plain(row, view) for row, view in enumerate(views)])


def picture_settings(data: DataConfig) -> PictureSettings | None:
    """What the settings say of pictures; None where encoders see points."""
    if data.images == "none":
        return None
    return PictureSettings(data.images, data.image_size, data.num_views, data.augment, data.image_tasks)


def open_pictures(
    dataset: Dataset, table: str, categories: Sequence[str] | None, settings: PictureSettings
) -> Pictures:
    """The pictures of "sources" or a split in the order of `SourceStore` and `read_targets`; opens no picture yet.

    Raises `InputError` where files are asked for that are not there or of another dataset, and where there is no mesh to
    render.
    """
    if settings.images == "render":
        return _rendered(dataset, table, categories, settings)
    from jr_dist.data.image_table import open_images

    images = open_images(dataset, table, categories)

    def decoded(row: int, view: int) -> np.ndarray:
        [content] = images.png(np.array([row]), np.array([view]))
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))

    def azimuth(row: int, view: int) -> float:
        return float(images.cameras(np.array([row]), np.array([view]))[0, 0])

    return Pictures(len(images), images.num_views, settings.size, images.identity, decoded, azimuth)


def open_unseen(
    dataset: Dataset, table: str, categories: Sequence[str] | None, settings: PictureSettings
) -> Pictures:
    """The same views in materials and lights that training never has, rendered on the spot.

    Raises `InputError` as `open_pictures` does.
    """
    from jr_dist.data.image_files import read_manifest
    from jr_dist.data.render_views import ViewSettings

    how = ViewSettings(size=settings.size)
    if settings.images == "files":
        manifest = read_manifest(dataset)
        assert manifest is not None, "opened before"
        how = ViewSettings(**{field.name: manifest["settings"][field.name] for field in fields(ViewSettings)})
        if how.look == "unseen":
            raise InputError(
                f"the pictures of dataset {dataset.path} are of the look unseen themselves; allowed with image-unseen "
                "is the look train; leave that protocol out"
            )
    how = replace(how, materials="plausible", look="unseen", backend="embree")
    return _rendered(dataset, table, categories, settings, how)


def _rendered(
    dataset: Dataset,
    table: str,
    categories: Sequence[str] | None,
    settings: PictureSettings,
    how: ViewSettings | None = None,
) -> Pictures:
    # Rendering has its own imports, which take a while.
    from jr_dist.data.render_shapes import RenderShape, open_shapes
    from jr_dist.data.render_views import RENDERER_VERSION, ViewSettings, render_view, view_camera

    shapes, how = open_shapes(dataset, table, categories), how or ViewSettings(size=settings.size)
    shapes.check()
    last: dict[int, RenderShape] = {}  # views of one shape are often asked for in a row, and it takes longer than they

    def rendered(row: int, view: int) -> np.ndarray:
        if row not in last:
            last.clear()
            last[row] = shapes.shape(row)
        return render_view(last[row], view, how).rgba

    def azimuth(row: int, view: int) -> float:
        return view_camera(shapes.ids[row], view, how).azimuth

    identity = f"{dataset.hash}-{RENDERER_VERSION}-{how}"
    return Pictures(len(shapes), settings.num_views, settings.size, identity, rendered, azimuth)


def check_views(pictures: Pictures, num_views: int) -> None:
    """Raise `InputError` where fewer views of a source are there than are averaged."""
    if pictures.num_views < num_views:
        raise InputError(
            f"retrieval.source_views is {num_views}, but there are {pictures.num_views} pictures of a source; allowed "
            f"is at most {pictures.num_views}; lower it, or render more views"
        )
