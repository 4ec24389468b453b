"""The grammar of chairs: a base, a seat, and perhaps a back, arms and a headrest, each drawn on its own."""

from __future__ import annotations

import math

import numpy as np

from jr_dist.data.synthesize.backs import BACKS, WITH_POSTS, BackFrame, BackStyle, draw_back_kind, headrest
from jr_dist.data.synthesize.bases import BASES
from jr_dist.data.synthesize.legs import STRETCHERS, corner_legs, draw_leg_style, draw_stretchers, tripod
from jr_dist.data.synthesize.primitives import merged
from jr_dist.data.synthesize.seats import Seat, draw_arms, draw_seat
from jr_dist.data.synthesize.style import (
    EMBED,
    Material,
    Part,
    Shape,
    chance,
    fabric,
    log_uniform,
    metal,
    part,
    pick,
    plastic,
    uniform,
    wood,
)

LEG_THICKNESS = (0.018, 0.065)
COLUMN_THICKNESS = (0.03, 0.1)
WITH_HEADREST = ("solid", "upholstered", "framed")


def draw_chair(rng: np.random.Generator) -> Shape:
    """One chair, stool or bench. It may have more than 16 parts: the caller draws again."""
    frame = wood(rng) if chance(rng, 0.7) else metal(rng)
    cover = fabric(rng) if chance(rng, 0.75) else plastic(rng)
    seat, parameters = _draw_seat(rng, frame, cover)
    base, base_label, legs_x = _draw_base(rng, seat, frame)
    back_kind = draw_back_kind(rng)
    if back_kind == "none":
        parts, labels, back = [], ["stool"], None
    else:
        back = _draw_back_frame(rng, seat, back_kind)
        parts, labels = _draw_back(rng, back, back_kind, frame, cover)
    arm_parts, arm_label = _draw_arms(rng, seat, back, back_kind, frame, cover)
    if legs_x is not None and back_kind in WITH_POSTS and chance(rng, 0.35):
        base, parts = _continue_legs(base, parts)
        base_label += "-through"
    labels = ["chair", base_label, seat.label, *labels, arm_label]
    parameters = {**parameters, "back_height": 0.0 if back is None else back.height}
    return Shape("chair", tuple(base + seat.parts + parts + arm_parts), "/".join(x for x in labels if x), parameters)


def _draw_seat(rng: np.random.Generator, frame: Material, cover: Material) -> tuple[Seat, dict[str, float]]:
    use = pick(rng, {"upright": 6.5, "bar": 1.2, "lounge": 1.6, "bench": 0.9})
    height, width, depth = {
        "upright": ((0.38, 0.52), (0.34, 0.62), (0.34, 0.58)),
        "bar": ((0.58, 0.82), (0.30, 0.46), (0.30, 0.46)),
        "lounge": ((0.26, 0.42), (0.50, 0.85), (0.48, 0.78)),
        "bench": ((0.36, 0.50), (0.90, 1.50), (0.34, 0.60)),
    }[use]
    sizes = {"height": uniform(rng, *height), "width": uniform(rng, *width), "depth": uniform(rng, *depth)}
    return draw_seat(rng, frame, cover, **sizes), {f"seat_{key}": value for key, value in sizes.items()}


