"""The crop that networks see: the object of a picture in the middle of a square, in one size, whatever the photograph.

Training and `fit` frame alike; training moves the object and changes its size a little.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from jr_dist.errors import InputError

FILL = 0.85  # of the frame's side, taken by the longer side of the object's bounding box
OPAQUE = 128  # alpha from which a pixel belongs to the object


def framed(rgba: np.ndarray, size: int, *, fill: float = FILL, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """The object of `rgba` (H, W, 4) uint8 on a transparent square: (size, size, 4) uint8.

    The bounding box of its pixels with alpha >= 128 has its longer side `fill * size` long and its middle at `centre`,
    in halves of the frame, to the right and down; what leaves the frame is cut off. Colours are weighed by alpha and
    averaged over a pixel's area where the picture shrinks, interpolated linearly where it grows. A picture that is
    framed already, to the pixel, keeps its bits.

    Raises `InputError` where no pixel has alpha >= 128.
    """
    top, bottom, left, right = object_box(rgba)
    scale = max(bottom - top, right - left) / (fill * size)  # pixels of the picture that one of the frame is wide
    rows = _weights(rgba.shape[0], size, (top + bottom) / 2, scale, centre[1])
    columns = _weights(rgba.shape[1], size, (left + right) / 2, scale, centre[0])
    if not (rows.nnz and columns.nnz):
        return np.zeros((size, size, 4), np.uint8)  # moved off the frame altogether
    inside = slice(*_reach(rows)), slice(*_reach(columns))  # the part of a large photograph that is looked at
    seen = rgba[inside].astype(np.float32)
    seen[..., :3] *= seen[..., 3:] / 255
    height, width = seen.shape[:2]
    short = (rows[:, inside[0]] @ seen.reshape(height, -1)).reshape(size, width, 4)
    small = columns[:, inside[1]] @ short.transpose(1, 0, 2).reshape(width, -1)
    small = small.reshape(size, size, 4).transpose(1, 0, 2)
    alpha = small[..., 3:]
    colour = np.where(alpha > 0, 255 * small[..., :3] / np.maximum(alpha, 1e-6), 0)
    return np.rint(np.clip(np.concatenate([colour, alpha], axis=-1), 0, 255)).astype(np.uint8)


def object_box(rgba: np.ndarray) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the pixels with alpha >= 128, ends excluded; `InputError` where there are none."""
    solid = rgba[..., 3] >= OPAQUE
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not len(rows):
        raise InputError(
            f"the mask is empty: no pixel has alpha {OPAQUE} or more (the highest is {rgba[..., 3].max(initial=0)}); "
            "one that shows the object is allowed; cut it out again"
        )
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _weights(length: int, size: int, middle: float, scale: float, shift: float) -> sparse.csr_matrix:
    """(size, length): what each pixel of a line of `length` gives to each of the frame's.

    A frame's pixel averages over the interval that it covers, widened to one pixel of the picture where it is narrower:
    on pixels of constant colour that is linear interpolation. Beyond the picture all is transparent.
    """
    centres = middle + scale * (np.arange(size) + 0.5 - size / 2 * (1 + shift))
    width = max(scale, 1.0)
    low, high = centres - width / 2, centres + width / 2
    first = np.floor(low).astype(np.int64)
    pixel = first[:, None] + np.arange(int(np.ceil(width)) + 1)
    overlap = np.minimum(pixel + 1, high[:, None]) - np.maximum(pixel, low[:, None])
    keep = (overlap > 0) & (pixel >= 0) & (pixel < length)
    row = np.broadcast_to(np.arange(size)[:, None], pixel.shape)
    values = (overlap[keep] / width).astype(np.float32)
    return sparse.csr_matrix((values, (row[keep], pixel[keep])), shape=(size, length))


def _reach(weights: sparse.csr_matrix) -> tuple[int, int]:
    return int(weights.indices.min()), int(weights.indices.max()) + 1
