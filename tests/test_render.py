"""Pictures agree with the geometry: ids and depth exactly, shading by symmetry."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from jr_dist.data import render
from jr_dist.data.render import Camera


def two_boxes():
    """A left box (part 0) and a right box (part 1), apart, half a unit wide each."""
    left = trimesh.creation.box(extents=(0.5, 0.5, 0.5))
    right = left.copy()
    left.apply_translation((-0.5, 0, 0))
    right.apply_translation((0.5, 0, 0))
    vertices = np.concatenate([left.vertices, right.vertices])
    faces = np.concatenate([left.faces, right.faces + len(left.vertices)])
    return vertices, faces, np.repeat([0, 1], [len(left.faces), len(right.faces)])


def test_part_ids_are_exact_for_two_boxes():
    vertices, faces, parts = two_boxes()
    camera = Camera(azimuth=17, elevation=11)
    picture = render.render_mesh(
        vertices, faces, render.part_colours(2)[parts], part_of_face=parts, camera=camera, size=96, samples=2
    )
    directions = render.camera_rays(camera, 96)
    # The slab test by hand; the two boxes never hide each other from here.
    origin = camera.axes()[2] * camera.distance
    expected = np.full((96, 96), -1)
    for part, x in enumerate((-0.5, 0.5)):
        low, high = np.array([x - 0.25, -0.25, -0.25]), np.array([x + 0.25, 0.25, 0.25])
        with np.errstate(divide="ignore"):
            first, second = (low - origin) / directions, (high - origin) / directions
        enter = np.minimum(first, second).max(axis=-1)
        leave = np.maximum(first, second).min(axis=-1)
        expected[enter <= leave] = part
    np.testing.assert_array_equal(picture.part_index, expected)
    assert {-1, 0, 1} == set(np.unique(picture.part_index))
    np.testing.assert_array_equal(np.isinf(picture.depth), expected < 0)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 20), (35, 10), (120, -30)])
def test_mirrored_mesh_gives_mirrored_picture(azimuth, elevation):
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    mesh.apply_translation((0.3, 0.2, 0.1))
    mirrored = mesh.vertices * (-1, 1, 1)
    colours = np.random.default_rng(0).integers(0, 256, (len(mesh.faces), 3))
    one = render.render_part_mesh(mesh.vertices, mesh.faces, colours, size=64, azimuth=azimuth, elevation=elevation)
    two = render.render_part_mesh(
        mirrored, mesh.faces[:, ::-1], colours, size=64, azimuth=-azimuth, elevation=elevation
    )
    assert one[..., 3].any()
    # A ray along the edge of two faces may see either of them: allow a few pixels, no more.
    different = (np.abs(one.astype(int) - two[:, ::-1].astype(int)).max(axis=-1) > 1).mean()
    assert different < 0.005


def test_depth_of_a_plane_is_its_distance_along_the_view():
    corners = np.array([[-5, -5, 0.5], [5, -5, 0.5], [5, 5, 0.5], [-5, 5, 0.5]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    grey = np.full((2, 3), 128)
    picture = render.render_mesh(corners, faces, grey, camera=Camera(0, 0, distance=3.0), size=32)
    np.testing.assert_allclose(picture.depth, 2.5, rtol=1e-6)  # an upright plane has one depth all over
    tilted = render.render_mesh(corners, faces, grey, camera=Camera(0, 30, distance=3.0), size=33)
    assert tilted.depth[16, 16] == pytest.approx(3.0 - 0.5 / np.cos(np.radians(30)), rel=1e-6)


def test_rays_hit_what_the_camera_points_at():
    camera = Camera(azimuth=70, elevation=-15, distance=2.0)
    axes = camera.axes()
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)
    centre = render.camera_rays(camera, 3)[1, 1]
    np.testing.assert_allclose(axes[2] * camera.distance + centre * camera.distance, 0, atol=1e-12)


def test_same_arguments_same_bytes_and_supersampling_smooths_only_edges():
    vertices, faces, parts = two_boxes()
    colours = render.part_colours(2)[parts]
    rough = render.render_mesh(vertices, faces, colours, part_of_face=parts, size=64)
    smooth = render.render_mesh(vertices, faces, colours, part_of_face=parts, size=64, samples=2)
    again = render.render_mesh(vertices, faces, colours, part_of_face=parts, size=64, samples=2)
    assert smooth.colour.tobytes() == again.colour.tobytes()
    assert smooth.depth.tobytes() == rough.depth.tobytes()
    assert set(np.unique(rough.colour[..., 3])) == {0, 255}
    assert np.setdiff1d(np.unique(smooth.colour[..., 3]), [0, 255]).size > 0


def test_nothing_to_see_is_transparent():
    empty = render.render_mesh(np.zeros((0, 3)), np.zeros((0, 3), int), np.zeros((0, 3)), size=16)
    assert not empty.colour.any() and (empty.part_index == -1).all() and np.isinf(empty.depth).all()


def test_points_near_the_camera_cover_those_behind():
    points = np.array([[0, 0, 0.5], [0, 0, -0.5]])
    colours = np.array([[255, 0, 0], [0, 0, 255]])
    for order in ([0, 1], [1, 0]):
        picture = render.render_points(points[order], colours[order], size=64, azimuth=0, elevation=0, radius=0.1)
        red, _, blue, alpha = picture[32, 32]
        assert red > 200 and blue == 0 and alpha == 255
    assert picture[0, 0, 3] == 0


def test_points_land_where_the_mesh_lands():
    """A splatted sphere and a ray-cast one have the same outline up to the discs' radius."""
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.3)
    sphere.apply_translation((0.3, 0.4, -0.2))
    mesh = render.render_part_mesh(sphere.vertices, sphere.faces, np.full((len(sphere.faces), 3), 90), size=96)
    cloud = render.render_points(sphere.vertices, size=96, radius=0.02)
    one, two = mesh[..., 3] > 127, cloud[..., 3] > 127
    assert (one & two).sum() / (one | two).sum() > 0.85


