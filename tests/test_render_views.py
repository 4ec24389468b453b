"""Rendered views: exact parts and depth of a box scene, the same bits for the same numbers, all within the frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from jr_dist.data.cameras import CAMERAS, draw_camera
from jr_dist.data.materials import LOOKS, draw_light
from jr_dist.data.part_mesh import PartMesh
from jr_dist.data.ray_casting import Camera, camera_rays
from jr_dist.data.render_shapes import RenderShape, open_shapes
from jr_dist.data.render_views import (
    BACKENDS,
    DEPTH_STEP,
    RenderedView,
    ViewSettings,
    depth_picture,
    parts_picture,
    render_surface,
    render_view,
)
from jr_dist.data.shading import rough_pixels
from jr_dist.data.surface import surface_of
from jr_dist.errors import InputError

SETTINGS = ViewSettings(size=48)
BOXES = ((-0.55, -0.1, 0.0), (0.3, 0.2, 0.1))  # centres; the first hides part of the second from some sides
HALF = np.array([0.25, 0.3, 0.2])


def box_shape() -> RenderShape:
    boxes = [trimesh.creation.box(2 * HALF, trimesh.transformations.translation_matrix(centre)) for centre in BOXES]
    for box in boxes:
        box.visual = None
    return RenderShape(
        "boxes", ("left", "right"), surface_of(PartMesh(("left", "right"), tuple((box,) for box in boxes)))
    )


@pytest.fixture
def opengl() -> str:
    """The backend moderngl, where it works on this machine."""
    from jr_dist.data.gl_faces import renderer_name

    try:
        renderer_name()
    except InputError as error:
        pytest.skip(str(error))
    return "moderngl"


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    """Each backend that works on this machine."""
    return "embree" if request.param == "embree" else request.getfixturevalue("opengl")


def by_slabs(camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Part and depth of the boxes by the slab test, and infinity where a ray misses."""
    rays = camera_rays(camera, size)
    depth, part = np.full((size, size), np.inf), np.full((size, size), -1)
    for number, centre in enumerate(BOXES):
        with np.errstate(divide="ignore"):
            one, two = ((np.array(centre) + side * HALF - camera.position()) / rays for side in (-1, 1))
        enter, leave = np.minimum(one, two).max(axis=-1), np.maximum(one, two).min(axis=-1)
        nearer = (enter <= leave) & (enter < depth)
        depth[nearer], part[nearer] = enter[nearer], number
    return part, depth


@pytest.mark.parametrize("view", range(4))
def test_parts_and_depth_of_boxes_are_exact(view, backend):
    picture = render_view(box_shape(), view, replace(SETTINGS, backend=backend, cameras="around"))
    part, depth = by_slabs(picture.camera, SETTINGS.size)
    differ = picture.part_index != part
    # OpenGL keeps corners to a 256th of a pixel: a ray that grazes an edge may pass on its other side.
    assert differ.sum() <= (0 if backend == "embree" else 2)
    np.testing.assert_allclose(picture.depth[~differ], depth[~differ], rtol=1e-5)
    assert {-1, 0, 1} == set(np.unique(part))


def test_the_buffers_survive_their_pictures():
    picture = render_view(box_shape(), 0, SETTINGS)
    np.testing.assert_array_equal(parts_picture(picture.part_index).astype(int) - 1, picture.part_index)
    stored = depth_picture(picture.depth)
    there = np.isfinite(picture.depth)
    np.testing.assert_array_equal(stored > 0, there)
    assert np.abs(stored[there] * DEPTH_STEP - picture.depth[there]).max() <= DEPTH_STEP * 0.51


def equal(one: RenderedView, two: RenderedView) -> bool:
    return one.camera == two.camera and all(
        np.array_equal(getattr(one, name), getattr(two, name)) for name in ("rgba", "part_index", "depth")
    )


def test_a_view_depends_on_its_numbers_alone(tiny_dataset, backend):
    from jr_dist.data.dataset import open_dataset

    shapes = open_shapes(open_dataset(tiny_dataset), "val")
    settings = replace(SETTINGS, backend=backend)
    first = [render_view(shapes.shape(row), view, settings) for row in (0, 1) for view in (0, 1)]
    again = [render_view(shapes.shape(row), view, settings) for row in (1, 0) for view in (1, 0)][::-1]
    assert all(equal(one, two) for one, two in zip(first, again))
    assert not equal(first[0], first[1]) and not equal(first[0], first[2])
    assert not equal(first[0], render_view(shapes.shape(0), 0, replace(settings, seed=1)))


def test_every_setting_acts_and_only_as_it_says(tiny_dataset):
    from jr_dist.data.dataset import open_dataset

    shape = open_shapes(open_dataset(tiny_dataset), "val").shape(0)
    plain = render_view(shape, 0, SETTINGS)
    for other in (replace(SETTINGS, materials="plausible"), replace(SETTINGS, look="unseen")):
        picture = render_view(shape, 0, other)
        assert not np.array_equal(picture.rgba[..., :3], plain.rgba[..., :3])
        np.testing.assert_array_equal(picture.part_index, plain.part_index)
        assert picture.camera == plain.camera
    assert render_view(shape, 0, replace(SETTINGS, cameras="around")).camera != plain.camera


