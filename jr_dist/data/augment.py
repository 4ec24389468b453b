"""Rendered pictures as a network sees them: framed on a plain background, or made to look like photographs."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from jr_dist.data.framing import FILL, framed

PLAIN = (255, 255, 255)  # the background of the published renders

_FILL = (0.65, 1.1)  # of the frame's side; beyond 1 the crop cuts the object off
_SHIFT = 0.15  # of the frame's half, at most, to either side
_OCCLUDED = 0.15  # of the picture's area, at most


def plain_picture(rgba: np.ndarray, size: int) -> np.ndarray:
    """The object of `rgba` (H, W, 4) uint8 framed on a white background: (3, size, size) uint8 RGB.

    Raises `InputError` as `framed` does.
    """
    return _laid_on(framed(rgba, size, fill=FILL), np.array(PLAIN, np.float32))


def photo_picture(rgba: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """The same as a photograph might show it: (3, size, size) uint8 RGB, a function of the picture and `rng` alone.

    The crop is off by a little, the background is plain, a gradient, a texture or clutter, something may stand in front,
    and colours, sharpness and JPEG's noise vary as cameras do. It is never mirrored: that would be another shape.
    """
    fill, centre = rng.uniform(*_FILL), rng.uniform(-_SHIFT, _SHIFT, 2)
    cut_out = framed(rgba, size, fill=fill, centre=(float(centre[0]), float(centre[1])))
    cut_out[..., :3] = _graded(cut_out[..., :3].astype(np.float32), rng)
    picture = _laid_on(cut_out, background(size, rng)).transpose(1, 2, 0)
    if rng.random() < 0.3:
        picture = _occluded(picture, rng)
    picture = _graded(picture.astype(np.float32), rng, strength=0.5)
    image = Image.fromarray(picture)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.2) * size / 224))
    if rng.random() < 0.3:
        noise = rng.normal(scale=rng.uniform(1, 8), size=(size, size, 3))
        image = Image.fromarray(_rounded(np.asarray(image) + noise))
    if rng.random() < 0.6:
        image = _through_jpeg(image, quality=int(rng.integers(30, 96)))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A background, (size, size, 3) float32 in [0, 255]: white, of a colour, a gradient, a texture, or clutter."""
    kind, first, second = rng.integers(5), _colour(rng), _colour(rng)
    if kind == 4:  # as shops have it
        return np.full((size, size, 3), rng.uniform(225, 255), np.float32)
    if kind == 0:
        return np.broadcast_to(first, (size, size, 3)).astype(np.float32)
    if kind == 1:  # a line across the picture, as of a wall that light falls on
        angle, line = rng.uniform(0, 2 * np.pi), np.linspace(-1, 1, size, dtype=np.float32)
        across = np.cos(angle) * line[None, :] + np.sin(angle) * line[:, None]
        share = (across / 2 + 0.5).clip(0, 1)[..., None]
    elif kind == 2:  # octaves of smooth noise, as of stone, cloth or leaves
        share = sum(_smooth_noise(size, cells, rng) / 2**n for n, cells in enumerate((3, 7, 15, 31)))
        share = share / 1.875
    else:  # a floor, a wall and things in front of it
        share = np.zeros((size, size, 1), np.float32)
        share[int(size * rng.uniform(0.4, 0.9)) :] = 1
        for _ in range(rng.integers(1, 6)):
            share[_box(size, rng.uniform(0.05, 0.4, 2), rng)] = rng.random()
        share = 0.8 * share + 0.2 * _smooth_noise(size, 8, rng)
    return (first * (1 - share) + second * share).astype(np.float32)


def _laid_on(rgba: np.ndarray, behind: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.ascontiguousarray(_rounded(rgba[..., :3] * alpha + behind * (1 - alpha)).transpose(2, 0, 1))


def _colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) float32: most backgrounds are pale or grey, some are of a strong colour."""
    saturation, brightness = rng.random(), 255 * np.sqrt(rng.random())
    return ((1 - saturation) * brightness + saturation * rng.uniform(0, 255, 3)).astype(np.float32)


def _smooth_noise(size: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 1) float32 in [0, 1]: noise of `cells` x `cells` numbers, interpolated."""
    small = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(small.resize((size, size), Image.Resampling.BILINEAR), np.float32)[..., None] / 255


def _box(size: int, sides: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
    """Somewhere in the picture; `sides` are shares of its own."""
    height, width = np.maximum(1, (sides * size).astype(int))
    top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
    return slice(top, top + height), slice(left, left + width)


def _occluded(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Something plain stands in front of up to `_OCCLUDED` of the picture (size, size, 3)."""
    share, shape = rng.uniform(0.02, _OCCLUDED), np.exp(rng.uniform(-1, 1))
    sides = np.minimum([np.sqrt(share * shape), np.sqrt(share / shape)], 0.9)
    result = picture.copy()
    result[_box(len(picture), sides, rng)] = _rounded(_colour(rng))
    return result


def _graded(colour: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """(H, W, 3) uint8: brightness, contrast, saturation and white balance vary by up to 40 % times `strength`."""
    brightness, contrast, saturation = 1 + strength * rng.uniform(-0.4, 0.4, 3)
    balance = 1 + strength * rng.uniform(-0.15, 0.15, 3)
    grey = colour @ np.array([0.299, 0.587, 0.114], np.float32)
    colour = grey[..., None] + saturation * (colour - grey[..., None])
    return _rounded((128 + contrast * (colour - 128)) * brightness * balance)


def _through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
