"""What every generator draws from: records of parts and shapes, random choices, materials."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jr_dist.data.synthesize.primitives import Solid, merged

MAX_PARTS = 16
EMBED = 0.004  # metres that touching parts reach into each other, as a glued joint does


@dataclass(frozen=True)
class Material:
    """A physically based base material: sRGB and alpha, metallic and roughness, all in [0, 1]."""

    name: str
    colour: tuple[float, float, float, float]
    metallic: float = 0.0
    roughness: float = 0.7


@dataclass(frozen=True)
class Part:
    """A named part: one solid a material."""

    name: str
    pieces: tuple[tuple[Solid, Material], ...]

    def warped(self, warp) -> Part:
        """The part with its vertices (V, 3) passed through `warp`."""
        return Part(self.name, tuple((Solid(warp(s.vertices), s.faces), m) for s, m in self.pieces))


@dataclass(frozen=True)
class Shape:
    """A piece of furniture in metres: floor at y = 0, x right, y up, z front.

    `structure` says which parts it is made of and how ("chair/legs4-h/seat-framed/slats5/arms-posts"): the category,
    the base, then whatever else is there; proportions are not part of it.
    """

    category: str
    parts: tuple[Part, ...]
    structure: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The structure without counts, variants, kinds of seat and order of bays: "chair/legs/slats/arms"."""
        plain = re.sub(r"\d+|-[^/+|]*", "", self.structure)
        words = ["+".join(sorted(set(re.split(r"[+|]", word)))) for word in plain.split("/")]
        return "/".join(word for word in words if word != "seat")


def part(name: str, material: Material, *solids: Solid) -> Part:
    """A part of one material."""
    return Part(name, ((merged(*solids), material),))


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between `low` and `high`."""
    return float(rng.uniform(low, high))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between `low` and `high`, all ratios alike."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """A key, as probable as its weight says."""
    values = np.array(list(weights.values()), float)
    return list(weights)[int(np.searchsorted(np.cumsum(values), rng.random() * values.sum(), side="right"))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)


def whole(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(rng.integers(low, high + 1))


_WOODS = {  # hue, saturation, value as the eye sees them
    "oak": (0.095, 0.42, 0.76),
    "pine": (0.105, 0.38, 0.87),
    "beech": (0.075, 0.38, 0.82),
    "cherry": (0.045, 0.58, 0.58),
    "walnut": (0.065, 0.50, 0.40),
    "wenge": (0.060, 0.35, 0.22),
    "white_paint": (0.12, 0.04, 0.93),
    "black_paint": (0.60, 0.06, 0.17),
    "blue_paint": (0.57, 0.35, 0.55),
    "green_paint": (0.33, 0.22, 0.55),
}
_FABRICS = {
    "linen": (0.11, 0.20, 0.78),
    "charcoal": (0.60, 0.08, 0.28),
    "navy": (0.62, 0.55, 0.38),
    "petrol": (0.51, 0.55, 0.45),
    "rust": (0.04, 0.65, 0.62),
    "moss": (0.24, 0.40, 0.45),
    "mustard": (0.125, 0.70, 0.78),
    "cognac_leather": (0.060, 0.65, 0.50),
    "rose": (0.96, 0.30, 0.72),
}
_METALS = {
    "steel": (0.58, 0.04, 0.70),
    "black_steel": (0.60, 0.08, 0.20),
    "brass": (0.12, 0.45, 0.75),
    "chrome": (0.55, 0.02, 0.85),
}
_PLASTICS = {"white": (0.1, 0.02, 0.92), "black": (0.6, 0.04, 0.15), "red": (0.0, 0.75, 0.70), "teal": (0.48, 0.5, 0.6)}


def _material(rng: np.random.Generator, table: Mapping[str, tuple], kind: str, metallic: float, roughness: float):
    name = list(table)[int(rng.integers(len(table)))]
    hue, saturation, value = table[name]
    hue = (hue + rng.uniform(-0.012, 0.012)) % 1.0
    saturation = float(np.clip(saturation * rng.uniform(0.85, 1.15), 0, 1))
    value = float(np.clip(value * rng.uniform(0.9, 1.08), 0, 1))
    red, green, blue = (round(channel, 4) for channel in colorsys.hsv_to_rgb(hue, saturation, value))
    return Material(f"{kind}_{name}", (red, green, blue, 1.0), metallic, round(roughness, 3))


def wood(rng: np.random.Generator) -> Material:
    """A wood or a paint on wood."""
    return _material(rng, _WOODS, "wood", 0.0, uniform(rng, 0.45, 0.8))


def fabric(rng: np.random.Generator) -> Material:
    """A cloth or leather."""
    return _material(rng, _FABRICS, "fabric", 0.0, uniform(rng, 0.8, 1.0))


def metal(rng: np.random.Generator) -> Material:
    """A metal."""
    return _material(rng, _METALS, "metal", 0.9, uniform(rng, 0.2, 0.5))


def plastic(rng: np.random.Generator) -> Material:
    """A plastic shell."""
    return _material(rng, _PLASTICS, "plastic", 0.0, uniform(rng, 0.35, 0.6))


GLASS = Material("glass", (0.72, 0.84, 0.86, 0.45), 0.0, 0.05)
RUBBER = Material("rubber", (0.08, 0.08, 0.09, 1.0), 0.0, 0.9)
