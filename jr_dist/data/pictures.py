"""The pictures that encoders see of targets and sources: read from files or rendered on the spot, then framed.

Which view a training target shows is a function of seed, epoch and target, and so is its augmentation: a resumed run
sees the same, and so do any number of workers. No torch: read tasks import this.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from jr_dist.data.augment import photo_picture, plain_picture
from jr_dist.data.table_reader import Dataset
from jr_dist.errors import InputError
from jr_dist.geometry.observation import generator

if TYPE_CHECKING:  # it takes a while to import, and read tasks don't need it
    from jr_dist.config import DataConfig


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

    return Pictures(len(images), images.num_views, settings.size, images.identity, decoded)


def _rendered(dataset: Dataset, table: str, categories: Sequence[str] | None, settings: PictureSettings) -> Pictures:
    # Rendering has its own imports, which take a while.
    from jr_dist.data.render_shapes import open_shapes
    from jr_dist.data.render_views import ViewSettings, render_view

    shapes, how = open_shapes(dataset, table, categories), ViewSettings(size=settings.size)
    shapes.check()

    def rendered(row: int, view: int) -> np.ndarray:
        return render_view(shapes.shape(row), view, how).rgba

    return Pictures(len(shapes), settings.num_views, settings.size, f"{dataset.hash}-{how}", rendered)


def check_views(pictures: Pictures, num_views: int) -> None:
    """Raise `InputError` where fewer views of a source are there than are averaged."""
    if pictures.num_views < num_views:
        raise InputError(
            f"retrieval.source_views is {num_views}, but there are {pictures.num_views} pictures of a source; allowed "
            f"is at most {pictures.num_views}; lower it, or render more views"
        )
