"""Backs of chairs, built upright and flat, then reclined and bent in one go."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jr_dist.data.synthesize.primitives import (
    Solid,
    bar,
    block,
    box,
    cushion,
    loft,
    merged,
    rod,
    rounded_path,
    sheet,
    tube,
)
from jr_dist.data.synthesize.style import EMBED, Material, Part, chance, part, pick, uniform, whole


@dataclass(frozen=True)
class BackFrame:
    """Where a back stands. Its middle plane is z at the middle of the seat's rear; metres.

    recline: how far it leans back a metre of height; bend: how far its sides stand before its middle.
    """

    half_width: float
    bottom: float
    height: float
    z: float
    thickness: float
    recline: float
    bend: float

    @property
    def top(self) -> float:
        """Height of the top edge before reclining."""
        return self.bottom + self.height

    @property
    def segments(self) -> int:
        """Pieces that what runs along x is cut into, so that it can bend."""
        return 8 if self.bend > 0 else 1

    def warp(self, vertices: np.ndarray) -> np.ndarray:
        """Recline and bend vertices (V, 3) of the upright back."""
        shift = self.bend * (vertices[:, 0] / self.half_width) ** 2 - self.recline * (vertices[:, 1] - self.bottom)
        return vertices + shift[:, None] * np.array([0.0, 0.0, 1.0])

    def z_at(self, x: float, y: float) -> float:
        """The middle plane at a place."""
        return float(self.warp(np.array([[x, y, self.z]]))[0, 2])


@dataclass(frozen=True)
class BackStyle:
    """Materials and measures shared by the parts of a back."""

    frame: Material
    panel: Material
    post: float
    rail: float
    round_posts: bool


def _bar_x(f: BackFrame, name: str, style: BackStyle, low: float, high: float, depth: float = 0.0) -> Part:
    depth = depth or f.thickness
    reach = f.half_width - EMBED
    return part(name, style.frame, box((-reach, low, f.z - depth / 2), (reach, high, f.z + depth / 2), f.segments))


def _posts(f: BackFrame, style: BackStyle, top: float) -> list[Part]:
    def post(sign: int) -> Solid:
        x, t = sign * (f.half_width - style.post / 2), style.post
        if style.round_posts:
            return rod((x, f.bottom, f.z), (x, top, f.z), t / 2, taper=0.8)
        return bar((x, f.bottom, f.z), (x, top, f.z), t, max(t, f.thickness), level=True)

    return [part(f"back_post_{side}", style.frame, post(sign)) for side, sign in (("left", -1), ("right", 1))]


def _open_frame(f: BackFrame, style: BackStyle) -> tuple[list[Part], float]:
    """Two posts and a rail on top of them or between them, and the height of the rail's lower edge."""
    low = f.top - style.rail
    rail = _bar_x(f, "back_top_rail", style, low, f.top)
    return [*_posts(f, style, low + EMBED), rail], low


def _uprights(f: BackFrame, count: int, width: float, inner: float) -> np.ndarray:
    """x of `count` equal uprights with equal gaps within +-inner; the gaps at the ends as well."""
    gap = (2 * inner - count * width) / (count + 1)
    return -inner + gap + width / 2 + np.arange(count) * (gap + width)


def solid(rng: np.random.Generator, f: BackFrame, style: BackStyle):
    """One panel from the seat up, its top straight or arched."""
    arch = f.height * uniform(rng, 0.05, 0.3) if chance(rng, 0.4) else 0.0
    narrow = uniform(rng, 0.75, 1.0)
    columns = np.linspace(-1, 1, 13 if arch or f.bend else 2)
    rows = np.linspace(0, 1, 4)[:, None]
    x = columns * f.half_width * (narrow + (1 - narrow) * rows)
    y = f.bottom + rows * (f.height - arch * columns**2)
    grid = np.stack([x, np.broadcast_to(y, x.shape), np.full(x.shape, f.z)], -1)
    parts = [part("back", style.panel, sheet(grid, np.array([0, 0, f.thickness])))]
    if f.bend == 0 and f.height > 0.3 and chance(rng, 0.25):
        low, high = f.bottom + 0.15 * f.height, f.bottom + 0.7 * f.height
        depth, reach = f.thickness / 2 + uniform(rng, 0.03, 0.08), f.half_width * 0.7 * narrow
        parts.append(
            part("back_pad", style.panel, cushion((-reach, low, f.z), (reach, high, f.z + depth), 0.03, axis=2))
        )
        return parts, "solid-pad"
    return parts, "solid"


