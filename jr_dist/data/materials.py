"""Plausible materials and light, drawn by seed: what a shape could be made of, and how it could be lit.

Two looks share nothing: what is trained on the one can be tested on the other.
"""

from __future__ import annotations

import colorsys
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jr_dist.data.ray_casting import Camera

_Tone = tuple[float, float, float]  # hue, saturation, value as the eye sees them


@dataclass(frozen=True)
class Stuff:
    """A kind of material: the tones it comes in, and how it takes light."""

    tones: Sequence[_Tone]
    roughness: tuple[float, float]
    metallic: float = 0.0


@dataclass(frozen=True)
class Look:
    """A family of materials and lights. Angles in degrees: azimuth from the camera, to either side, and elevation."""

    stuffs: Mapping[str, Stuff]
    key_azimuth: tuple[float, float]
    key_elevation: tuple[float, float]
    key: tuple[float, float]  # strength of the key light
    around: tuple[float, float]  # of the light from above; from below comes a part of it
    ground: tuple[float, float]  # which part
    warmth: tuple[float, float]  # of the key light: above 0 redder, below bluer


LOOKS = {
    "train": Look(
        {
            "wood": Stuff(
                ((0.095, 0.42, 0.76), (0.105, 0.38, 0.87), (0.045, 0.58, 0.58), (0.065, 0.50, 0.40), (0.06, 0.35, 0.22),
                 (0.12, 0.04, 0.93)), (0.4, 0.8)
            ),
            "fabric": Stuff(
                ((0.11, 0.20, 0.78), (0.60, 0.08, 0.28), (0.62, 0.55, 0.38), (0.04, 0.65, 0.62), (0.24, 0.40, 0.45),
                 (0.08, 0.06, 0.60)), (0.8, 1.0)
            ),
            "metal": Stuff(((0.58, 0.04, 0.72), (0.60, 0.08, 0.25), (0.55, 0.02, 0.88)), (0.2, 0.5), 1.0),
            "plastic": Stuff(
                ((0.1, 0.02, 0.92), (0.6, 0.04, 0.15), (0.0, 0.75, 0.70), (0.48, 0.5, 0.6)), (0.3, 0.6)
            ),
        },
        key_azimuth=(10.0, 80.0), key_elevation=(30.0, 70.0), key=(0.45, 0.85), around=(0.35, 0.6), ground=(0.4, 0.7),
        warmth=(-0.06, 0.1),
    ),
    "unseen": Look(
        {
            "wood": Stuff(
                ((0.02, 0.70, 0.42), (0.135, 0.30, 0.66), (0.57, 0.35, 0.55), (0.33, 0.28, 0.50), (0.08, 0.20, 0.52)),
                (0.2, 0.95),
            ),
            "fabric": Stuff(
                ((0.125, 0.72, 0.80), (0.94, 0.45, 0.66), (0.51, 0.55, 0.45), (0.75, 0.35, 0.50), (0.16, 0.12, 0.90)),
                (0.7, 1.0),
            ),
            "metal": Stuff(((0.12, 0.50, 0.78), (0.05, 0.45, 0.68)), (0.15, 0.35), 1.0),
            "plastic": Stuff(((0.14, 0.80, 0.90), (0.62, 0.65, 0.80), (0.30, 0.60, 0.62)), (0.15, 0.4)),
        },
        key_azimuth=(85.0, 140.0), key_elevation=(8.0, 28.0), key=(0.8, 1.3), around=(0.4, 0.7), ground=(0.1, 0.4),
        warmth=(0.12, 0.3),
    ),
}  # fmt: skip

_SAME_AGAIN = 0.4  # how likely parts of another name are of a material that the thing has already

# How likely a part of some name is of which stuff; the first pattern that its name holds counts.
_LIKELY: Sequence[tuple[str, Mapping[str, float]]] = (
    ("wood|oak|pine|birch|beech|walnut|veneer", {"wood": 1}),
    ("metal|steel|chrome|brass|iron|alumin", {"metal": 1}),
    ("fabric|leather|cloth|textile|linen|velvet", {"fabric": 1}),
    ("plastic|rubber", {"plastic": 1}),
    ("seat|cushion|back|pad|arm|head|wing|pillow|mattress|sofa", {"fabric": 5, "wood": 3, "plastic": 2}),
    (
        "leg|base|foot|feet|pole|post|star|caster|wheel|handle|knob|frame|bar|rod|stretcher",
        {"wood": 4, "metal": 4, "plastic": 1},
    ),
    ("", {"wood": 6, "plastic": 1.5, "metal": 0.7, "fabric": 0.3}),
)  # fmt: skip


def plausible(part_names: Sequence[str], look: Look, rng: np.random.Generator) -> np.ndarray:
    """[P, 5] float32, a row a part: sRGB colour, metallic, roughness.

    Parts whose names begin with the same word are alike, and some others are too: things are made of few materials.
    """
    drawn: dict[str, np.ndarray] = {}
    for name in part_names:
        word = first_word(name)
        if word not in drawn:
            again = bool(drawn) and rng.random() < _SAME_AGAIN
            drawn[word] = list(drawn.values())[int(rng.integers(len(drawn)))] if again else _material(word, look, rng)
    return np.stack([drawn[first_word(name)] for name in part_names]).astype(np.float32)


def first_word(name: str) -> str:
    """`leg` of "leg_front_left", "Leg 2" or "leg.003"."""
    return re.split(r"[^a-z]+", name.strip().lower().lstrip("_ .-0123456789"))[0]


def _material(word: str, look: Look, rng: np.random.Generator) -> np.ndarray:
    weights = next(weights for pattern, weights in _LIKELY if re.search(pattern, word))
    cumulated = np.cumsum(list(weights.values()))
    stuff = look.stuffs[list(weights)[int(np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right"))]]
    hue, saturation, value = stuff.tones[int(rng.integers(len(stuff.tones)))]
    tone = (
        (hue + rng.uniform(-0.012, 0.012)) % 1.0,
        float(np.clip(saturation * rng.uniform(0.85, 1.15), 0, 1)),
        float(np.clip(value * rng.uniform(0.88, 1.08), 0, 1)),
    )
    return np.array([*colorsys.hsv_to_rgb(*tone), stuff.metallic, rng.uniform(*stuff.roughness)])


def draw_light(look: Look, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """[5, 3] float64, the rows that `shading` names: direction and colour of the key light, sky, ground, fill."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    azimuth = math.radians(camera.azimuth + side * rng.uniform(*look.key_azimuth))
    elevation = math.radians(rng.uniform(*look.key_elevation))
    direction = (
        math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth)
    )  # fmt: skip
    warmth = rng.uniform(*look.warmth)
    key = rng.uniform(*look.key) * np.array([1 + warmth, 1.0, 1 - warmth])
    sky = rng.uniform(*look.around) * np.array([1 - warmth / 2, 1.0, 1 + warmth / 2])
    return np.array([direction, key, sky, sky * rng.uniform(*look.ground), np.full(3, 0.12)])
