"""Legs and what ties them together: four or three legs of any section, stretchers between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jr_dist.data.synthesize.primitives import Solid, bar, lathe, rod
from jr_dist.data.synthesize.style import EMBED, Material, Part, chance, log_uniform, part, pick, uniform

TURNED = (1.0, 0.75, 1.15, 1.15, 0.8, 0.65, 0.8, 0.55, 0.7, 0.5)  # radii of a turned leg from the top, relative


@dataclass(frozen=True)
class Stand:
    """What a base has to carry: the underside of a seat, a top or a carcass, centred on the y axis (metres)."""

    half_x: float
    half_z: float
    height: float
    is_round: bool = False

    def corner(self, inset: float) -> tuple[float, float]:
        """x and z of the front right corner a leg may stand under, `inset` from the edge."""
        shrink = math.sqrt(0.5) if self.is_round else 1.0
        return max(self.half_x * shrink - inset, 0.02), max(self.half_z * shrink - inset, 0.02)


@dataclass(frozen=True)
class LegStyle:
    """How legs look. Splay: how far a foot stands outside its top (metres); taper: foot to top."""

    section: str  # square, round, turned, flat
    thickness: float
    taper: float
    splay_x: float
    splay_z: float


@dataclass(frozen=True)
class Legs:
    """Leg lines by name, top [3] to foot [3], for whatever is fixed to them."""

    style: LegStyle
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def at(self, name: str, height: float) -> np.ndarray:
        """The middle of a leg at a height."""
        top, foot = self.lines[name]
        return foot + (top - foot) * (height / top[1])


def draw_leg_style(rng: np.random.Generator, height: float, thick: tuple[float, float]) -> LegStyle:
    """A style of legs for a piece standing `height` above the floor, `thick` the range of their thickness."""
    section = pick(rng, {"square": 4, "round": 3, "turned": 1.5, "flat": 0.8})
    thickness = log_uniform(rng, *thick)
    if section == "turned":
        thickness = max(thickness, 0.035)
    taper = uniform(rng, 0.4, 0.85) if section != "turned" and chance(rng, 0.5) else 1.0
    if not chance(rng, 0.45):
        return LegStyle(section, thickness, taper, 0.0, 0.0)
    return LegStyle(section, thickness, taper, height * uniform(rng, 0.03, 0.25), height * uniform(rng, 0.03, 0.25))


def leg_solid(top: np.ndarray, foot: np.ndarray, style: LegStyle) -> Solid:
    """One leg, its ends cut level."""
    t = style.thickness
    if style.section == "turned":
        return lathe(top, foot, [t / 2 * r for r in TURNED], level=True)
    if style.section == "round":
        return rod(top, foot, t / 2, taper=style.taper, level=True)
    depth = t * 2.2 if style.section == "flat" else t
    return bar(top, foot, t, depth, taper=style.taper, level=True)


def corner_legs(stand: Stand, style: LegStyle, material: Material, *, inset: float) -> tuple[list[Part], Legs]:
    """Four legs under the corners, named leg_front_left and so on."""
    inset = inset + style.thickness / 2 * (2.2 if style.section == "flat" else 1.0)
    x, z = stand.corner(inset)
    lines = {}
    for front, sz in (("front", 1), ("back", -1)):
        for side, sx in (("left", -1), ("right", 1)):
            top = np.array([sx * x, stand.height + EMBED, sz * z])
            foot = np.array([sx * (x + style.splay_x), 0.0, sz * (z + style.splay_z)])
            lines[f"{front}_{side}"] = (top, foot)
    parts = [part(f"leg_{name}", material, leg_solid(top, foot, style)) for name, (top, foot) in lines.items()]
    return parts, Legs(style, lines)


def tripod(stand: Stand, style: LegStyle, material: Material, *, inset: float) -> list[Part]:
    """Three legs on a circle, one in front."""
    parts = []
    splay = max(style.splay_x, style.splay_z)
    reach_x, reach_z = stand.half_x - inset - style.thickness, stand.half_z - inset - style.thickness
    for name, angle in (("front", 90), ("back_left", 210), ("back_right", 330)):
        direction = np.array([math.cos(math.radians(angle)), 0.0, math.sin(math.radians(angle))])
        top = direction * (reach_x * 0.8, 0, reach_z * 0.8)
        foot = top + direction * splay
        top[1] = stand.height + EMBED
        parts.append(part(f"leg_{name}", material, leg_solid(top, foot, style)))
    return parts


STRETCHERS = {"none": 7.0, "sides": 1.2, "h": 1.6, "box": 1.5, "front-back": 0.8, "cross": 0.9}


def draw_stretchers(rng: np.random.Generator, legs: Legs, material: Material, kind: str) -> list[Part]:
    """Bars between four legs: on the sides, an H, all round, before and behind, or crossed."""
    if kind == "none":
        return []
    top = next(iter(legs.lines.values()))[0][1]
    height = top * uniform(rng, 0.15, 0.6)
    other = height if chance(rng, 0.5) else top * uniform(rng, 0.15, 0.6)
    thickness = max(legs.style.thickness * uniform(rng, 0.45, 0.85), 0.012)
    is_round = legs.style.section in ("round", "turned")

    def tie(name: str, a: np.ndarray, b: np.ndarray) -> Part:
        if is_round:
            return part(name, material, rod(a, b, thickness / 2))
        return part(name, material, bar(a, b, thickness * 1.4, thickness))

    def between(name: str, one: str, two: str, y: float) -> Part:
        return tie(name, legs.at(one, y), legs.at(two, y))

    sides = [between(f"stretcher_{s}", f"front_{s}", f"back_{s}", height) for s in ("left", "right")]
    ends = [between(f"stretcher_{f}", f"{f}_left", f"{f}_right", other) for f in ("front", "back")]
    if kind == "sides":
        return sides
    if kind == "front-back":
        return ends
    if kind == "box":
        return sides + ends
    if kind == "cross":
        pairs = (("stretcher_1", "front_left", "back_right"), ("stretcher_2", "front_right", "back_left"))
        return [between(name, one, two, height) for name, one, two in pairs]
    middle = [(legs.at(f"front_{s}", height) + legs.at(f"back_{s}", height)) / 2 for s in ("left", "right")]
    return [*sides, tie("stretcher_middle", *middle)]
