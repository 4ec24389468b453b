"""Pictures as networks see them: plain ones framed and no more, photograph-like ones a function of their generator."""

import numpy as np
import pytest

from jr_dist.data import augment
from jr_dist.data.augment import background, photo_picture, plain_picture
from jr_dist.data.framing import framed
from jr_dist.errors import InputError

SIZE = 48


@pytest.fixture
def rgba() -> np.ndarray:
    """A picture of 90 x 120 pixels: an L of two colours, so that no mirror image of it is itself."""
    picture = np.zeros((90, 120, 4), np.uint8)
    picture[20:70, 30:50] = (200, 40, 30, 255)
    picture[55:70, 50:100] = (30, 90, 200, 255)
    return picture


def test_a_plain_picture_is_the_framed_object_on_white(rgba):
    picture = plain_picture(rgba, SIZE)
    assert picture.shape == (3, SIZE, SIZE) and picture.dtype == np.uint8
    cut_out = framed(rgba, SIZE)
    solid, empty = cut_out[..., 3] == 255, cut_out[..., 3] == 0
    assert np.array_equal(picture[:, solid], cut_out[solid, :3].T)
    assert solid.any() and empty.any() and (picture[:, empty] == 255).all()


@pytest.mark.parametrize("size", [32, 224])
def test_a_photo_is_a_function_of_the_picture_and_the_generator(rgba, size):
    before = rgba.copy()
    photos = [photo_picture(rgba, size, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(rgba, before)
    assert all(photo.shape == (3, size, size) and photo.dtype == np.uint8 for photo in photos)
    assert np.array_equal(photos[0], photos[1])
    assert (photos[0] != photos[2]).mean() > 0.5


def test_the_object_is_there_moved_cut_off_and_hidden_but_never_mirrored(rgba, monkeypatch):
    """With colours left alone and all backgrounds white, the red bar stays left of the blue one."""
    monkeypatch.setattr(augment, "background", lambda size, rng: np.full((size, size, 3), 255, np.float32))
    monkeypatch.setattr(augment, "_graded", lambda colour, rng, strength=1.0: colour.astype(np.uint8))
    places, sizes = [], []
    for seed in range(60):
        red, green, blue = photo_picture(rgba, SIZE, np.random.default_rng(seed)).astype(int)
        reds, blues = np.argwhere((red > 150) & (green < 90)), np.argwhere((blue > 150) & (red < 90))
        assert len(reds) > 10 and len(blues) > 10
        assert reds[:, 1].mean() < blues[:, 1].mean() and reds[:, 0].mean() < blues[:, 0].mean()
        places.append(reds.mean(axis=0))
        sizes.append(len(reds))
    assert np.std(places, axis=0).min() > 1
    assert max(sizes) > 1.5 * min(sizes)


def test_backgrounds_are_of_every_kind():
    pictures = [background(SIZE, np.random.default_rng(seed)) for seed in range(60)]
    assert all(picture.min() >= 0 and picture.max() <= 255 for picture in pictures)
    plain = [picture for picture in pictures if (picture == picture[0, 0]).all()]
    white = [picture for picture in plain if picture.min() >= 225 and np.ptp(picture) == 0]
    smooth = [picture for picture in pictures if 0 < np.abs(np.diff(picture, axis=0)).max() < 12]
    assert len(white) >= 5 and len(plain) - len(white) >= 5 and len(smooth) >= 5
    assert len(pictures) - len(plain) - len(smooth) >= 5


def test_an_empty_picture_is_refused(rgba):
    rgba[..., 3] = 0
    with pytest.raises(InputError, match="mask is empty"):
        plain_picture(rgba, SIZE)