def upholstered(rng: np.random.Generator, f: BackFrame, style: BackStyle):
    """A thick cushion, sometimes with wings at its sides, sometimes on a rod above the seat."""
    thick = max(f.thickness, uniform(rng, 0.05, 0.14))
    lift = f.height * uniform(rng, 0.15, 0.4) if chance(rng, 0.25) else 0.0
    low, high = (-f.half_width, f.bottom + lift, f.z - thick / 2), (f.half_width, f.top, f.z + thick / 2)
    parts, label = [part("back", style.panel, cushion(low, high, thick * uniform(rng, 0.25, 0.49), axis=2))], "cushion"
    if lift:
        width = f.half_width * uniform(rng, 0.12, 0.35)
        support = block((0, f.bottom + lift / 2 + 0.02, f.z), (2 * width, lift + 0.04 + 2 * EMBED, thick * 0.35))
        return [*parts, part("back_support", style.frame, support)], "cushion-lifted"
    if f.height > 0.4 and chance(rng, 0.2):
        depth, start = uniform(rng, 0.1, 0.22), f.bottom + f.height * uniform(rng, 0.3, 0.6)
        inner, outer = f.half_width - 0.01, f.half_width + 0.04
        wing = cushion((inner, start, f.z - thick / 2), (outer, f.top - 0.01, f.z + depth), 0.02, axis=0)
        flipped = Solid(wing.vertices * (-1.0, 1.0, 1.0), wing.faces[:, ::-1])
        parts += [part("wing_left", style.panel, flipped), part("wing_right", style.panel, wing)]
        label = "cushion-wings"
    return parts, label


def slats(rng: np.random.Generator, f: BackFrame, style: BackStyle):
    """Upright slats between posts, from the seat or a lower rail to the top rail."""
    parts, high = _open_frame(f, style)
    count, label = whole(rng, 3, 5), "slats"
    inner = f.half_width - style.post
    width = min(uniform(rng, 0.35, 0.7) * 2 * inner / count, 0.09)
    low = f.bottom
    if chance(rng, 0.4):
        low = f.bottom + f.height * uniform(rng, 0.15, 0.3)
        parts.append(_bar_x(f, "back_low_rail", style, low, low + style.rail * 0.6, f.thickness * 0.8))
        low, label = low + style.rail * 0.6 - EMBED, "slats-rail"
    for i, x in enumerate(_uprights(f, count, width, inner)):
        low_corner, high_corner = (
            (x - width / 2, low, f.z - f.thickness * 0.3),
            (x + width / 2, high + EMBED, f.z + f.thickness * 0.3),
        )
        parts.append(part(f"slat_{i + 1}", style.frame, box(low_corner, high_corner)))
    return parts, f"{label}{count}"


def ladder(rng: np.random.Generator, f: BackFrame, style: BackStyle):
    """Rungs between posts, the posts standing above the last one or not."""
    count = whole(rng, 1, 4)
    parts = _posts(f, style, f.top)
    start = f.bottom + f.height * uniform(rng, 0.2, 0.4) if count > 1 else f.bottom + f.height * uniform(rng, 0.5, 0.7)
    pitch = (f.top - start) / count
    rung = pitch * uniform(rng, 0.4, 0.75)
    for i in range(count):
        low = start + i * pitch + (pitch - rung)
        parts.append(_bar_x(f, f"rung_{i + 1}", style, low, min(low + rung, f.top), f.thickness * 0.7))
    return parts, f"ladder{count}"


def spindles(rng: np.random.Generator, f: BackFrame, style: BackStyle):
    """Thin rods from the seat to a crest rail, without posts."""
    count = whole(rng, 4, 7)
    low, radius = f.top - style.rail, uniform(rng, 0.005, 0.011)
    parts = [_bar_x(f, "back_crest", style, low, f.top)]
    spread = uniform(rng, 0.7, 0.92)  # feet stand closer than heads
    for i, u in enumerate(np.linspace(-1, 1, count)):
        x = u * (f.half_width - 0.03)
        stick = rod((x * spread, f.bottom, f.z), (x, low + 2 * EMBED, f.z), radius, taper=0.8, level=True, sides=8)
        parts.append(part(f"spindle_{i + 1}", style.frame, stick))
    return parts, f"spindles{count}"


def hoop(rng: np.random.Generator, f: BackFrame, style: BackStyle):
    """A bent bow over the seat with rods inside it."""
    count, t = whole(rng, 0, 5), max(style.post * 0.7, 0.018)
    reach = f.half_width - t / 2
    angle = np.linspace(math.pi, 0, 19)
    power = uniform(rng, 0.5, 0.9)  # towards a rectangle the smaller it is
    across, along = np.cos(angle), np.sin(angle)
    path = np.stack([reach * np.sign(across) * np.abs(across) ** power, f.bottom + (f.height - t / 2) * along**power,
                     np.full(19, f.z)], 1)  # fmt: skip
    parts = [part("back_bow", style.frame, tube(path, t, t, round_section=style.round_posts))]
    for i, x in enumerate(_uprights(f, count, t * 0.5, reach)):
        rise = (1 - (abs(x) / reach) ** (2 / power)) ** (power / 2)
        stick = rod((x, f.bottom, f.z), (x, f.bottom + (f.height - t / 2) * rise, f.z), t * 0.3, level=True, sides=8)
        parts.append(part(f"spindle_{i + 1}", style.frame, stick))
    return parts, f"hoop{count}"


