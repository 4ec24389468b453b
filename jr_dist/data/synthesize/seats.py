"""Seats and arms of chairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jr_dist.data.synthesize.backs import BackFrame
from jr_dist.data.synthesize.legs import Stand
from jr_dist.data.synthesize.primitives import (
    Solid,
    bar,
    block,
    box,
    cushion,
    disc,
    loft,
    merged,
    mirrored,
    rod,
    rounded_path,
    rounded_slab,
    tube,
)
from jr_dist.data.synthesize.style import EMBED, Material, Part, chance, part, pick, uniform, whole


@dataclass(frozen=True)
class Seat:
    """A seat: its parts, half sizes, heights of its top and underside, and what its base has to carry."""

    parts: list[Part]
    half_x: float
    half_z: float
    top: float
    underside: float
    is_round: bool
    label: str
    tuck: float = 0.0  # how much less wide it is at the rear, or at its corners, than half_x says

    @property
    def stand(self) -> Stand:
        """What a base under this seat carries."""
        return Stand(self.half_x - self.tuck, self.half_z - 0.5 * self.tuck, self.underside, self.is_round)

    def edge_x(self, z: float) -> float:
        """Half-width of the seat at a depth, at the least."""
        if self.is_round:
            return self.half_x * math.sqrt(max(1 - (z / self.half_z) ** 2, 0.04))
        return self.half_x - self.tuck * (0.5 - 0.5 * z / self.half_z)


def _slab(rng, low, high, frame: Material, cover: Material):
    x, z = high[0], high[2]
    kind = pick(rng, {"rounded": 1, "trapezoid": 1, "box": 1})
    if kind == "rounded":
        corner = uniform(rng, 0.02, 0.4) * min(x, z)
        return [part("seat", frame, rounded_slab(low, high, corner))], "", 0.5 * corner
    if kind == "box":
        return [part("seat", frame, box(low, high))], "", 0.0
    rear = uniform(rng, 0.8, 1.0) * x
    rings = [
        [(-w, low[1], d), (w, low[1], d), (w, high[1], d), (-w, high[1], d)] for d, w in ((low[2], rear), (high[2], x))
    ]
    return [part("seat", frame, loft(np.array(rings)))], "", x - rear


def _cushion(rng, low, high, frame: Material, cover: Material):
    return (
        [part("seat", cover, cushion(low, high, (high[1] - low[1]) * uniform(rng, 0.2, 0.48)))],
        "",
        0.3 * (high[1] - low[1]),
    )


def _framed(rng, low, high, frame: Material, cover: Material):
    """An apron with a cushion in it."""
    split = low[1] + (high[1] - low[1]) * uniform(rng, 0.4, 0.7)
    middle = (high[0], split, high[2])
    pad_low, pad_high = (low[0] * 0.97, split - EMBED, low[2] * 0.97), (high[0] * 0.97, high[1], high[2] * 0.97)
    pad = cushion(pad_low, pad_high, (high[1] - split) * 0.45)
    return [part("seat_frame", frame, box(low, middle)), part("seat", cover, pad)], "seat-framed", 0.0


def _planks(rng, low, high, frame: Material, cover: Material):
    """Boards on a plate."""
    count, t = whole(rng, 3, 5), (high[1] - low[1]) / 2
    pitch = (high[2] - low[2]) / count
    parts = [part("seat_frame", frame, box(low, (high[0] - 0.004, high[1] - t, high[2] - 0.004)))]
    for i in range(count):
        z = low[2] + (i + 0.5) * pitch
        board = block((0, high[1] - t / 2 - EMBED / 2, z), (2 * high[0], t + EMBED, pitch * 0.86))
        parts.append(part(f"seat_board_{i + 1}", frame, board))
    return parts, f"seat-planks{count}", 0.0


def _pair(rng, low, high, frame: Material, cover: Material):
    """Two cushions side by side on a frame: a bench for two."""
    split = low[1] + (high[1] - low[1]) * uniform(rng, 0.35, 0.6)
    parts = [part("seat_frame", frame, box(low, (high[0], split, high[2])))]
    for side, x0, x1 in (("left", low[0], 0.0), ("right", 0.0, high[0])):
        pad = cushion((x0, split - EMBED, low[2]), (x1, high[1], high[2]), (high[1] - split) * 0.45)
        parts.append(part(f"seat_cushion_{side}", cover, pad))
    return parts, "seat-pair", 0.0


def draw_seat(
    rng: np.random.Generator, frame: Material, cover: Material, *, height: float, width: float, depth: float
) -> Seat:
    """A seat whose top lies at `height`, width x depth, metres."""
    thickness = uniform(rng, 0.018, 0.05) if chance(rng, 0.5) else uniform(rng, 0.05, 0.15)
    is_round = width < 0.6 and chance(rng, 0.17)
    low, high = (-width / 2, height - thickness, -depth / 2), (width / 2, height, depth / 2)
    if is_round:
        radius = (width + depth) / 4
        parts = [part("seat", frame if thickness < 0.05 else cover, disc((0, low[1], 0), radius, radius, thickness))]
        return Seat(parts, radius, radius, height, low[1], True, "seat-round")
    if width > 0.9 and chance(rng, 0.6):
        kind = _pair
    elif thickness < 0.05:
        kind = _planks if chance(rng, 0.12) else _slab
    else:
        kind = _framed if chance(rng, 0.4) else _cushion
    parts, label, tuck = kind(rng, low, high, frame, cover)
    return Seat(parts, width / 2, depth / 2, height, low[1], False, label, tuck)


def draw_arms(
    rng: np.random.Generator, seat: Seat, back: BackFrame | None, frame: Material, cover: Material, kind: str
):
    """Arms of a kind: on posts from the back, loops, slabs beside the seat, or T-shaped. Returns parts and label."""
    rise = uniform(rng, 0.13, 0.3)
    if back is not None:
        rise = min(rise, back.height * 0.8)
    t = uniform(rng, 0.02, 0.045)
    right = {"posts": _post_arm, "loops": _loop_arm, "slabs": _slab_arm, "t": _t_arm}[kind](
        rng, seat, back, frame, cover, rise, t
    )
    parts = []
    for name, pieces in right:
        for side, turn in (("left", mirrored), ("right", lambda solid: solid)):
            parts.append(Part(f"{name}_{side}", tuple((turn(solid), material) for solid, material in pieces)))
    return parts, f"arms-{kind}"


Pieces = list[tuple[str, list[tuple[Solid, Material]]]]


def _post_arm(rng, seat: Seat, back: BackFrame, frame, cover, rise: float, t: float) -> Pieces:
    y, wide = seat.top + rise, t * uniform(rng, 1.0, 2.2)
    rear_x = back.half_width - t / 2
    rear = np.array([rear_x, y, back.z_at(rear_x, y)])
    z = seat.half_z * uniform(rng, 0.1, 0.75)
    x = seat.edge_x(z) - t / 2 - 0.005
    over = np.array([x - rear[0], 0, z - rear[2]]) * (1 + uniform(rng, 0.05, 0.25))
    pad = bar(rear, rear + over, t * 0.8, wide)
    round_post = chance(rng, 0.5)
    foot, head = (x, seat.top - EMBED, z), (x, y, z)
    post = rod(foot, head, t * 0.45, level=True) if round_post else bar(foot, head, t, t, level=True)
    return [("arm", [(pad, frame)]), ("arm_support", [(post, frame)])]


def _loop_arm(rng, seat: Seat, back, frame, cover, rise: float, t: float) -> Pieces:
    y = seat.top + rise
    rear, front = -seat.half_z * uniform(rng, 0.5, 0.9), seat.half_z * uniform(rng, 0.3, 0.9)
    x = seat.edge_x(rear) + t / 2 - EMBED
    if seat.is_round:
        rear, front, x = -0.4 * seat.half_z, 0.4 * seat.half_z, seat.edge_x(0.4 * seat.half_z) + t / 2 - EMBED
    low = (seat.top + seat.underside) / 2 - 0.01
    corners = [(x, low, rear), (x, y, rear), (x, y, front), (x, low, front)]
    loop = tube(rounded_path(corners, uniform(rng, 0.02, 0.1)), t, t, round_section=chance(rng, 0.5))
    pieces = [(loop, frame)]
    if chance(rng, 0.4):
        pieces.append((cushion((x - 0.03, y, rear + 0.04), (x + 0.03, y + 0.03, front - 0.04), 0.012), cover))
    return [("arm", pieces)]


def _slab_arm(rng, seat: Seat, back, frame, cover, rise: float, t: float) -> Pieces:
    wide, y = min(uniform(rng, 0.04, 0.16), 0.4 * seat.half_x), seat.top + rise
    low = 0.02 if chance(rng, 0.35) else seat.underside
    corner = (seat.half_x - seat.tuck - EMBED, low, -seat.half_z)
    front = seat.half_z * uniform(rng, 0.7, 1.0)
    return [("arm", [(cushion(corner, (seat.half_x + wide, y, front), min(0.03, wide * 0.4), axis=0), cover)])]


def _t_arm(rng, seat: Seat, back, frame, cover, rise: float, t: float) -> Pieces:
    x, y, z = seat.half_x + 0.03, seat.top + rise, seat.half_z * uniform(rng, -0.25, 0.2)
    low = seat.underside + 0.005
    foot = block(((x + seat.half_x * 0.8) / 2, low, z), (x - seat.half_x * 0.8 + 0.02, 0.02, 0.04))
    post = block((x, (low + y) / 2, z), (0.02, y - low, 0.05))
    length = seat.half_z * uniform(rng, 0.4, 0.8)
    pad = rounded_slab((x - 0.035, y, z - length), (x + 0.035, y + t, z + length * 0.8), 0.03)
    return [("arm", [(merged(foot, post), frame), (pad, cover)])]
