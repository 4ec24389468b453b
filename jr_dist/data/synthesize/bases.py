"""Bases other than separate legs: pedestals, stars with casters, sleds, cantilevers, slabs, crossed legs, plinths."""

from __future__ import annotations

import math

import numpy as np

from jr_dist.data.synthesize.legs import Stand
from jr_dist.data.synthesize.primitives import (
    Solid,
    bar,
    block,
    box,
    disc,
    lathe,
    loft,
    merged,
    mirrored,
    moved,
    rod,
    rounded_path,
    tube,
    turned_about_y,
)
from jr_dist.data.synthesize.style import EMBED, RUBBER, Material, Part, chance, log_uniform, part, pick, uniform

UP = np.array([0.0, 1.0, 0.0])


def _column(rng: np.random.Generator, low: float, high: float, thick: tuple[float, float]) -> tuple[Solid, float]:
    """An upright column from `low` to `high` and the half-width it has at its foot."""
    radius = log_uniform(rng, *thick) / 2
    kind = pick(rng, {"round": 3, "conical": 1.5, "square": 1.5, "turned": 1.5})
    a, b = UP * low, UP * (high + EMBED)
    if kind == "square":
        return bar(a, b, 2 * radius, 2 * radius, level=True), radius
    if kind == "turned":
        return lathe(
            a, b, [radius * r for r in (1.3, 1.0, 0.75, 1.1, 1.3, 0.9, 0.7, 0.8, 1.2)], level=True
        ), 1.3 * radius
    taper = uniform(rng, 0.5, 1.4) if kind == "conical" else 1.0
    return rod(a, b, radius, taper=taper, level=True), radius


def _mirrored_pair(name: str, material: Material, right: Solid) -> list[Part]:
    return [part(f"{name}_left", material, mirrored(right)), part(f"{name}_right", material, right)]


def pedestal(rng: np.random.Generator, stand: Stand, material: Material, thick: tuple[float, float]):
    """A column on a round or square plate, or on three to five feet."""
    foot = pick(rng, {"disc": 2, "plate": 1, "cone": 1, "feet3": 0.7, "feet4": 1.4})
    spread = min(stand.half_x, stand.half_z) * uniform(rng, 0.55, 0.95)
    thickness = uniform(rng, 0.012, 0.05)
    if foot.startswith("feet"):
        return _footed_column(rng, stand, material, thick, int(foot[-1]), spread), f"pedestal-{foot}"
    column, radius = _column(rng, thickness - EMBED, stand.height, thick)
    spread = max(spread, 1.5 * radius)
    if foot == "plate":
        base = box((-spread, 0, -spread), (spread, thickness, spread))
    elif foot == "cone":
        base = lathe(UP * 0, UP * thickness * 2.5, [spread, 0.97 * spread, 0.6 * spread, radius], level=True, sides=28)
    else:
        base = disc((0, 0, 0), spread, spread, thickness)
    return [part("base", material, base), part("column", material, column)], f"pedestal-{foot}"


def _footed_column(rng, stand: Stand, material: Material, thick, num_feet: int, spread: float) -> list[Part]:
    low = stand.height * uniform(rng, 0.06, 0.16)
    column, radius = _column(rng, low, stand.height, thick)
    height = low + stand.height * uniform(rng, 0.03, 0.12)
    width = max(radius * uniform(rng, 0.7, 1.3), 0.015)
    spread = max(spread, 3 * radius)
    feet = []
    for i in range(num_feet):
        heights = (height, height * 0.6, 0.0)
        rings = []
        for r, top, bottom in ((0.0, height, low), (spread * 0.6, heights[1], heights[1] * 0.45), (spread, 0.02, 0.0)):
            rings.append([(r, bottom, -width / 2), (r, bottom, width / 2), (r, max(top, bottom + 0.012), width / 2),
                          (r, max(top, bottom + 0.012), -width / 2)])  # fmt: skip
        foot = loft(np.array(rings))
        angle = math.radians(-90 + 360 * i / num_feet) if num_feet % 2 else math.radians(45 + 360 * i / num_feet)
        feet.append(part(f"foot_{i + 1}", material, turned_about_y(foot, angle)))
    return [part("column", material, column), *feet]


