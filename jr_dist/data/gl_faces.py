"""Which face each pixel shows, by OpenGL without a window (EGL): on a GPU, or by Mesa on the processor.

Faces are drawn in colours that are their numbers. A context belongs to the process that made it, and is made when a
picture is first asked for: never before a process is forked off.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from jr_dist.data.ray_casting import Camera
from jr_dist.data.surface import Surface
from jr_dist.errors import InputError

_NEAR_MARGIN = 1.05  # canonical units before and behind the origin: shapes have radius 1
_VERTEX = """
#version 330
uniform mat4 view;
in vec3 position;
void main() { gl_Position = view * vec4(position, 1.0); }
"""
_FRAGMENT = """
#version 330
out vec4 colour;
void main() {
    int number = gl_PrimitiveID + 1;
    colour = vec4(number & 255, (number >> 8) & 255, (number >> 16) & 255, (number >> 24) & 255) / 255.0;
}
"""


def faces_seen(
    surface: Surface, camera: Camera, grid: int, at: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """See `render_views.faces_seen`. Raises `InputError` where OpenGL is not to be had."""
    face = _painter().draw(surface, camera, grid)
    return face if at is None else face[at]


def renderer_name() -> str:
    """What draws, in OpenGL's words: a GPU's name, or "llvmpipe ..." for Mesa on the processor. Raises `InputError`."""
    return _painter().context.info["GL_RENDERER"]


@cache
def _painter() -> _Painter:
    os.environ.setdefault("LP_NUM_THREADS", "1")  # an actor has one processor
    try:
        import moderngl
    except ImportError as error:
        raise InputError(
            "backend moderngl needs the package moderngl, which is not installed; `pip install -c constraints.txt "
            "'.[gl]'` in the clone, or use --backend embree"
        ) from error
    try:
        how: dict[str, Any] = {"standalone": True, "backend": "egl", "require": 330}
        return _Painter(moderngl.create_context(**how))
    except Exception as error:  # moderngl raises what the libraries below it say, as bare Exception
        raise InputError(
            f"backend moderngl finds no OpenGL 3.3 through EGL ({' '.join(str(error).split())[:150]}); install libegl1 "
            "and libgl1-mesa-dri, or the GPU's driver with its EGL library, or use --backend embree"
        ) from error


@dataclass
class _Loaded:
    """The surface whose triangles the context holds."""

    surface: Surface
    array: Any
    buffers: tuple[Any, ...]


class _Painter:
    """A context with the surface that was drawn last, and a frame buffer for each size."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self._program = context.program(vertex_shader=_VERTEX, fragment_shader=_FRAGMENT)
        self._frames: dict[int, Any] = {}
        self._loaded: _Loaded | None = None

    def draw(self, surface: Surface, camera: Camera, grid: int) -> np.ndarray:
        """[grid, grid] int32, -1 for none."""
        self._load(surface)
        assert self._loaded is not None
        frame = self._frame(grid)
        frame.use()
        frame.clear(0.0, 0.0, 0.0, 0.0)
        self.context.enable_only(self.context.DEPTH_TEST)  # both sides of a face are seen
        self._program["view"].write(projection(camera).T.astype("f4").tobytes())
        if self._loaded.array is not None:
            self._loaded.array.render()
        number = np.frombuffer(frame.read(components=4), "<u4").reshape(grid, grid)[::-1]  # OpenGL counts from below
        return number.astype(np.int32) - 1

    def _load(self, surface: Surface) -> None:
        if self._loaded is not None and self._loaded.surface is surface:
            return
        if self._loaded is not None:
            for held in (self._loaded.array, *self._loaded.buffers):
                if held is not None:
                    held.release()
        if not len(surface.faces):
            self._loaded = _Loaded(surface, None, ())
            return
        vertices = self.context.buffer(surface.vertices.astype("f4").tobytes())
        faces = self.context.buffer(surface.faces.astype("i4").tobytes())
        array = self.context.vertex_array(self._program, [(vertices, "3f", "position")], index_buffer=faces)
        self._loaded = _Loaded(surface, array, (vertices, faces))

    def _frame(self, grid: int) -> Any:
        if grid not in self._frames:
            size = (grid, grid)
            self._frames[grid] = self.context.framebuffer(
                [self.context.renderbuffer(size, 4)], self.context.depth_renderbuffer(size)
            )
        return self._frames[grid]


def projection(camera: Camera) -> np.ndarray:
    """(4, 4) float64 from the canonical frame to OpenGL's clip space; the rays of `pixel_rays` are its pixels."""
    near, far = max(camera.distance - _NEAR_MARGIN, 0.01), camera.distance + _NEAR_MARGIN
    focal = 1 / math.tan(math.radians(camera.field_of_view) / 2)
    lens = np.array(
        [
            [focal, 0, 0, 0],
            [0, focal, 0, 0],
            [0, 0, (near + far) / (near - far), 2 * near * far / (near - far)],
            [0, 0, -1, 0],
        ]
    )
    pose = np.eye(4)
    pose[:3, :3] = camera.axes()
    pose[2, 3] = -camera.distance
    return lens @ pose
