"""Doors and drawer fronts with their handles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jr_dist.data.synthesize.primitives import Solid, block, box, lathe, merged, rod
from jr_dist.data.synthesize.style import EMBED, GLASS, Material, Part, chance, part, pick, uniform


@dataclass(frozen=True)
class FrontStyle:
    """How all fronts of one piece look. `separate`: handles are parts of their own."""

    panel: str  # flat, shaker
    handle: str  # bar, knob, strip, none
    separate: bool
    thickness: float
    wood: Material
    metal: Material


def draw_front_style(rng: np.random.Generator, wood: Material, metal: Material) -> FrontStyle:
    """One style of fronts."""
    handle = pick(rng, {"bar": 2.0, "knob": 1.5, "strip": 0.7, "none": 1.0})
    panel = pick(rng, {"flat": 2.0, "shaker": 1.0})
    return FrontStyle(panel, handle, handle != "none" and chance(rng, 0.4), uniform(rng, 0.014, 0.026), wood, metal)


def drawer(style: FrontStyle, name: str, low, high, z: float) -> list[Part]:
    """A drawer's front over [low, high] (x, y), standing on the plane z; then its handle if that is a part."""
    centre, width = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2), high[0] - low[0]
    handle = _handle(style, centre, z + style.thickness, min(width * 0.45, 0.3), upright=False, room=high[1] - low[1])
    return _with_handle(style, name, _panel(style, low, high, z, glass=False), handle)


def door(style: FrontStyle, name: str, low, high, z: float, *, hinge: str, glass: bool = False) -> list[Part]:
    """A door over [low, high] (x, y) on the plane z, hinged "left" or "right", its handle on the other side."""
    reach = min(0.05, 0.2 * (high[0] - low[0]))
    x = high[0] - reach if hinge == "left" else low[0] + reach
    height = high[1] - low[1]
    y = low[1] + height * (0.5 if height > 0.7 else 0.65)
    handle = _handle(style, (x, y), z + style.thickness, min(height * 0.3, 0.35), upright=True, room=height)
    return _with_handle(style, name, _panel(style, low, high, z, glass=glass), handle)


def _with_handle(
    style: FrontStyle, name: str, pieces: list[tuple[Solid, Material]], handle: Solid | None
) -> list[Part]:
    if handle is None:
        return [Part(name, tuple(pieces))]
    if style.separate:
        return [Part(name, tuple(pieces)), part(f"handle_{name}", style.metal, handle)]
    return [Part(name, (*pieces, (handle, style.metal)))]


def _panel(style: FrontStyle, low, high, z: float, *, glass: bool) -> list[tuple[Solid, Material]]:
    (x0, y0), (x1, y1), t = low, high, style.thickness
    z = z - EMBED / 2
    if style.panel == "flat" and not glass:
        return [(box((x0, y0, z), (x1, y1, z + t)), style.wood)]
    rim = min(0.055, 0.22 * min(x1 - x0, y1 - y0))
    stiles = [box((x0, y0, z), (x0 + rim, y1, z + t)), box((x1 - rim, y0, z), (x1, y1, z + t))]
    rails = [box((x0 + rim, y0, z), (x1 - rim, y0 + rim, z + t)), box((x0 + rim, y1 - rim, z), (x1 - rim, y1, z + t))]
    middle = box((x0 + rim, y0 + rim, z + 0.25 * t), (x1 - rim, y1 - rim, z + 0.6 * t))
    if glass:
        return [(merged(*stiles, *rails), style.wood), (middle, GLASS)]
    return [(merged(*stiles, *rails, middle), style.wood)]


def _handle(style: FrontStyle, at, z: float, length: float, *, upright: bool, room: float) -> Solid | None:
    x, y = at
    if style.handle == "none":
        return None
    z = z - EMBED
    if style.handle == "knob":
        return lathe((x, y, z), (x, y, z + 0.032), [0.008, 0.008, 0.015, 0.016, 0.01], sides=10)
    if style.handle == "strip":
        size = (0.012, length * 1.6, 0.02) if upright else (length * 1.6, 0.012, 0.02)
        return block((x, y, z + 0.009), size)
    along = np.array([0, length / 2, 0]) if upright else np.array([length / 2, 0, 0])
    grip = np.array([x, y, z + 0.032])
    feet = [rod(grip + s * 0.8 * along - (0, 0, 0.032), grip + s * 0.8 * along, 0.004, sides=6) for s in (-1, 1)]
    return merged(rod(grip - along, grip + along, min(0.006, 0.1 * room), sides=8), *feet)