def star(rng: np.random.Generator, stand: Stand, material: Material, thick: tuple[float, float]):
    """A swivel base: column and four or five arms, on casters, on glides, or with casters as parts of their own."""
    num_arms = 5 if chance(rng, 0.7) else 4
    rolling = pick(rng, {"casters": 3, "casters-merged": 1, "none": 1.5})
    drop = 0.0 if rolling == "none" else uniform(rng, 0.045, 0.075)
    reach = max(stand.half_x, stand.half_z) * uniform(rng, 0.75, 1.15)
    thickness = uniform(rng, 0.022, 0.04)
    hub = drop + thickness + stand.height * uniform(rng, 0.02, 0.14)
    column, _ = _column(rng, hub - thickness, stand.height, thick)
    arm = bar(
        (0.0, hub - thickness * 0.4, 0), (reach, drop + thickness * 0.32, 0), thickness, thickness * 1.3, taper=0.65
    )
    arm = Solid(np.maximum(arm.vertices, (-np.inf, drop, -np.inf)), arm.faces)
    wheel = _caster(reach * 0.95, drop, drop + thickness * 0.3)
    parts, casters = [part("column", material, column)], []
    for i in range(num_arms):
        angle = math.radians(-90 + 72 * i) if num_arms == 5 else math.radians(45 + 90 * i)
        body, wheels = part(f"base_arm_{i + 1}", material, turned_about_y(arm, angle)), turned_about_y(wheel, angle)
        if rolling == "casters":
            casters.append(part(f"caster_{i + 1}", RUBBER, wheels))
        elif rolling == "casters-merged":
            body = Part(body.name, (*body.pieces, (wheels, RUBBER)))
        parts.append(body)
    return parts + casters, f"star{num_arms}" + ("" if rolling == "none" else f"-{rolling}")


def _caster(reach: float, drop: float, stem: float) -> Solid:
    """A twin wheel `drop` high at x = `reach` and its stem up to `stem`."""
    if drop == 0.0:
        return block((reach, 0.005, 0), (0.01, 0.01, 0.01))
    radius = drop * 0.46
    wheels = [rod((reach, radius, s * 0.008), (reach, radius, s * 0.024), radius, sides=14) for s in (-1, 1)]
    return merged(*wheels, rod((reach, radius, 0), (reach, stem, 0), 0.006))


def sled(rng: np.random.Generator, stand: Stand, material: Material, thick: tuple[float, float]):
    """A bent runner a side, open under the seat or closed to a loop; sometimes tied by a bar."""
    t = log_uniform(rng, *thick)
    is_round, is_loop = chance(rng, 0.6), chance(rng, 0.4)
    x, z = stand.corner(t / 2 + uniform(rng, 0.0, 0.03))
    lean = stand.height * uniform(rng, 0.0, 0.18)
    top, radius = stand.height + EMBED, uniform(rng, 0.01, 0.12)
    corners = [(x, top, z), (x, t / 2, z + lean), (x, t / 2, -z - lean), (x, top, -z)]
    if is_loop:
        middle, high = (x, top - t / 2, 0.0), top - t / 2
        corners = [middle, (x, high, z), *corners[1:3], (x, high, -z), middle]
        corners[-1] = (x, high, 1e-4)
    runner = tube(rounded_path(corners, radius), t, t, round_section=is_round)
    parts = _mirrored_pair("runner", material, runner)
    label = "sled-loop" if is_loop else "sled"
    if chance(rng, 0.4):
        where = uniform(rng, -0.8, 0.8) * z
        parts.append(part("cross_bar", material, block((0, t / 2, where), (2 * x, t * 0.8, t * 0.8))))
        label += "-tied"
    return parts, label


