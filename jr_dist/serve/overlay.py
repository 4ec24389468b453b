"""The deformed model over the photograph that it was fitted to, and the sheet that shows how it came about."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from jr_dist.data.framing import FILL, framed, object_box
from jr_dist.data.materials import LOOKS, draw_light
from jr_dist.data.part_mesh import PartMesh, concatenated
from jr_dist.data.ray_casting import Camera
from jr_dist.data.render import contact_sheet, on_background, part_colours, render_mesh
from jr_dist.data.render_views import render_surface
from jr_dist.data.surface import surface_of

OPACITY = 0.6  # of the model over the photograph
PANEL = 320  # pixels of one picture of the sheet
_MASKED = np.array([190, 90, 150], np.float32)  # laid over what the mask leaves out
_ROOM = 1.15  # radius of the sphere that a camera's picture holds: a deformed model may be a little larger than 1


@dataclass(frozen=True)
class Panels:
    """The pictures of the sheet, each RGB uint8; the first three are as large as the photograph."""

    photo: np.ndarray  # [H, W, 3]
    mask: np.ndarray  # [H, W, 3] the photograph, coloured over where the mask is not
    overlay: np.ndarray  # [H, W, 3]
    model: np.ndarray  # [PANEL, PANEL, 3] in its own materials, from the same viewpoint


def draw_panels(rgba: np.ndarray, alpha: np.ndarray, model: PartMesh, camera: Camera) -> Panels:
    """What a photograph (H, W, 4) uint8 with the mask `alpha` (H, W) uint8 shows, and the model seen by `camera`.

    The model is drawn half transparent, a colour a part, its bounding box in the picture laid on the mask's: the longer
    sides agree and the middles do. Raises `InputError` where the mask is empty.
    """
    photo = on_background(rgba)
    hidden = 0.8 * (1 - alpha[..., None] / np.float32(255))
    camera = _holding(camera)
    return Panels(
        photo,
        np.rint(photo * (1 - hidden) + _MASKED * hidden).astype(np.uint8),
        _laid_over(photo, object_box(np.broadcast_to(alpha[..., None], (*alpha.shape, 4))), model, camera),
        _own_look(model, camera),
    )


def sheet(panels: Panels, mask_label: str, overlay_label: str, title: str) -> Image.Image:
    """Photo | mask | overlay | model, side by side with labels."""
    pictures = [_fitted(picture) for picture in (panels.photo, panels.mask, panels.overlay, panels.model)]
    labels = ["photo", mask_label, overlay_label, "the model, deformed"]
    return contact_sheet(pictures, labels, columns=4, title=title)


def _laid_over(photo: np.ndarray, box: tuple[int, int, int, int], model: PartMesh, camera: Camera) -> np.ndarray:
    top, bottom, left, right = box
    size = max(8, round(max(bottom - top, right - left) / FILL))
    vertices, faces, part_of_face = concatenated(model)
    colours = part_colours(model.num_parts)[part_of_face]
    whole = render_mesh(vertices, faces, colours, camera=camera, size=min(1024, 2 * size), samples=1).colour
    if not (whole[..., 3] >= 128).any():  # thinner than a pixel
        return photo
    drawn = framed(whole, size)
    y, x = round((top + bottom - size) / 2), round((left + right - size) / 2)  # where the frame begins in the photo
    result = photo.astype(np.float32)
    rows, columns = (slice(max(0, at), max(0, min(at + size, end))) for at, end in zip((y, x), photo.shape))
    part = drawn[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x].astype(np.float32)
    opacity = OPACITY * part[..., 3:] / 255
    result[rows, columns] = result[rows, columns] * (1 - opacity) + part[..., :3] * opacity
    return np.rint(result).astype(np.uint8)


def _own_look(model: PartMesh, camera: Camera) -> np.ndarray:
    surface = surface_of(model)
    light = draw_light(LOOKS["train"], camera, np.random.default_rng(0))
    return on_background(framed(render_surface(surface, surface.own, camera, light, 2 * PANEL, "embree").rgba, PANEL))


def _holding(camera: Camera) -> Camera:
    """The camera with a lens wide enough for the model."""
    return replace(camera, field_of_view=2 * math.degrees(math.asin(min(0.95, _ROOM / camera.distance))))


def _fitted(picture: np.ndarray) -> np.ndarray:
    """The whole picture in the middle of a white square of `PANEL` pixels."""
    image = Image.fromarray(picture)
    scale = PANEL / max(image.size)
    small = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX
    )
    square = Image.new("RGB", (PANEL, PANEL), (255, 255, 255))
    square.paste(small, ((PANEL - small.width) // 2, (PANEL - small.height) // 2))
    return np.asarray(square)
