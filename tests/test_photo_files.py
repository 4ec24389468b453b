"""Pictures of every kind read right, bad ones refused in a line, memory bounded."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jr_dist.errors import InputError
from jr_dist.serve.photo_files import MAX_SIDE, read_photo

ROOT = Path(__file__).parent.parent
CORNERS = np.array([[[250, 20, 30], [20, 240, 40]], [[30, 20, 250], [240, 230, 20]]], np.uint8)
COLOURS = np.repeat(np.repeat(CORNERS, 32, axis=0), 48, axis=1)  # four colours, one a corner; 64 x 96


def write(path: Path, picture: np.ndarray | Image.Image, **options) -> Path:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(path, **options)
    return path


def corners(rgba: np.ndarray) -> np.ndarray:
    """The colours in the middles of the four quarters, [2, 2, 3]."""
    height, width = rgba.shape[:2]
    return rgba[height // 4 :: height // 2, width // 4 :: width // 2, :3].astype(int)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "A.PNG", "png-inside.jpg"])
def test_lossless_pictures_keep_their_bits(tmp_path, name):
    options = {"format": "PNG"} if name == "png-inside.jpg" else {"lossless": True} if name == "a.webp" else {}
    photo = read_photo(write(tmp_path / name, COLOURS, **options))
    np.testing.assert_array_equal(photo.rgba[..., :3], COLOURS)
    assert (photo.rgba[..., 3] == 255).all() and photo.file_size == (96, 64)


def test_alpha_is_kept(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    np.testing.assert_array_equal(read_photo(write(tmp_path / "a.png", rgba)).rgba, rgba)
    grey = rgba[..., [0, 3]]
    found = read_photo(write(tmp_path / "la.png", Image.fromarray(grey, mode="LA"))).rgba
    np.testing.assert_array_equal(found, grey[..., [0, 0, 0, 1]])


def test_palettes_and_their_transparency(tmp_path):
    palette = Image.fromarray(COLOURS).quantize(4)
    np.testing.assert_allclose(read_photo(write(tmp_path / "p.png", palette)).rgba[..., :3], COLOURS, atol=4)
    clear = palette.getpixel((0, 0))
    for name in ("t.png", "t.gif"):
        found = read_photo(write(tmp_path / name, palette, transparency=clear)).rgba
        assert (found[:32, :48, 3] == 0).all() and (found[32:, :, 3] == 255).all(), name
    one_bit = Image.fromarray(COLOURS[..., 0] > 100)
    np.testing.assert_array_equal(
        read_photo(write(tmp_path / "1.png", one_bit)).rgba[..., 1], 255 * (COLOURS[..., 0] > 100)
    )


@pytest.mark.parametrize("mode", ["CMYK", "L", "YCbCr"])
def test_jpegs_of_other_colour_spaces(tmp_path, mode):
    wanted = corners(np.asarray(Image.fromarray(COLOURS).convert(mode).convert("RGB")))
    found = corners(read_photo(write(tmp_path / "a.jpg", Image.fromarray(COLOURS).convert(mode), quality=95)).rgba)
    np.testing.assert_allclose(found, wanted, atol=6)


def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 256 * 64).reshape(64, 256).astype(np.uint16)
    found = read_photo(write(tmp_path / "grey.png", Image.fromarray(ramp))).rgba
    np.testing.assert_array_equal(found[..., 0], np.rint(ramp / 257))


def test_colour_of_16_bits_is_scaled_not_clipped(tmp_path):
    wide = (COLOURS.astype(">u2") * 257).astype(">u2")
    (tmp_path / "colour.png").write_bytes(png_bytes(wide.tobytes(), 96, 64, bits=16, kind=2))
    np.testing.assert_array_equal(read_photo(tmp_path / "colour.png").rgba[..., :3], COLOURS)


def png_bytes(data: bytes, width: int, height: int, *, bits: int, kind: int) -> bytes:
    """A PNG put together by hand: `data` are the rows, unfiltered."""
    stride = len(data) // height
    rows = b"".join(b"\0" + data[stride * row : stride * (row + 1)] for row in range(height))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_turns_the_picture_upright(tmp_path, orientation, suffix):
    turns = [lambda x: x, np.fliplr, lambda x: np.rot90(x, 2), np.flipud]
    turns += [
        lambda x: x.transpose(1, 0, 2),
        np.rot90,
        lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        lambda x: np.rot90(x, 3),
    ]
    stored = np.ascontiguousarray(turns[orientation - 1](COLOURS))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_photo(write(tmp_path / f"a{suffix}", stored, exif=exif))
    assert found.rgba.shape == (64, 96, 4)
    np.testing.assert_allclose(corners(found.rgba), CORNERS, atol=8)


def test_damaged_exif_says_nothing(tmp_path):
    write(tmp_path / "a.jpg", COLOURS, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff junk", quality=95)
    assert read_photo(tmp_path / "a.jpg").rgba.shape == (64, 96, 4)


def test_a_picture_with_a_second_one_behind_it_gives_the_first(tmp_path):
    first, second = Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    np.testing.assert_allclose(corners(read_photo(tmp_path / "a.jpg").rgba), CORNERS, atol=8)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_large_pictures_are_averaged_down(tmp_path, suffix):
    large = np.repeat(np.repeat(COLOURS, 40, axis=0), 40, axis=1)  # 2560 x 3840
    photo = read_photo(write(tmp_path / f"a{suffix}", large))
    assert photo.rgba.shape == (640, 960, 4) and photo.file_size == (3840, 2560)
    np.testing.assert_allclose(corners(photo.rgba), CORNERS, atol=3)


def test_shrinking_weighs_colours_by_alpha(tmp_path):
    rgba = np.zeros((2048, 2048, 4), np.uint8)
    rgba[::2, ::2] = (200, 100, 50, 255)  # one pixel of each block; the others are black, and transparent
    found = read_photo(write(tmp_path / "a.png", rgba, compress_level=1)).rgba
    assert found.shape == (1024, 1024, 4)
    np.testing.assert_allclose(found.reshape(-1, 4), np.broadcast_to([200, 100, 50, 64], (1024**2, 4)), atol=2)


def jpeg(**options) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def animation(form: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.roll(COLOURS, shift, axis=1)) for shift in (0, 20)]
    frames[0].save(buffer, format=form, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def plain(size: tuple[int, int], form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (250, 250, 250)).save(buffer, format=form)
    return buffer.getvalue()


BAD = {
    "empty.png": (b"", "has 0 bytes"),
    "text.png": (b"not a picture at all\n" * 50, "no picture that can be read"),
    "vector.jpg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that can be read"),
    "half.jpg": (jpeg()[:9000], "damaged or cut short"),
    "half-progressive.jpg": (jpeg(progressive=True)[:9000], "damaged or cut short"),
    "header.jpg": (jpeg()[:100], "damaged or cut short|no picture"),
    "half.png": (png_bytes(os.urandom(40_000), 200, 200, bits=8, kind=0)[:20_000], "damaged or cut short"),
    "half.webp": (plain((300, 300), "WEBP")[:-40], "damaged or cut short|no picture"),
    "animated.gif": (animation("GIF"), "is animated; one picture is allowed"),
    "animated.webp": (animation("WEBP"), "is animated"),
    "animated.png": (animation("PNG"), "is animated"),
    "white.png": (plain((64, 64)), r"is blank: all of it has the colour \(250, 250, 250\)"),
    "white.jpg": (plain((64, 64), "JPEG"), "is blank"),
    "tiny.png": (plain((8, 200)), "8 x 200 pixels; at least 16 a side"),
    "long.png": (plain((3200, 16)), "3200 x 16 pixels; a side of at most 64 times the other"),
    # A bomb: 900 million pixels in a few bytes. Refused by its header.
    "bomb.png": (png_bytes(b"\0" * 300, 30_000, 30_000, bits=1, kind=0), "900000000 pixels.*at most 64000000 pixels"),
    "large.png": (png_bytes(b"\0" * 300, 10_000, 7_000, bits=1, kind=0), "70 million; at most 64 million"),
    "scans.jpg": (jpeg()[:-2] + b"\xff\xda" * 1000 + b"\xff\xd9", "is a JPEG of 1001 scans; at most 200"),
    "huge.png": (png_bytes(b"\0" * 300, 10**6, 10**6, bits=1, kind=0), "too large"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        read_photo(tmp_path / name)
    assert str(tmp_path / name) in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe.png", "folder.jpg", "missing.jpg"):
        with pytest.raises(InputError, match=f"{name} is no file"):
            read_photo(tmp_path / name)


WITHIN = """
import re, resource, sys
import numpy as np
from pathlib import Path
from PIL import Image
from jr_dist.serve.photo_files import read_photo
Image.init()  # the plug-ins are loaded before memory is limited
size = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_AS, (size + 10**6 * int(sys.argv[2]),) * 2)
photo = read_photo(sys.argv[1])
print(*photo.rgba.shape, *photo.file_size)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "megabytes"), [("photo.jpg", 40), ("photo.png", 200), ("grey16.png", 120), ("palette.png", 90)]
)
def test_forty_megapixels_take_bounded_memory(tmp_path, name, megabytes):
    # 7300 x 5500. A JPEG is never decoded whole; 160 MB are 40 million RGB pixels as Pillow holds them, once.
    band = np.repeat(np.linspace(0, 255, 7300), 3).reshape(1, 7300, 3).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(band, (5500, 7300, 3)))
    if name == "grey16.png":
        image = Image.fromarray(np.broadcast_to(band[..., 0].astype(np.uint16) * 257, (5500, 7300)))
    elif name == "palette.png":
        image = image.convert("P")
    if name == "photo.jpg":
        image.save(tmp_path / name)
    else:
        image.save(tmp_path / name, compress_level=1)
    del image
    done = subprocess.run(
        [sys.executable, "-c", WITHIN, tmp_path / name, str(megabytes)],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    height, width, channels, *file_size = map(int, done.stdout.split())
    assert max(height, width) <= MAX_SIDE and min(height, width) > MAX_SIDE // 3 and channels == 4
    assert file_size == [7300, 5500]
