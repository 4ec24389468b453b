"""One picture of one shape: a pure function of the shape, the number of the view and the settings.

Colours are the shape's own or plausible ones, the camera and the light are drawn for each view. Two backends answer the
one question that costs, which face each ray meets; all else is shared, so that they differ at edges alone.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jr_dist.data import embree_faces
from jr_dist.data.cameras import CAMERAS, draw_camera
from jr_dist.data.materials import LOOKS, draw_light, plausible
from jr_dist.data.ray_casting import Camera, pixel_rays
from jr_dist.data.render_shapes import RenderShape
from jr_dist.data.shading import encode, rough_pixels, shade
from jr_dist.data.surface import Coat, Surface, coat_of
from jr_dist.errors import InputError
from jr_dist.geometry.observation import generator

RENDERER_VERSION = 1  # raise it when the same settings give other pictures
BACKENDS = ("embree", "moderngl")
MATERIALS = ("own", "plausible")
SIZES = (8, 2048)
SAMPLES = 2  # a side of the grid of rays in a pixel whose neighbours differ
DEPTH_STEP = 1 / 5000  # canonical units of one step of a 16-bit depth picture: they reach 13 units far
_PNG_LEVEL = 4  # a higher one takes longer than the picture
_ROUGH = 10  # grey levels between neighbours from which a pixel takes more rays


@dataclass(frozen=True)
class ViewSettings:
    """What a picture depends on beside its shape and the number of the view."""

    size: int = 224
    seed: int = 0
    cameras: str = "product"  # a name in `cameras.CAMERAS`
    materials: str = "own"  # "own": the model's colours and textures, plausible ones where it has none
    look: str = "train"  # a name in `materials.LOOKS`: which materials and lights
    backend: str = "embree"

    def __post_init__(self) -> None:
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise InputError(f"size is {self.size}; allowed is {SIZES[0]} to {SIZES[1]} pixels; 224 is the usual one")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; allowed is 0 or more; choose another")
        allowed = {"cameras": CAMERAS, "materials": MATERIALS, "look": LOOKS, "backend": BACKENDS}
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(choices)}; name one")


@dataclass(frozen=True)
class RenderedView:
    """A picture with its buffers; S = size."""

    rgba: np.ndarray  # [S, S, 4] uint8, transparent where nothing is
    part_index: np.ndarray  # [S, S] int16, of the face at the pixel's centre, -1 where nothing is
    depth: np.ndarray  # [S, S] float32 along the viewing axis at the pixel's centre, inf where nothing is
    camera: Camera


def view_camera(id: str, view: int, settings: ViewSettings) -> Camera:
    """Where view number `view` of the shape `id` is taken from."""
    return draw_camera(settings.cameras, generator("camera", settings.seed, id, view))


def render_view(shape: RenderShape, view: int, settings: ViewSettings) -> RenderedView:
    """View number `view` of a shape. Raises `InputError` where the backend can't work on this machine."""
    camera = view_camera(shape.id, view, settings)
    look = LOOKS[settings.look]
    light = draw_light(look, camera, generator("light", settings.seed, shape.id, view))
    drawn = plausible(shape.part_names, look, generator("material", settings.seed, settings.look, shape.id))
    coat = coat_of(shape.surface, drawn, own=settings.materials == "own")
    return render_surface(shape.surface, coat, camera, light, settings.size, settings.backend)


def render_surface(
    surface: Surface, coat: Coat, camera: Camera, light: np.ndarray, size: int, backend: str
) -> RenderedView:
    """A surface (within the canonical sphere) in a coat, under `light` [5, 3] as `shading` has it.

    One ray a pixel; where a neighbour's colour or part is another, the colour is the mean of SAMPLES x SAMPLES other
    rays in linear light.
    """
    face = faces_seen(backend, surface, camera, size)
    rows, columns = np.nonzero(face >= 0)
    linear, found = _shaded(surface, coat, camera, light, size, rows, columns, face[rows, columns])
    depth = np.full((size, size), np.inf, np.float32)
    depth[rows, columns] = found
    rgba = np.zeros((size, size, 4), np.uint8)
    rgba[rows, columns] = _shown(linear, np.ones(len(linear)))

    part_index = np.append(surface.part_of_face, np.int16(-1))[face]  # index -1, a miss, reads the last entry
    rows, columns = np.nonzero(rough_pixels(rgba, part_index, _ROUGH))
    step = np.arange(SAMPLES)
    fine_rows = np.repeat(rows[:, None] * SAMPLES + step, SAMPLES, axis=1).ravel()
    fine_columns = np.tile(columns[:, None] * SAMPLES + step, (1, SAMPLES)).ravel()
    fine = faces_seen(backend, surface, camera, size * SAMPLES, (fine_rows, fine_columns))
    linear, _ = _shaded(surface, coat, camera, light, size * SAMPLES, fine_rows, fine_columns, fine)
    hits = (fine.reshape(-1, SAMPLES**2) >= 0).sum(axis=1)
    mean = linear.reshape(-1, SAMPLES**2, 3).sum(axis=1) / np.maximum(hits, 1)[:, None]
    rgba[rows, columns] = _shown(mean, hits / SAMPLES**2)
    return RenderedView(rgba, part_index, depth, camera)


def faces_seen(
    backend: str, surface: Surface, camera: Camera, grid: int, at: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """The face that the ray through each cell of a grid x grid picture meets, int32, -1 for none.

    Of all cells, [grid, grid], or of those in rows and columns `at`, [M].
    """
    if backend == "embree":
        return embree_faces.faces_seen(surface, camera, grid, at)
    from jr_dist.data import gl_faces

    return gl_faces.faces_seen(surface, camera, grid, at)


def _shaded(
    surface: Surface, coat: Coat, camera: Camera, light: np.ndarray, grid: int, rows: np.ndarray, columns: np.ndarray,
    face: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Linear light [M, 3] float64 and depth [M] float32 of rays that meet `face` [M]."""
    out, depth = np.empty((len(face), 3)), np.empty(len(face), np.float32)
    shade(
        camera.position(), pixel_rays(camera, grid, rows, columns), face, surface.vertices, surface.faces,
        surface.normals, surface.uv, coat.colours, coat.metallic, coat.roughness, coat.texture_of_face, surface.texels,
        surface.textures, light, float(surface.vertices[:, 1].min()), out, depth,
    )  # fmt: skip
    return out, depth


def _shown(linear: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """RGBA [M, 4] uint8; nothing but zeros where alpha is 0."""
    shown = np.zeros((len(linear), 4), np.uint8)
    encode(linear, shown[:, :3])
    shown[:, 3] = np.rint(255 * alpha)
    return shown


def png(image: np.ndarray) -> bytes:
    """[H, W, 4] or [H, W] uint8, or [H, W] uint16, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def parts_picture(part_index: np.ndarray) -> np.ndarray:
    """[S, S] uint8: 1 + the part, 0 where nothing is."""
    assert part_index.max(initial=-1) < 255, "a byte holds the part"
    return (part_index + 1).astype(np.uint8)


def depth_picture(depth: np.ndarray) -> np.ndarray:
    """[S, S] uint16: depth in units of DEPTH_STEP, 0 where nothing is."""
    return np.where(np.isinf(depth), 0, np.rint(np.clip(depth / DEPTH_STEP, 1, 65535))).astype(np.uint16)
