"""Photographs from strangers: JPEG, PNG, WebP, BMP and GIF files, read into memory that does not depend on them.

What a file's header says is looked at before anything is decoded. A large JPEG is decoded at a fraction of its size,
any other picture is shrunk strip by strip, so that beside the decoder's own buffer little is ever held.
"""

from __future__ import annotations

import math
import mmap
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jr_dist.errors import InputError

MAX_SIDE = 1024  # pixels that are kept of the longer side: the networks look at some 200 of them
MAX_PIXELS = 64_000_000  # in the file: 256 MB decoded
MAX_BYTES = 256_000_000  # of the file
MAX_SCANS = 200  # of a JPEG: some ten make a progressive one, thousands would take hours
MIN_SIDE = 16  # pixels of the shorter side, in the file and as kept
BLANK_RANGE = 6  # grey levels by which pixels differ through noise and compression alone

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_REMEDY = "save it again as JPEG or PNG"
_ORIENTATION = 0x0112  # the EXIF tag
_STRIP = 2_000_000  # pixels converted at a time

# What EXIF's orientation asks for; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Photo:
    """A picture as it is looked at: upright, its longer side at most `MAX_SIDE` pixels."""

    path: Path
    rgba: np.ndarray  # [H, W, 4] uint8, alpha 255 throughout where the file has none
    file_size: tuple[int, int]  # width and height in the file, as it is stored there


def read_photo(path: str | Path) -> Photo:
    """Read a picture file by its content, whatever its name.

    Turned as EXIF says; grey, palette, CMYK and 16-bit pictures become 8-bit RGBA (16 bits are scaled). Of a file that
    holds several pictures none is guessed: an animation is refused; a camera's JPEG with further ones behind the main
    picture (MPO) gives the main one.

    Raises `InputError` naming the file: it is missing, no picture, damaged, cut short, animated, too large, too small,
    or shows one colour alone.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is no file; a picture file is allowed; name an existing one")
    num_bytes = path.stat().st_size
    if not 0 < num_bytes <= MAX_BYTES:
        raise InputError(f"{path} has {num_bytes} bytes; 1 to {MAX_BYTES} are allowed; {_REMEDY}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of harmless faults in metadata
            with Image.open(path, formats=_FORMATS) as image:
                _check_header(image, path)
                file_size = image.size
                rgba = _decoded(image)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path} takes more memory than there is; allowed is what fits; scale it down") from None
    except Image.DecompressionBombError as error:  # Pillow looks at the size even before we can
        raise InputError(
            f"{path} is too large ({error}); at most {MAX_PIXELS} pixels are allowed; scale it down"
        ) from None
    except Image.UnidentifiedImageError:
        raise InputError(
            f"{path} is no picture that can be read; {', '.join(_FORMATS)} are allowed, whole; {_REMEDY}"
        ) from None
    except Exception as error:  # Pillow raises whatever its parsers stumble over
        raise InputError(f"{path} is damaged or cut short ({error}); a whole picture is allowed; {_REMEDY}") from error
    if min(rgba.shape[:2]) < MIN_SIDE:
        raise InputError(
            f"{path} is {file_size[0]} x {file_size[1]} pixels; a side of at most {MAX_SIDE // MIN_SIDE} times "
            "the other is allowed; crop it to the object"
        )
    if (rgba[..., 3] == 255).all() and np.ptp(rgba[..., :3], axis=(0, 1)).max() <= BLANK_RANGE:
        colour = ", ".join(str(int(value)) for value in np.median(rgba[..., :3], axis=(0, 1)))
        raise InputError(f"{path} is blank: all of it has the colour ({colour}); give a picture of an object")
    return Photo(path, rgba, file_size)


def _check_header(image: Image.Image, path: Path) -> None:
    """What the header says; nothing is decoded for it."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{path} is {width} x {height} pixels, {width * height / 1e6:.0f} million; at most "
            f"{MAX_PIXELS // 1_000_000} million are allowed; scale it down"
        )
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{path} is {width} x {height} pixels; at least {MIN_SIDE} a side are allowed; give a larger picture"
        )
    if image.format in ("JPEG", "MPO") and (num_scans := _num_scans(path)) > MAX_SCANS:
        raise InputError(f"{path} is a JPEG of {num_scans} scans; at most {MAX_SCANS} are allowed; {_REMEDY}")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InputError(f"{path} is animated; one picture is allowed; save the frame that you mean as PNG")


def _num_scans(path: Path) -> int:
    """Scans in a JPEG file: its marker can't occur within their data."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return sum(1 for _ in re.finditer(b"\xff\xda", content))


def _decoded(image: Image.Image) -> np.ndarray:
    """RGBA, upright, at most `MAX_SIDE` a side; averages over blocks, colours weighed by alpha."""
    image.draft(
        None, (MAX_SIDE, MAX_SIDE)
    )  # a JPEG is decoded at 1/2, 1/4 or 1/8, which costs no more memory than that
    image.load()
    width, height = image.size
    factor = math.ceil(max(width, height) / MAX_SIDE)
    small = Image.new("RGBA", (math.ceil(width / factor), math.ceil(height / factor)))
    rows = max(1, _STRIP // (width * factor)) * factor
    for top in range(0, height, rows):
        strip = _eight_bits(image.crop((0, top, width, min(top + rows, height)))).convert("RGBA")
        if factor > 1:
            strip = strip.convert("RGBa").reduce(factor).convert("RGBA")
        small.paste(strip, (0, top // factor))
    turn = _TURNS.get(_orientation(image))
    return np.array(small if turn is None else small.transpose(turn))


def _eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey picture scaled to 8 bits (Pillow's own conversion clips it); any other as it is."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint32) / 257 + 0.5).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) where there is none that can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata say nothing, and the picture may be well
        return 1