def cantilever(rng: np.random.Generator, stand: Stand, material: Material, thick: tuple[float, float]):
    """A springing tube a side: under the seat to the front, down, and back along the floor to a bar."""
    t = log_uniform(rng, *thick)
    x, z = stand.corner(t / 2)
    radius, high = uniform(rng, 0.03, 0.12), stand.height - t / 2 + EMBED
    corners = [
        (x, high, -z),
        (x, high, z),
        (x, t / 2, z * uniform(rng, 0.8, 1.1)),
        (x, t / 2, -z * uniform(rng, 0.9, 1.2)),
    ]
    parts = _mirrored_pair("frame", material, tube(rounded_path(corners, radius), t, t, round_section=chance(rng, 0.6)))
    end = corners[-1][2] + t / 2
    parts.append(part("floor_bar", material, block((0, t / 2, end), (2 * x, t * 0.9, t))))
    return parts, "cantilever"


def slabs(rng: np.random.Generator, stand: Stand, material: Material, thick: tuple[float, float]):
    """Two upright panels, sometimes with a board between them."""
    t = log_uniform(rng, *thick)
    x, z = stand.corner(uniform(rng, 0.0, 0.06))
    foot_z = z * uniform(rng, 0.7, 1.1)
    rings = [
        [(x - t, y, -w), (x, y, -w), (x, y, w), (x - t, y, w)] for y, w in ((0, foot_z), (stand.height + EMBED, z))
    ]
    parts = _mirrored_pair("side_panel", material, loft(np.array(rings)))
    if not chance(rng, 0.6):
        return parts, "slabs"
    high = stand.height if chance(rng, 0.6) else stand.height * uniform(rng, 0.5, 0.8)
    low = high * uniform(rng, 0.2, 0.8)
    where = uniform(rng, -0.7, 0.7) * min(z, foot_z)
    middle = box((-x + t - EMBED, low, where - t / 2), (x - t + EMBED, high, where + t / 2))
    return [*parts, part("cross_panel", material, middle)], "slabs-tied"


def crossed(rng: np.random.Generator, stand: Stand, material: Material, thick: tuple[float, float]):
    """Two crossed bars a side, as in folding chairs, tied by a rod through the crossings."""
    t = log_uniform(rng, *thick)
    x, z = stand.corner(t / 2)
    foot = z * uniform(rng, 0.8, 1.25)
    top = stand.height + EMBED
    ahead = bar((x, top, -z), (x, 0, foot), t, t, level=True)
    behind = bar((x, top, z), (x, 0, -foot), t, t, level=True)
    parts = _mirrored_pair("leg_ahead", material, ahead) + _mirrored_pair("leg_behind", material, behind)
    y = top * foot / (foot + z)
    parts.append(part("cross_rod", material, rod((-x, y, 0), (x, y, 0), t * 0.4)))
    return parts, "crossed"


def plinth(rng: np.random.Generator, stand: Stand, material: Material, thick: tuple[float, float]):
    """A closed block on the floor, smaller than what it carries."""
    shrink = uniform(rng, 0.75, 1.0)
    if stand.is_round:
        body = disc((0, 0, 0), stand.half_x * shrink, stand.half_z * shrink, stand.height + EMBED)
    else:
        x, z = stand.half_x * shrink, stand.half_z * shrink
        body = box((-x, 0, -z), (x, stand.height + EMBED, z))
    return [part("plinth", material, body)], "plinth"


def wheels(rng: np.random.Generator, stand: Stand) -> tuple[list[Part], float]:
    """Four casters under the corners of a carcass, and how high they are."""
    drop = uniform(rng, 0.04, 0.09)
    x, z = stand.corner(0.04)
    wheel = _caster(0.0, drop, drop + 2 * EMBED)
    corners = {"front_left": (-1, 1), "front_right": (1, 1), "back_left": (-1, -1), "back_right": (1, -1)}
    return [part(f"caster_{k}", RUBBER, moved(wheel, (i * x, 0, j * z))) for k, (i, j) in corners.items()], drop


BASES = {
    "pedestal": pedestal, "star": star, "sled": sled, "cantilever": cantilever, "slabs": slabs, "crossed": crossed,
    "plinth": plinth,
}  # fmt: skip