@pytest.mark.parametrize("name", sorted(CAMERAS))
def test_the_whole_sphere_is_in_every_picture(name):
    cameras = [draw_camera(name, np.random.default_rng(seed)) for seed in range(500)]
    for camera in cameras:
        assert np.sin(np.radians(camera.field_of_view) / 2) * camera.distance > 1
    assert cameras[0] == draw_camera(name, np.random.default_rng(0))
    assert np.ptp([camera.azimuth for camera in cameras]) > 300
    if name == "product":
        assert 5 <= min(c.elevation for c in cameras) <= max(c.elevation for c in cameras) <= 35
        assert np.mean([abs(camera.azimuth) < 90 for camera in cameras]) > 0.75


def test_the_outline_is_smooth_and_what_is_inside_is_opaque():
    picture = render_view(box_shape(), 1, SETTINGS)
    alpha = picture.rgba[..., 3]
    assert set(np.unique(alpha)) <= {0, 64, 128, 191, 255} and len(np.unique(alpha)) > 2
    assert (picture.rgba[alpha == 0] == 0).all()
    inside = (picture.part_index >= 0) & (alpha == 255)
    assert inside.sum() > 0.5 * (picture.part_index >= 0).sum()


def test_rough_pixels_are_those_with_another_neighbour():
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 40, (12, 9, 4)).astype(np.uint8)
    shown[..., 3] = rng.integers(0, 256, (12, 9))  # not looked at
    part = (np.arange(9) > 5).astype(np.int16) * np.ones((12, 1), np.int16)
    padded = np.pad(np.dstack([shown[..., :3].astype(int), 1000 * part]), ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = [padded[y : y + 12, x : x + 9] for y in range(3) for x in range(3)]
    for threshold in (10, 30, 38):
        expected = np.max([np.abs(one - padded[1:-1, 1:-1]).max(axis=-1) for one in around], axis=0) > threshold
        np.testing.assert_array_equal(rough_pixels(shown, part, threshold), expected)
        assert expected.sum() > 0
    assert not expected.all()


def test_what_faces_the_key_light_is_brighter():
    shape, camera = box_shape(), Camera(0.0, 0.0)
    light = draw_light(LOOKS["train"], camera, np.random.default_rng(0))
    shown = {}
    for side in (-1, 1):
        light[0] = (side, 0.0, 0.0)
        picture = render_surface(shape.surface, shape.surface.own, Camera(side * 60.0, 0.0), light, 48, "embree")
        away = render_surface(shape.surface, shape.surface.own, Camera(-side * 60.0, 0.0), light, 48, "embree")
        shown[side] = picture.rgba[..., :3].max(), away.rgba[..., :3].max()
    assert all(lit > 1.2 * dark for lit, dark in shown.values())


def test_texture_is_read_where_the_ray_meets():
    """A square whose texture is red on its left, blue on its right, green on top of both."""
    from PIL import Image
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, :2, 0] = pixels[:, 2:, 2] = pixels[:2, :, 1] = 255
    uv = [[0, 0], [1, 0], [1, 1], [0, 1]]
    visual = TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=Image.fromarray(pixels), roughnessFactor=1.0))
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * 0.7
    square = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)
    surface = surface_of(PartMesh(("square",), ((square,),)))
    light = draw_light(LOOKS["train"], Camera(), np.random.default_rng(0))
    rgb = render_surface(surface, surface.own, Camera(0.0, 0.0), light, 64, "embree").rgba.astype(int)
    low_left, low_right, top_left, top_right = rgb[40, 24], rgb[40, 40], rgb[24, 24], rgb[24, 40]
    assert low_left[0] > 2 * low_left[2] and low_right[2] > 2 * low_right[0]
    assert top_left[1] > 2 * low_left[1] and top_right[1] > 2 * low_right[1]
    assert abs(top_left[0] - top_left[1]) < 40 and abs(top_right[2] - top_right[1]) < 40


def test_backends_agree(tiny_dataset, opengl):
    from jr_dist.data.dataset import open_dataset

    shapes = open_shapes(open_dataset(tiny_dataset), "sources")
    for row in range(0, len(shapes), 4):
        shape = shapes.shape(row)
        one, two = (render_view(shape, 0, ViewSettings(size=96, backend=name)) for name in ("embree", opengl))
        assert one.camera == two.camera
        assert (one.part_index == two.part_index).mean() > 0.999
        assert np.abs(one.rgba.astype(int) - two.rgba).mean() < 0.1


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("size", 0, "size is 0; allowed is 8 to 2048"),
        ("seed", -1, "seed is -1"),
        ("cameras", "sideways", "cameras is 'sideways'; allowed are product, around"),
        ("materials", "gold", "materials is 'gold'; allowed are own, plausible"),
        ("look", "odd", "look is 'odd'; allowed are train, unseen"),
        ("backend", "vulkan", "backend is 'vulkan'; allowed are embree, moderngl"),
    ],
)
def test_wrong_settings_are_refused(field, value, told):
    with pytest.raises(InputError, match=told):
        ViewSettings(**{field: value})


def test_without_egl_the_backend_is_refused_with_the_remedy(monkeypatch):
    moderngl = pytest.importorskip("moderngl")
    from jr_dist.data import gl_faces

    def none(**how):
        raise Exception("libEGL.so.1 not loaded")

    monkeypatch.setattr(moderngl, "create_context", none)
    with pytest.raises(
        InputError, match=r"finds no OpenGL 3.3 through EGL \(libEGL.so.1 not loaded\).*--backend embree"
    ):
        gl_faces._painter.__wrapped__()