def test_part_colours_are_distinct():
    colours = render.part_colours(64)
    assert colours.dtype == np.uint8
    assert len(np.unique(colours, axis=0)) == 64
    np.testing.assert_array_equal(colours[:5], render.part_colours(5))


def test_contact_sheet_holds_every_picture():
    images = [np.full((20, 30, 3), value, np.uint8) for value in (10, 120, 230)]
    sheet = np.asarray(render.contact_sheet(images, ["a", "b", "a label far too long to fit"], columns=2, title="t"))
    assert sheet.shape == (30 + 2 * (20 + 18), 60, 3)
    np.testing.assert_array_equal(sheet[30:50, :30], images[0])
    np.testing.assert_array_equal(sheet[30:50, 30:], images[1])
    np.testing.assert_array_equal(sheet[68:88, :30], images[2])
    clear = render.contact_sheet([np.zeros((8, 8, 4), np.uint8)])
    assert (np.asarray(clear) == 255).all()


def test_a_numbered_label_shows_its_number_apart_and_its_name_on_small_pictures():
    """As wide a gap as a letter, where one space of the font is 2 pixels; the folder never pushes the name out."""
    font = render._label_font()
    for name in ("table 0", "4 legs", "Wing"):
        number, _, rest = render.numbered_label(6, f"Tables/{name}").partition(" ")
        assert number == "6" and rest.strip() == name
        assert font.getlength(render.numbered_label(6, name)) - font.getlength("6") - font.getlength(name) >= 5
    assert render._fitted(render.numbered_label(3, "some chairs/chair0"), 64 - 8, font).endswith("chair0")
    assert render._fitted(render.numbered_label(13, "a/" + "long" * 9), 64 - 8, font).startswith("13   long")