def splat(rng: np.random.Generator, f: BackFrame, style: BackStyle):
    """One shaped board in the middle, between posts under a rail."""
    parts, high = _open_frame(f, style)
    widths = np.interp(np.linspace(0, 1, 9), [0, 0.25, 0.5, 0.75, 1], rng.uniform(0.25, 0.95, 5)) * (
        f.half_width - style.post
    )
    heights = np.linspace(f.bottom, high + EMBED, 9)
    t = f.thickness * 0.3
    rings = [
        [(-w, y, f.z - t), (w, y, f.z - t), (w, y, f.z + t), (-w, y, f.z + t)]
        for w, y in zip(widths, heights, strict=True)
    ]
    return [*parts, part("splat", style.frame, loft(np.array(rings)))], "splat"


def framed(rng: np.random.Generator, f: BackFrame, style: BackStyle):
    """Posts and two rails around a panel."""
    parts, high = _open_frame(f, style)
    low = f.bottom + f.height * uniform(rng, 0.1, 0.4)
    parts.append(_bar_x(f, "back_low_rail", style, low, low + style.rail * 0.7, f.thickness * 0.9))
    reach, t = f.half_width - style.post + EMBED, f.thickness * 0.35
    middle = box((-reach, low + style.rail * 0.7 - EMBED, f.z - t), (reach, high + EMBED, f.z + t), f.segments)
    return [*parts, part("back_panel", style.panel, middle)], "framed"


def cross(rng: np.random.Generator, f: BackFrame, style: BackStyle):
    """Two crossed bars between posts under a rail."""
    parts, high = _open_frame(f, style)
    low, reach, t = f.bottom, f.half_width - style.post, f.thickness * 0.6
    width = style.rail * uniform(rng, 0.4, 0.7)
    for i, sign in enumerate((-1, 1)):
        a, b = (-sign * reach, low + width / 2, f.z), (sign * reach, high - width / 4, f.z)
        parts.append(part(f"cross_bar_{i + 1}", style.frame, bar(a, b, width, t)))
    return parts, "cross"


def shell(rng: np.random.Generator, f: BackFrame, style: BackStyle):
    """A panel that wraps round the sides of the seat: a tub."""
    forward = min(f.half_width * uniform(rng, 0.7, 1.5), 1.9 * abs(f.z))  # no further than the seat reaches
    corner = min(f.half_width, forward) * uniform(rng, 0.4, 0.9)
    t = max(f.thickness, 0.02)
    ends = [
        (-f.half_width, 0, f.z + forward),
        (-f.half_width, 0, f.z),
        (f.half_width, 0, f.z),
        (f.half_width, 0, f.z + forward),
    ]
    path = rounded_path(ends, corner, steps=6)
    fall = uniform(rng, 0.3, 1.0)  # height at the front ends against the middle
    reach = (path[:, 2] - f.z) / forward
    top = f.height * (1 - (1 - fall) * reach**1.5)
    rows = np.linspace(0, 1, 4)[:, None]
    middle = np.stack([np.broadcast_to(path[:, 0], (4, len(path))), f.bottom + rows * top,
                       np.broadcast_to(path[:, 2], (4, len(path)))], -1)  # fmt: skip
    ahead = np.gradient(path, axis=0)
    normal = np.stack([-ahead[:, 2], 0 * reach, ahead[:, 0]], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return [part("back", style.panel, sheet(middle, np.broadcast_to(normal * t, middle.shape)))], "shell"


def headrest(rng: np.random.Generator, f: BackFrame, material: Material, pole: Material) -> Part:
    """A cushion above the back, on it or on two thin poles."""
    width, high = f.half_width * uniform(rng, 0.45, 0.85), uniform(rng, 0.08, 0.18)
    depth = max(f.thickness, 0.04) * uniform(rng, 0.8, 1.4)
    gap = uniform(rng, 0.02, 0.06) if chance(rng, 0.5) else -EMBED
    low = f.top + gap
    pad = cushion((-width, low, f.z - depth / 2), (width, low + high, f.z + depth / 2), depth * 0.4, axis=2)
    if gap < 0:
        return part("headrest", material, pad)
    poles = [rod((s * width * 0.4, f.top - 0.03, f.z), (s * width * 0.4, low + 0.03, f.z), 0.006) for s in (-1, 1)]
    return Part("headrest", ((pad, material), (merged(*poles), pole)))


Back = Callable[[np.random.Generator, BackFrame, BackStyle], tuple[list[Part], str]]
BACKS: dict[str, Back] = {
    "solid": solid, "upholstered": upholstered, "slats": slats, "ladder": ladder, "spindles": spindles, "hoop": hoop,
    "splat": splat, "framed": framed, "cross": cross, "shell": shell,
}  # fmt: skip
WITH_POSTS = ("slats", "ladder", "splat", "framed", "cross")


def draw_back_kind(rng: np.random.Generator) -> str:
    """The kind of a back, or none: a stool."""
    return pick(rng, {
        "solid": 2.6, "upholstered": 2.6, "slats": 2.4, "ladder": 2.2, "spindles": 1.5, "hoop": 1.1, "splat": 1.0,
        "framed": 1.2, "cross": 0.9, "shell": 1.2, "none": 1.3,
    })  # fmt: skip
