"""The grammar of tables: a top on legs, pedestals, trestles, slabs or drawers; aprons, shelves, stretchers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from jr_dist.data.synthesize.bases import BASES
from jr_dist.data.synthesize.fronts import draw_front_style, drawer
from jr_dist.data.synthesize.legs import (
    STRETCHERS,
    Legs,
    LegStyle,
    Stand,
    corner_legs,
    draw_leg_style,
    draw_stretchers,
    tripod,
)
from jr_dist.data.synthesize.primitives import block, box, disc, loft, merged, rounded_slab
from jr_dist.data.synthesize.style import (
    EMBED,
    GLASS,
    Material,
    Part,
    Shape,
    chance,
    log_uniform,
    metal,
    part,
    pick,
    plastic,
    uniform,
    whole,
    wood,
)
from jr_dist.data.synthesize.trestles import draw_trestle, twin_pedestals

SIZES = {  # width, depth, height in metres
    "dining": ((0.80, 2.40), (0.65, 1.20), (0.66, 0.80)),
    "coffee": ((0.60, 1.50), (0.45, 0.95), (0.26, 0.50)),
    "side": ((0.30, 0.65), (0.28, 0.60), (0.38, 0.75)),
    "bar": ((0.50, 1.60), (0.40, 0.80), (0.90, 1.12)),
    "console": ((0.80, 1.80), (0.25, 0.42), (0.68, 0.92)),
    "desk": ((0.90, 1.90), (0.50, 0.90), (0.66, 0.80)),
}


def draw_table(rng: np.random.Generator) -> Shape:
    """One table. It may have more than 16 parts: the caller draws again."""
    use = pick(rng, {"dining": 2.5, "coffee": 2.0, "side": 1.4, "bar": 0.9, "console": 0.9, "desk": 2.0})
    width, depth, height = (uniform(rng, *span) for span in SIZES[use])
    frame = wood(rng) if chance(rng, 0.7) else metal(rng)
    top, top_label, stand = _draw_top(rng, use, width, depth, height, frame)
    if use == "desk" and not stand.is_round and top_label != "planks" and chance(rng, 0.75):
        base, label = _draw_desk(rng, stand, frame)
    else:
        base, label = _draw_base(rng, stand, frame, boards=top_label.startswith("planks"))
    labels = ["table", label, top_label]
    sizes = {"width": width, "depth": depth, "height": height, "top_thickness": height - stand.height}
    return Shape("table", (*top, *base), "/".join(x for x in labels if x), sizes)


def _draw_top(rng, use: str, width: float, depth: float, height: float, frame: Material):
    thickness = log_uniform(rng, 0.014, 0.075)
    low, high = (-width / 2, height - thickness, -depth / 2), (width / 2, height, depth / 2)
    surface = (
        frame
        if frame.name.startswith("wood") and chance(rng, 0.75)
        else wood(rng)
        if chance(rng, 0.7)
        else plastic(rng)
    )
    shapes = {"rectangle": 4.5, "round": 2.2, "oval": 0.9, "planks": 0.8}
    if use in ("console", "desk"):
        shapes |= {"round": 0.0, "oval": 0.25}
    kind = pick(rng, shapes)
    if kind == "rectangle":
        surface = GLASS if chance(rng, 0.08) else surface
        corner = uniform(rng, 0.01, 0.12 if use == "desk" else 0.4) * min(width, depth) if chance(rng, 0.35) else 0.0
        solid = rounded_slab(low, high, corner) if corner else box(low, high)
        inside = 0.3 * corner  # a round corner leaves this much less to stand under
        return [part("top", surface, solid)], "", Stand(width / 2 - inside, depth / 2 - inside, low[1])
    if kind == "planks":
        count = whole(rng, 3, 5)
        pitch = depth / count
        boards = [
            box((low[0], low[1], low[2] + i * pitch), (high[0], height, low[2] + (i + 0.95) * pitch))
            for i in range(count)
        ]
        parts = [part(f"top_board_{i + 1}", surface, board) for i, board in enumerate(boards)]
        return parts, f"planks{count}", Stand(width / 2, depth / 2, low[1])
    radius_x, radius_z = (min(width, 1.5) / 2,) * 2 if kind == "round" else (width / 2, depth / 2)
    solid = disc((0, low[1], 0), radius_x, radius_z, thickness)
    return [part("top", surface, solid)], kind, Stand(radius_x, radius_z, low[1], is_round=True)


def _draw_base(rng, stand: Stand, frame: Material, *, boards: bool):
    """A base that reaches under the whole top; `boards`: the top is loose boards that need battens or aprons."""
    slim = max(stand.half_x, stand.half_z) / min(stand.half_x, stand.half_z)
    kinds = {
        "legs4": 7.0,
        "pedestal": 1.2,
        "sled": 1.2,
        "slabs": 1.2,
        "trestle": 1.8,
        "twin": 1.8,
        "plinth": 0.35,
        "crossed": 0.0,
    }
    if stand.is_round:
        kinds = {"legs4": 3.0, "legs3": 1.6, "pedestal": 2.4, "plinth": 0.4, "star": 0.7, "sled": 0.0}
    if slim > 1.7:
        kinds |= {"pedestal": 0.0, "legs3": 0.0, "plinth": 0.2, "star": 0.0}
    else:
        kinds |= {"twin": 0.0}
    if boards:
        kinds = {"legs4": 3.0, "trestle": 2.0, "slabs": 1.0}
    kind = pick(rng, kinds)
    if kind == "legs4":
        return _draw_legs(rng, stand, frame, boards=boards)
    if kind == "legs3":
        style = draw_leg_style(rng, stand.height, (0.022, 0.075))
        return tripod(stand, style, frame, inset=uniform(rng, 0.02, 0.1)), "legs3"
    if kind == "trestle":
        return draw_trestle(rng, stand, frame, boards=boards)
    if kind == "twin":
        return twin_pedestals(rng, stand, frame)
    thick = (0.04, 0.16) if kind in ("pedestal", "star") else (0.018, 0.06)
    parts, label = BASES[kind](rng, stand, frame, thick)
    if kind == "slabs" and chance(rng, 0.35):
        parts, label = [*parts, _slab_shelf(rng, stand, parts, frame)], f"{label}-shelf"
    return parts, label


def _slab_shelf(rng, stand: Stand, slabs: list[Part], material: Material) -> Part:
    inner = min(np.abs(p.pieces[0][0].vertices[:, 0]).min() for p in slabs[:2])
    y, t = stand.height * uniform(rng, 0.2, 0.6), uniform(rng, 0.012, 0.035)
    depth = stand.half_z * uniform(rng, 0.5, 0.7)
    return part("shelf", material, box((-inner - EMBED, y, -depth), (inner + EMBED, y + t, depth)))


def _draw_legs(rng, stand: Stand, frame: Material, *, boards: bool):
    style = draw_leg_style(rng, stand.height, (0.022, 0.1))
    parts, legs = corner_legs(stand, style, frame, inset=uniform(rng, 0.0, 0.12) * min(stand.half_x, stand.half_z))
    label = "legs4"
    apron = "apron" if boards else pick(rng, {"none": 3.0, "apron": 1.5, "apron-merged": 1.5, "drawers": 1.5})
    if stand.height < 0.2 or (stand.is_round and apron == "drawers"):
        apron = "apron-merged" if boards else "none"
    if apron != "none":
        extra, word = _draw_apron(rng, stand, legs, frame, apron)
        parts, label = parts + extra, f"{label}-{word}"
    if chance(rng, 0.3):
        parts.append(_leg_shelf(rng, stand, legs, frame))
        return parts, f"{label}-shelf"
    tie = pick(rng, STRETCHERS | {"none": 6.0})
    return parts + draw_stretchers(rng, legs, frame, tie), label if tie == "none" else f"{label}-{tie}"


def _draw_apron(rng, stand: Stand, legs: Legs, frame: Material, kind: str):
    """Boards under the top from leg to leg; the front one may be drawers."""
    depth = min(uniform(rng, 0.05, 0.13), 0.25 * stand.height)
    low, high, t = stand.height - depth, stand.height + EMBED / 2, min(0.022, legs.style.thickness)
    x, z = abs(legs.lines["front_right"][0][[0, 2]])
    back = box((-x, low, -z - t / 2), (x, high, -z + t / 2))
    front = box((-x, low, z - t / 2), (x, high, z + t / 2))
    left, right = (box((s * x - t / 2, low, -z), (s * x + t / 2, high, z)) for s in (-1, 1))
    if kind == "apron-merged":
        return [part("apron", frame, front, back, left, right)], kind
    others = [part(f"apron_{n}", frame, s) for n, s in (("back", back), ("left", left), ("right", right))]
    if kind == "apron":
        return [part("apron_front", frame, front), *others], kind
    count = whole(rng, 1, 3 if x > 0.6 else 2)
    fronts = draw_front_style(rng, frame, metal(rng))
    edges = np.linspace(-x, x, count + 1)
    plane = z - fronts.thickness
    drawers: list[Part] = []
    for i, (x0, x1) in enumerate(pairwise(edges)):
        drawers += drawer(fronts, f"drawer_{i + 1}", (x0 + 0.002, low), (x1 - 0.002, high), plane)
    return drawers + others, f"drawers{count}"


def _leg_shelf(rng, stand: Stand, legs: Legs, material: Material) -> Part:
    y, t = stand.height * uniform(rng, 0.12, 0.6), uniform(rng, 0.012, 0.035)
    x, _, z = np.abs(legs.at("front_right", y))
    return part("shelf", material, block((0, y, 0), (2 * x, t, 2 * z)))


def _draw_desk(rng, stand: Stand, frame: Material):
    """Drawer cabinets under one side or both; legs or a slab under the other."""
    count, t = whole(rng, 1, 4), uniform(rng, 0.018, 0.035)
    width = min(uniform(rng, 0.28, 0.5), stand.half_x * 0.75)
    legs_below = chance(rng, 0.25)
    low = stand.height * uniform(rng, 0.3, 0.65) if legs_below else uniform(rng, 0.0, 0.1) if chance(rng, 0.3) else 0.0
    sides = pick(rng, {"left": 1.0, "right": 1.0, "both": 2.0})
    fronts = draw_front_style(rng, frame, metal(rng))
    parts: list[Part] = []
    for side, sign in (("left", -1), ("right", 1)):
        if sides in (side, "both"):
            parts += _drawer_stack(rng, stand, frame, fronts, side, sign, width, low, count)
        elif not legs_below:
            x = sign * (stand.half_x - t / 2 - 0.01)
            slab = box((x - t / 2, 0, -stand.half_z * 0.95), (x + t / 2, stand.height + EMBED, stand.half_z * 0.95))
            parts.append(part(f"side_panel_{side}", frame, slab))
    label = f"desk-{sides}-drawers{count}"
    if legs_below or low > 0:
        parts += _desk_feet(rng, stand, frame, sides, width, low, legs_below)
        label += "-legs" if legs_below else "-feet"
    if not legs_below and chance(rng, 0.4):
        y = stand.height * uniform(rng, 0.35, 0.7)
        z = -stand.half_z * uniform(rng, 0.5, 0.85)
        reach = stand.half_x - 0.01 - t + EMBED
        ends = (
            -(stand.half_x - width) if sides != "right" else -reach,
            (stand.half_x - width) if sides != "left" else reach,
        )
        parts.append(
            part("modesty_panel", frame, box((ends[0], y, z - t / 2), (ends[1], stand.height + EMBED, z + t / 2)))
        )
        label += "-panel"
    return parts, label


def _drawer_stack(
    rng, stand: Stand, frame, fronts, side: str, sign: int, width: float, low: float, count: int
) -> list[Part]:
    edge = sign * (stand.half_x - 0.01)
    x0, x1 = sorted((edge, edge - sign * width))
    front_z = stand.half_z * 0.93
    parts = [part(f"cabinet_{side}", frame, box((x0, low, -front_z), (x1, stand.height + EMBED, front_z)))]
    edges = np.linspace(low + 0.01, stand.height - 0.01, count + 1)
    for i in range(count):
        parts += drawer(
            fronts, f"drawer_{side}_{i + 1}", (x0 + 0.01, edges[i] + 0.003), (x1 - 0.01, edges[i + 1] - 0.003), front_z
        )
    return parts


def _desk_feet(rng, stand: Stand, frame, sides: str, width: float, low: float, legs_below: bool) -> list[Part]:
    """Legs to the floor: four of the whole desk, or one foot under each cabinet."""
    if not legs_below:
        feet = []
        for side, sign in (("left", -1), ("right", 1)):
            if sides in (side, "both"):
                x = sign * (stand.half_x - 0.01 - width / 2)
                rings = []
                for y, w, d in ((0, 0.42 * width, 0.8), (low + EMBED, 0.45 * width, 0.85)):
                    z = d * stand.half_z
                    rings.append([(x - w, y, -z), (x + w, y, -z), (x + w, y, z), (x - w, y, z)])
                feet.append(part(f"foot_{side}", frame, loft(np.array(rings))))
        return feet
    style = LegStyle(pick(rng, {"square": 1, "round": 1}), uniform(rng, 0.025, 0.06), uniform(rng, 0.5, 1.0), 0.0, 0.0)
    legs = corner_legs(stand, style, frame, inset=0.012)[0]
    return [part(p.name, frame, merged(p.pieces[0][0])) for p in legs]
