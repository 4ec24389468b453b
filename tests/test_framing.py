"""Framing: where the object lands, that bits and colours are kept, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jr_dist.data.framing import framed, object_box
from jr_dist.errors import InputError


def picture(height: int, width: int, top: int, left: int, tall: int, wide: int, seed: int = 0) -> np.ndarray:
    """Noise on an opaque rectangle, transparent (but coloured) elsewhere."""
    rgba = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgba[..., 3] = 0
    rgba[top : top + tall, left : left + wide, 3] = 255
    return rgba


def test_a_picture_of_the_right_size_keeps_its_bits():
    rgba = picture(100, 90, 7, 20, 32, 20)
    found = framed(rgba, 64, fill=0.5)
    np.testing.assert_array_equal(found[16:48, 22:42], rgba[7:39, 20:40])
    found[16:48, 22:42] = 0
    assert not found.any(), "colours under a transparent alpha don't come through"


def test_a_whole_factor_averages_over_blocks():
    rgba = picture(100, 100, 10, 10, 64, 64)
    blocks = rgba[10:74, 10:74].astype(float).reshape(32, 2, 32, 2, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(framed(rgba, 64, fill=0.5)[16:48, 16:48], blocks, atol=0.501)


def test_growing_interpolates_linearly():
    ramp = np.zeros((16, 16, 4), np.uint8)
    ramp[..., 0] = 10 * np.arange(16)
    ramp[..., 3] = 255
    found = framed(ramp, 64, fill=1.0)[32, :, 0].astype(float)
    wanted = 10 * ((np.arange(64) + 0.5) / 4 - 0.5)
    np.testing.assert_allclose(found[4:60], wanted[4:60], atol=0.501)


@given(
    tall=st.integers(1, 150), wide=st.integers(1, 150), top=st.integers(0, 20), left=st.integers(0, 20),
    x=st.floats(-0.1, 0.1), y=st.floats(-0.1, 0.1), fill=st.floats(0.4, 0.9),
)  # fmt: skip
def test_the_box_lands_where_it_should(tall, wide, top, left, x, y, fill):
    found = framed(picture(200, 180, top, left, tall, wide), 64, fill=fill, centre=(x, y))
    scale = fill * 64 / max(tall, wide)
    if min(tall, wide) * scale < 1.5:
        return  # thinner than the pixels of the frame: it may be fainter than alpha 128
    low_y, high_y, low_x, high_x = object_box(found)
    middle = 32 * (1 + y), 32 * (1 + x)
    wanted = [
        edge
        for middle, side in zip(middle, (tall, wide))
        for edge in (middle - side * scale / 2, middle + side * scale / 2)
    ]
    np.testing.assert_allclose([low_y, high_y, low_x, high_x], wanted, atol=1.0)


@given(colour=st.tuples(*[st.integers(0, 255)] * 3), seed=st.integers(0, 100))
def test_a_soft_edge_keeps_its_colour(colour, seed):
    # Everywhere one colour, under any alpha: averages weighed by alpha can't change it.
    rgba = np.random.default_rng(seed).integers(0, 256, (50, 40, 4), dtype=np.uint8)
    rgba[..., :3] = colour
    found = framed(rgba, 48)
    seen = found[..., 3] > 0
    assert (np.abs(found[seen][:, :3].astype(int) - colour) <= 1).all()


def test_what_leaves_the_frame_is_cut_off_and_what_lay_outside_the_picture_is_transparent():
    rgba = np.full((40, 40, 4), 255, np.uint8)
    found = framed(rgba, 40, fill=1.0, centre=(1.0, 0.0))
    assert (found[:, 20:] == 255).all() and not found[:, :20].any()
    assert (framed(rgba, 40, fill=2.0) == 255).all()
    assert not framed(rgba, 40, centre=(3.0, 0.0)).any()


@pytest.mark.parametrize("alpha", [0, 127])
def test_an_empty_mask_is_refused(alpha):
    with pytest.raises(InputError, match=f"the mask is empty.*the highest is {alpha}"):
        framed(np.full((8, 8, 4), alpha, np.uint8), 16)
