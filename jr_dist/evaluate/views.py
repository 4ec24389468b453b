"""Pictures as what is observed of a target: which of its views a protocol shows.

| protocol | of the views of a target |
|---|---|
| `image` | one, drawn by seed and target |
| `image-front`, `-side`, `-back` | one of those from less than 45, 45 to 135, more than 135 degrees off the front |
| `image-unseen` | the same as `image`, in materials and lights that training never has |

Where no view is in the sector the one nearest to it is shown. Errors are measured to the whole target in its canonical
frame; nothing but the picture is given to a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jr_dist.config import DataConfig
from jr_dist.data.pictures import Pictures, open_pictures, open_unseen, picture_settings
from jr_dist.data.table_reader import Dataset
from jr_dist.errors import InputError
from jr_dist.geometry.observation import PROTOCOLS, check_protocols, generator

IMAGE = "image"
UNSEEN = "image-unseen"
#: degrees off the front, from and to
SECTORS = {"image-front": (0.0, 45.0), "image-side": (45.0, 135.0), "image-back": (135.0, 180.0)}
PICTURE_PROTOCOLS = (IMAGE, *SECTORS, UNSEEN)


def is_picture(protocol: str) -> bool:
    """Whether a target is shown as a picture."""
    return protocol in PICTURE_PROTOCOLS


def check_all_protocols(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple. Raises `InputError` for one that is no protocol, and for pictures beside points."""
    names = tuple(names)
    pictures = [name for name in names if is_picture(name)]
    if not pictures:
        unknown = next((name for name in names if name not in PROTOCOLS), None)
        if unknown is not None:
            raise InputError(
                f"protocol {unknown!r} is unknown; allowed are {', '.join(PROTOCOLS)}, and of runs trained on pictures "
                f"{', '.join(PICTURE_PROTOCOLS)}; choose among them"
            )
        return check_protocols(names)
    if len(pictures) < len(names) or len(set(names)) < len(names):
        raise InputError(
            f"protocols {', '.join(names)} can't be in one table; allowed are {', '.join(PICTURE_PROTOCOLS)} of runs "
            "trained on pictures, or those of points, each once; evaluate them apart"
        )
    return names


def check_suits(path: str, data: DataConfig, protocols: Sequence[str]) -> None:
    """Raise `InputError` where a run is to be shown what it was not trained on."""
    sees, shown = data.images != "none", is_picture(protocols[0])
    if sees and not shown:
        raise InputError(
            f"run {path} was trained on pictures, but evaluate.protocols is {', '.join(protocols)}; allowed are "
            f"{', '.join(PICTURE_PROTOCOLS)}; evaluate with --protocols {IMAGE}"
        )
    if shown and not sees:
        raise InputError(
            f"run {path} was trained on points, but evaluate.protocols is {', '.join(protocols)}; allowed are "
            f"{', '.join(PROTOCOLS)}; evaluate it apart, with --protocols full"
        )


def check_shown_alike(runs: Sequence[tuple[str, DataConfig]]) -> None:
    """Raise `InputError` where the runs (path, settings) of one table were trained on pictures of different kinds."""
    (first, data), *others = runs
    for path, other in others:
        for name in ("images", "image_size", *(["num_views"] if data.images == "render" else [])):
            if getattr(other, name) != getattr(data, name):
                raise InputError(
                    f"runs {first} and {path} were trained with data.{name} {getattr(data, name)} and "
                    f"{getattr(other, name)}; allowed in one table is one kind of picture; evaluate them apart"
                )


@dataclass(frozen=True)
class Views:
    """The pictures of T targets, as their split and categories number them."""

    seen: Pictures
    unseen: Pictures | None  # where a protocol asks for them

    def identity(self, protocol: str) -> str:
        """Names the content of the pictures that a protocol shows, and which of them it can choose from."""
        unseen = self.unseen.identity if protocol == UNSEEN and self.unseen is not None else ""
        return f"{self.seen.identity} {self.seen.size} {unseen}".strip()

    def shown(self, rows: Sequence[int], ids: Sequence[str], protocol: str, seed: int) -> np.ndarray:
        """One picture of each of the targets `rows` [B] with `ids` [B], framed: [B, 3, S, S] uint8.

        Which view it is depends on the seed, the target's id and the protocol's sector alone.
        """
        pictures = self.seen
        if protocol == UNSEEN:
            assert self.unseen is not None, "opened for the protocols that are shown"
            pictures = self.unseen
        views = [self.view(row, name, protocol, seed) for row, name in zip(rows, ids, strict=True)]
        return np.stack([pictures.plain(int(row), view) for row, view in zip(rows, views, strict=True)])

    def view(self, row: int, name: str, protocol: str, seed: int) -> int:
        """The number of the view that a protocol shows of a target."""
        allowed = np.arange(self.seen.num_views)
        if protocol in SECTORS:
            low, high = SECTORS[protocol]
            off = np.array([off_front(self.seen.azimuth(int(row), int(view))) for view in allowed])
            outside = np.maximum(np.maximum(low - off, off - high), 0)
            allowed = np.flatnonzero(outside == outside.min())
        return int(generator("evaluate", seed, name, IMAGE).choice(allowed))


def off_front(azimuth: float) -> float:
    """Degrees between a view and the front, 0 to 180."""
    return abs((azimuth + 180) % 360 - 180)


def open_views(
    dataset: Dataset, split: str, categories: Sequence[str], data: DataConfig, protocols: Sequence[str]
) -> Views | None:
    """The pictures that a run's settings name; None where it sees points. Raises `InputError` where there are none."""
    settings = picture_settings(data)
    if settings is None:
        return None
    seen = open_pictures(dataset, split, categories, settings)
    return Views(seen, open_unseen(dataset, split, categories, settings) if UNSEEN in protocols else None)
