"""Ends of long tables: T, A and X trestles with a beam between them, and pairs of pedestals."""

from __future__ import annotations

import math

import numpy as np

from jr_dist.data.synthesize.legs import Stand
from jr_dist.data.synthesize.primitives import Solid, bar, block, box, disc, mirrored, moved, rod
from jr_dist.data.synthesize.style import EMBED, Material, Part, chance, log_uniform, part, pick, uniform


def _both_ends(material: Material, right: dict[str, Solid]) -> list[Part]:
    return [
        part(f"{name}_{side}", material, solid if side == "right" else mirrored(solid))
        for side in ("left", "right")
        for name, solid in right.items()
    ]


def draw_trestle(
    rng: np.random.Generator, stand: Stand, material: Material, *, boards: bool = False
) -> tuple[list[Part], str]:
    """Two trestles and, mostly, a beam between them. `boards`: they carry loose boards, so they reach under all."""
    kind = "t" if boards else pick(rng, {"t": 1.2, "a": 1.0, "x": 1.2})
    x = stand.half_x * uniform(rng, 0.6, 0.9) * (math.sqrt(0.5) if stand.is_round else 1.0)
    t = log_uniform(rng, 0.03, 0.09)
    if kind == "t":
        head = uniform(rng, 0.85, 0.95) if boards else uniform(rng, 0.5, 0.9)
        ends, y = _t_end(rng, stand, x, t, head)
    else:
        ends, y = (_a_end if kind == "a" else _x_end)(rng, stand, x, t)
    parts = _both_ends(material, ends)
    if not chance(rng, 0.75):
        return parts, f"trestle-{kind}"
    height, width = t * uniform(rng, 0.7, 1.6), t * uniform(rng, 0.4, 0.8)
    parts.append(part("beam", material, block((0, y, 0), (2 * x, height, width))))
    return parts, f"trestle-{kind}-beam"


def _t_end(rng, stand: Stand, x: float, t: float, head: float):
    """A post between a foot and a head that reaches `head` of the way to the edge."""
    foot_z, head_z = stand.half_z * uniform(rng, 0.6, 0.95), stand.half_z * head
    width, top = t * uniform(rng, 1.0, 3.5), stand.height
    ends = {
        "foot": box((x - t / 2, 0, -foot_z), (x + t / 2, t, foot_z)),
        "post": box((x - t / 2, t - EMBED, -width / 2), (x + t / 2, top - t * 0.7 + EMBED, width / 2)),
        "head": box((x - t / 2, top - t * 0.7, -head_z), (x + t / 2, top + EMBED, head_z)),
    }
    return ends, top * uniform(rng, 0.25, 0.75)


def _a_end(rng, stand: Stand, x: float, t: float):
    """Two legs that lean towards each other and a bar between them."""
    foot_z, head_z = stand.half_z * uniform(rng, 0.7, 0.95), stand.half_z * uniform(rng, 0.1, 0.4)
    top, y = stand.height + EMBED, stand.height * uniform(rng, 0.2, 0.6)
    at = foot_z + (head_z - foot_z) * y / top
    ends = {
        "leg_front": bar((x, top, head_z), (x, 0, foot_z), t, t, level=True),
        "leg_back": bar((x, top, -head_z), (x, 0, -foot_z), t, t, level=True),
        "cross_bar": block((x, y, 0), (t * 0.6, t * 0.9, 2 * at)),
    }
    return ends, y


def _x_end(rng, stand: Stand, x: float, t: float):
    """Two crossed legs."""
    foot_z, head_z = stand.half_z * uniform(rng, 0.6, 0.95), stand.half_z * uniform(rng, 0.5, 0.9)
    top = stand.height + EMBED
    ends = {
        "leg_ahead": bar((x, top, -head_z), (x, 0, foot_z), t, t, level=True),
        "leg_behind": bar((x, top, head_z), (x, 0, -foot_z), t, t, level=True),
    }
    return ends, top * foot_z / (foot_z + head_z)


def twin_pedestals(rng: np.random.Generator, stand: Stand, material: Material) -> tuple[list[Part], str]:
    """Two columns on feet of their own."""
    x, radius, t = stand.half_x * uniform(rng, 0.4, 0.65), log_uniform(rng, 0.03, 0.1), uniform(rng, 0.02, 0.06)
    spread = stand.half_z * uniform(rng, 0.55, 0.9)
    is_round = chance(rng, 0.5)
    foot = (
        disc((0, 0, 0), min(spread, x * 0.9), spread, t)
        if is_round
        else box((-radius, 0, -spread), (radius, t, spread))
    )
    low, high = (x, t - EMBED, 0), (x, stand.height + EMBED, 0)
    column = (
        rod(low, high, radius * 0.8, level=True) if is_round else bar(low, high, radius * 1.6, radius * 1.6, level=True)
    )
    ends = {"base": moved(foot, (x, 0, 0)), "column": column}
    return _both_ends(material, ends), "twin-disc" if is_round else "twin-bar"