def _draw_base(rng: np.random.Generator, seat: Seat, frame: Material) -> tuple[list[Part], str, float | None]:
    """Parts and label of a base; for four legs also x of the back ones, which a back may grow out of."""
    kinds = {
        "legs4": 9.0,
        "pedestal": 1.5,
        "star": 2.6,
        "sled": 1.8,
        "cantilever": 1.0,
        "slabs": 0.8,
        "crossed": 0.8,
        "plinth": 0.7,
    }
    if seat.half_x > 0.45:
        kinds = {"legs4": 5.0, "sled": 1.5, "slabs": 2.0, "plinth": 1.2, "crossed": 1.0}
    elif seat.is_round:
        kinds |= {"legs3": 3.0, "slabs": 0.0, "crossed": 0.0, "cantilever": 0.0}
    kind = pick(rng, kinds)
    if kind in BASES:
        material = frame if kind in ("plinth", "slabs") else metal(rng) if chance(rng, 0.6) else frame
        thick = COLUMN_THICKNESS if kind in ("pedestal", "star") else (0.016, 0.045)
        parts, label = BASES[kind](rng, seat.stand, material, thick)
        return parts, label, None
    style = draw_leg_style(rng, seat.underside, LEG_THICKNESS)
    inset = uniform(rng, 0.0, 0.07)
    if kind == "legs3":
        return tripod(seat.stand, style, frame, inset=inset), "legs3", None
    parts, legs = corner_legs(seat.stand, style, frame, inset=inset)
    tie = pick(rng, STRETCHERS)
    parts += draw_stretchers(rng, legs, frame, tie)
    return parts, "legs4" if tie == "none" else f"legs4-{tie}", float(legs.lines["back_right"][0][0])


def _draw_back_frame(rng: np.random.Generator, seat: Seat, kind: str) -> BackFrame:
    thickness = uniform(rng, 0.015, 0.04)
    height = min(log_uniform(rng, 0.2, 0.85), 3.2 * seat.half_x)
    recline = math.tan(math.radians(uniform(rng, 0, 20)))
    bend = 0.0 if kind in ("upholstered", "shell") or chance(rng, 0.4) else uniform(rng, 0.02, 0.22)
    if not seat.is_round:
        half_width = (seat.half_x - seat.tuck) * (1.0 if kind == "shell" else uniform(rng, 0.78, 1.0))
        return BackFrame(
            half_width, seat.top - EMBED, height, -seat.half_z + thickness, thickness, recline, bend * half_width
        )
    # On a round seat the back follows the rim, or spans a chord of it.
    half_width = seat.half_x * uniform(rng, 0.55, 0.8)
    radius = seat.half_x - thickness
    sagitta = radius - math.sqrt(radius**2 - half_width**2)
    bent = kind not in ("upholstered", "shell", "cross", "splat")
    z = -radius if bent else -radius + sagitta
    return BackFrame(half_width, seat.top - EMBED, height, z, thickness, recline, sagitta if bent else 0.0)


def _draw_back(rng: np.random.Generator, back: BackFrame, kind: str, frame: Material, cover: Material):
    style = BackStyle(
        frame=frame,
        panel=cover if kind in ("upholstered", "framed") or chance(rng, 0.4) else frame,
        post=uniform(rng, 0.018, 0.05),
        rail=min(uniform(rng, 0.03, 0.13), 0.3 * back.height),
        round_posts=chance(rng, 0.4),
    )
    parts, label = BACKS[kind](rng, back, style)
    labels = [label]
    if kind in WITH_HEADREST and back.height > 0.3 and back.half_width < 0.4 and chance(rng, 0.3):
        parts.append(headrest(rng, back, cover, frame))
        labels.append("headrest")
    return [p.warped(back.warp) for p in parts], labels


def _draw_arms(rng, seat: Seat, back: BackFrame | None, back_kind: str, frame: Material, cover: Material):
    if back is None or back_kind == "shell" or not chance(rng, 0.42):
        return [], ""
    kinds = {"loops": 1.0, "t": 1.0 if not seat.is_round else 0.0, "slabs": 1.0 if not seat.is_round else 0.0}
    if back_kind not in ("spindles", "hoop") and back.half_width > 0.85 * seat.half_x:
        kinds["posts"] = 2.5
    return draw_arms(rng, seat, back, frame, cover, pick(rng, kinds))


def _continue_legs(base: list[Part], back: list[Part]) -> tuple[list[Part], list[Part]]:
    """Back posts become the upper ends of the back legs: one part from the floor to the top."""
    posts = {p.name: p for p in back}
    grown = []
    for leg in base:
        post = posts.pop(leg.name.replace("leg_back", "back_post"), None) if leg.name.startswith("leg_back") else None
        grown.append(
            leg if post is None else part(leg.name, leg.pieces[0][1], merged(leg.pieces[0][0], post.pieces[0][0]))
        )
    return grown, list(posts.values())
