"""Masks: an alpha is believed, a plain background is found, and what is doubtful or impossible is said."""

from __future__ import annotations

import numpy as np
import pytest
from photo_cases import backgrounds, overlap, put_on, render

from jr_dist.data.ray_casting import Camera
from jr_dist.errors import InputError
from jr_dist.serve.photo_masks import DOUBTFUL, mask_photo

CAMERA = Camera(30, 20, 4.2, 40)


@pytest.fixture(scope="module")
def chair() -> np.ndarray:
    return render("chair-low", CAMERA)


def test_the_file_s_own_alpha_is_taken(chair):
    mask = mask_photo(chair)
    assert (mask.method, mask.confidence, mask.warnings) == ("alpha", 1.0, ())
    np.testing.assert_array_equal(mask.alpha, chair[..., 3])


def test_an_alpha_that_hides_nothing_counts_as_none(chair):
    photo = put_on(chair, (250, 250, 250))
    photo[..., 3] = np.random.default_rng(0).integers(128, 256, photo.shape[:2])
    assert mask_photo(photo).method == "background"


@pytest.mark.parametrize("kind", ["white", "blue", "gradient", "vignette", "shadow", "noise"])
def test_a_plain_background_is_found(chair, kind):
    mask = mask_photo(put_on(chair, backgrounds(256, chair[..., 3])[kind]))
    assert overlap(mask.alpha, chair[..., 3]) > (0.93 if kind == "shadow" else 0.97)
    assert mask.method == "background" and mask.confidence > DOUBTFUL and mask.warnings == ()
    assert set(np.unique(mask.alpha)) == {0, 255}


def test_gaps_are_seen_through_and_highlights_are_not():
    photo = np.full((200, 200, 4), 255, np.uint8)
    photo[..., :3] = 245
    true = np.zeros((200, 200), np.uint8)
    true[50:150, 40:160] = 255
    true[70:130, 60:80] = 0  # a gap, sharply cut
    photo[true > 0, :3] = (90, 60, 40)
    y, x = np.mgrid[:200, :200]
    light = np.exp(-((x - 125) ** 2 + (y - 100) ** 2) / (2 * 14**2))[..., None]  # as bright as the background, fading
    lit = photo[..., :3] * (1 - light) + 245 * light
    photo[..., :3] = np.where(true[..., None] > 0, lit, photo[..., :3]).astype(np.uint8)
    assert overlap(mask_photo(photo).alpha, true) > 0.98


def test_the_largest_of_several_objects_is_taken(chair):
    photo = put_on(chair, (250, 250, 250))
    photo[5:65, 5:55, :3] = (30, 60, 90)
    mask = mask_photo(photo)
    assert overlap(mask.alpha, chair[..., 3]) > 0.97
    assert any("several objects" in warning for warning in mask.warnings)


def test_what_makes_a_mask_doubtful_is_said(chair):
    cut = put_on(chair, (250, 250, 250))[:, 100:]
    assert any("touches the border" in warning for warning in mask_photo(cut).warnings)
    assert any("touches the border" in warning for warning in mask_photo(chair[:, 100:]).warnings)
    small = np.pad(put_on(chair, (250, 250, 250)), ((0, 2000), (0, 2000), (0, 0)), mode="edge")[::8, ::8]
    assert any("crop the photo" in warning for warning in mask_photo(small).warnings)
    pale = chair.copy()
    pale[..., :3] = 225 + chair[..., :3] // 16
    mask = mask_photo(put_on(pale, (250, 250, 250)))
    assert mask.confidence < DOUBTFUL and any("doubtful" in warning for warning in mask.warnings)


def opaque(rgb: np.ndarray) -> np.ndarray:
    return np.dstack([np.broadcast_to(rgb, (64, 64, 3)), np.full((64, 64), 255)]).astype(np.uint8)


REFUSED = {
    "nothing": (opaque(np.array([255, 255, 255])), "the mask is empty"),
    "no alpha left": (opaque(np.array([200, 200, 200])) * np.array([1, 1, 1, 0], np.uint8), "the mask is empty"),
    "noise": (opaque(np.random.default_rng(0).integers(0, 256, (64, 64, 3))), "the mask is empty|not plain|covers"),
    "two halves": (opaque(np.where(np.arange(64)[:, None, None] < 32, [250, 250, 250], [40, 90, 160])), "not plain"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_without_an_object_is_refused_with_the_remedy(name):
    picture, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as refusal:
        mask_photo(picture)
    assert "give a PNG whose alpha cuts out the object" in str(refusal.value)
