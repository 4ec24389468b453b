"""Pictures of meshes and point clouds: Embree ray casting on the CPU, arrays in, arrays out.

One ray a pixel gives colour, exact part ids and depth together; more rays a pixel smooth the edges of the colour only.
Everything is a pure function of its arguments. `render_views` makes pictures that look like photographs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jr_dist.data.ray_casting import Camera, camera_rays, cast_rays

AMBIENT = 0.42  # light from everywhere, more of it from above
KEY = 0.62  # one soft light above the camera: in its vertical plane, so that mirrored shapes give mirrored pictures
BACKGROUND = (255, 255, 255)

# Okabe and Ito's palette (without black), then Paul Tol's muted one where it stays apart from the first.
_PALETTE = [
    *("0072b2", "e69f00", "009e73", "cc79a7", "56b4e9", "d55e00", "f0e442", "332288"),
    *("999933", "882255", "44aa99", "ddcc77", "aa4499", "117733", "88ccee", "a3586d"),
]


@dataclass(frozen=True)
class Rendering:
    """A picture with its buffers; H = W = size."""

    colour: np.ndarray  # [H, W, 4] uint8 RGBA, transparent where nothing is
    part_index: np.ndarray  # [H, W] int16, part of the face at the pixel's centre, -1 where nothing is
    depth: np.ndarray  # [H, W] float32 along the viewing axis at the pixel's centre, inf where nothing is


def render_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    face_colours: np.ndarray,
    *,
    part_of_face: np.ndarray | None = None,
    camera: Camera | None = None,
    size: int = 224,
    samples: int = 1,
) -> Rendering:
    """Render triangles, both sides lit, with `samples` x `samples` rays a pixel for the colour.

    Args: vertices (V, 3); faces (F, 3) int; face_colours (F, 3 or 4) uint8 (alpha is ignored); part_of_face (F,) int,
    all zero where not given. Part ids and depth always come from a single ray through the pixel's centre.
    """
    camera = camera or Camera()
    vertices, faces = np.asarray(vertices, float), np.asarray(faces, np.int64).reshape(-1, 3)
    origin = camera.axes()[2] * camera.distance
    face, depth = cast_rays(vertices, faces, origin, camera_rays(camera, size))
    lit = _lit_colours(vertices, faces, np.asarray(face_colours)[:, :3], camera)
    fine = face if samples == 1 else cast_rays(vertices, faces, origin, camera_rays(camera, size, samples))[0]
    parts = np.zeros(len(faces), np.int16) if part_of_face is None else np.asarray(part_of_face).astype(np.int16)
    padded_parts = np.append(parts, np.int16(-1))  # index -1, a miss, reads the last entry
    return Rendering(_downsample(_rgba(fine, lit), samples), padded_parts[face], depth)


def render_part_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    face_colours: np.ndarray,
    *,
    size: int = 224,
    azimuth: float = 35.0,
    elevation: float = 20.0,
    samples: int = 2,
) -> np.ndarray:
    """The picture alone, (size, size, 4) uint8 RGBA, of a mesh in the canonical frame. See `render_mesh`."""
    camera = Camera(azimuth, elevation)
    return render_mesh(vertices, faces, face_colours, camera=camera, size=size, samples=samples).colour


def render_points(
    points: np.ndarray,
    colours: np.ndarray | None = None,
    *,
    size: int = 224,
    azimuth: float = 35.0,
    elevation: float = 20.0,
    radius: float = 0.015,
    camera: Camera | None = None,
) -> np.ndarray:
    """A point cloud as small discs, near ones over far ones and brighter: (size, size, 4) uint8 RGBA.

    Args: points (N, 3) in the canonical frame; colours (N, 3) or (3,) uint8, a calm blue where not given; radius of a
    disc in canonical units. `camera` wins over azimuth and elevation.
    """
    camera = camera or Camera(azimuth, elevation)
    samples = 2
    count = size * samples
    points = np.asarray(points, float).reshape(-1, 3)
    base = np.array([58, 110, 165]) if colours is None else np.asarray(colours)[..., :3]
    colour = np.broadcast_to(base, (len(points), 3)).astype(float)
    seen = points @ camera.axes().T
    depth = camera.distance - seen[:, 2]
    keep = depth > 1e-3
    order = np.flatnonzero(keep)[np.argsort(-depth[keep], kind="stable")]  # far first: the last write wins
    seen, depth, colour = seen[order], depth[order], colour[order]
    focal = count / 2 / math.tan(math.radians(camera.field_of_view) / 2)
    pixel = np.stack([count / 2 - seen[:, 1] / depth * focal, count / 2 + seen[:, 0] / depth * focal], 1)
    shade = np.clip(1.0 - 0.3 * (depth - camera.distance), 0.55, 1.3)  # depth cue over the canonical sphere
    canvas = np.zeros((count, count, 4))
    _splat(canvas, pixel, np.clip(colour * shade[:, None], 0, 255), max(radius * focal / camera.distance, 1.0))
    return _downsample(canvas, samples)


def _splat(canvas: np.ndarray, pixel: np.ndarray, colour: np.ndarray, radius: float) -> None:
    """Draw discs of `radius` pixels at `pixel` (N, 2: row, column) in the order given."""
    reach = np.arange(-math.ceil(radius), math.ceil(radius) + 1)
    rows, columns = (grid.ravel() for grid in np.meshgrid(reach, reach, indexing="ij"))
    near = rows**2 + columns**2 <= radius**2
    row = np.floor(pixel[:, :1]).astype(int) + rows[near]  # [N, D]
    column = np.floor(pixel[:, 1:]).astype(int) + columns[near]
    inside = (row >= 0) & (row < canvas.shape[0]) & (column >= 0) & (column < canvas.shape[1])
    point = np.broadcast_to(np.arange(len(pixel))[:, None], row.shape)[inside]
    canvas[row[inside], column[inside], :3] = colour[point]
    canvas[row[inside], column[inside], 3] = 255


def _lit_colours(vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray, camera: Camera) -> np.ndarray:
    """(F, 3) float64 in [0, 255]: Lambert with a hemisphere of ambient light and one soft key light, flat a face."""
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    _, up, backward = camera.axes()
    to_camera = backward * camera.distance - corners.mean(axis=1)
    normal *= np.where((normal * to_camera).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)  # lit from the side we see
    light = backward + 0.6 * up
    diffuse = np.maximum(normal @ (light / np.linalg.norm(light)), 0.0)
    ambient = AMBIENT * (0.85 + 0.25 * normal[:, 1])
    return np.clip(colours * (ambient + KEY * diffuse)[:, None], 0, 255)


def _rgba(face: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """(H, W, 4) float64 of hit faces (H, W), zero where -1."""
    table = np.zeros((len(lit) + 1, 4))
    table[:-1, :3], table[:-1, 3] = lit, 255
    return table[face]


def _downsample(rgba: np.ndarray, samples: int) -> np.ndarray:
    """Mean over blocks of samples x samples, colour weighted by alpha so that edges do not darken; uint8."""
    size = rgba.shape[0] // samples
    blocks = rgba.reshape(size, samples, size, samples, 4)
    alpha = blocks[..., 3].sum(axis=(1, 3))
    colour = (blocks[..., :3] * blocks[..., 3:]).sum(axis=(1, 3)) / np.maximum(alpha, 1)[..., None]
    return np.rint(np.concatenate([colour, alpha[..., None] / samples**2], axis=-1)).astype(np.uint8)


def part_colours(num_parts: int) -> np.ndarray:
    """(num_parts, 3) uint8, distinct and told apart by colour-blind readers for the first 16; then darker rounds."""
    base = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in _PALETTE], float)
    rounds = np.arange(num_parts) // len(base)
    return np.rint(base[np.arange(num_parts) % len(base)] * (0.83**rounds)[:, None]).astype(np.uint8)


def on_background(image: np.ndarray, background: tuple[int, int, int] = BACKGROUND) -> np.ndarray:
    """RGB (H, W, 3) uint8 of an RGBA or RGB picture (H, W, 3 or 4) laid on a plain background."""
    if image.shape[-1] == 3:
        return image
    alpha = image[..., 3:].astype(float) / 255
    return np.rint(image[..., :3] * alpha + np.array(background) * (1 - alpha)).astype(np.uint8)


def contact_sheet(
    images: Sequence[np.ndarray],
    labels: Sequence[str] | None = None,
    columns: int = 8,
    title: str | None = None,
) -> Image.Image:
    """Pictures (each (H, W, 3 or 4) uint8, all of one size) in rows of `columns`, a label under each, a title above."""
    assert images, "a contact sheet needs a picture"
    assert labels is None or len(labels) == len(images), "one label a picture"
    height, width = images[0].shape[:2]
    columns = max(1, min(columns, len(images)))
    text = 18 if labels is not None else 0
    head = 30 if title else 0
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * width, head + rows * (height + text)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((8, 6), title, fill=(20, 20, 20), font=ImageFont.load_default(16))
    font = _label_font()
    for i, image in enumerate(images):
        left, top = (i % columns) * width, head + (i // columns) * (height + text)
        sheet.paste(Image.fromarray(on_background(image)), (left, top))
        if labels is not None:
            draw.text(
                (left + 4, top + height + 2),
                _fitted(labels[i], width - 8, font),
                fill=(60, 60, 60),
                font=font,
            )
    return sheet


def numbered_label(number: int, name: str) -> str:
    """A label of the contact sheet: the number first, where it is never cut, then what follows the last slash of the
    name, for which alone small pictures have room."""
    return f"{number}   {name.rsplit('/', 1)[-1]}"  # the font's space is 2 pixels wide: one would not be seen


def _label_font():
    return ImageFont.load_default(11)


def _fitted(label: str, width: float, font) -> str:
    """The label, cut to `width` pixels."""
    while label and font.getlength(label) > width:
        label = label[:-2] + "…" if len(label) > 2 else ""
    return label
