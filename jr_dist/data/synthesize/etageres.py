"""Open shelves on posts or on two ladder-like frames: cabinets without a carcass."""

from __future__ import annotations

import numpy as np

from jr_dist.data.synthesize.primitives import bar, box, merged, mirrored, rod
from jr_dist.data.synthesize.style import EMBED, Part, Shape, chance, metal, part, pick, uniform, whole, wood


def draw_etagere(rng: np.random.Generator) -> Shape:
    """Three to six shelves between four posts or two frames, upright or leaning, perhaps crossed behind."""
    width, depth, height = uniform(rng, 0.35, 1.3), uniform(rng, 0.22, 0.45), uniform(rng, 0.6, 2.0)
    frame = metal(rng) if chance(rng, 0.5) else wood(rng)
    boards, count = wood(rng), whole(rng, 3, 6)
    kind = pick(rng, {"posts": 1.5, "frames": 1.0, "leaning": 1.0})
    x, t = width / 2, uniform(rng, 0.015, 0.04)
    top_depth = depth * uniform(rng, 0.4, 0.7) if kind == "leaning" else depth
    first, last = height * uniform(rng, 0.05, 0.2), height - uniform(rng, 0.0, 0.15) * height - 0.02
    levels, board = np.linspace(first, last, count), uniform(rng, 0.012, 0.03)
    parts = _frames(kind, frame, x, depth, top_depth, height, t, is_round=chance(rng, 0.4))
    for i, y in enumerate(levels):
        front = depth / 2 - (depth - top_depth) * y / height
        shelf = box((-x + t / 2, y - board / 2, -depth / 2 + t * 0.25), (x - t / 2, y + board / 2, front))
        parts.append(part(f"shelf_{i + 1}", boards, shelf))
    label = f"etagere-{kind}{count}"
    if kind != "leaning" and chance(rng, 0.3):
        z, width_of_bar = -depth / 2 + t / 2, t * 0.5
        ends = [((-s * x, levels[0], z), (s * x, levels[-1], z)) for s in (1, -1)]
        parts += [part(f"brace_{i + 1}", frame, bar(a, b, width_of_bar, width_of_bar)) for i, (a, b) in enumerate(ends)]
        label += "-crossed"
    sizes = {"width": width, "depth": depth, "height": height, "board": board, "base_height": 0.0}
    return Shape("cabinet", tuple(parts), f"cabinet/{label}", sizes)


def _frames(
    kind: str, material, x: float, depth: float, top_depth: float, height: float, t: float, *, is_round: bool
) -> list[Part]:
    """Four posts, or two frames (posts and the rails between them as one part)."""
    make = (lambda a, b: rod(a, b, t / 2, level=True)) if is_round else (lambda a, b: bar(a, b, t, t, level=True))
    back, front_foot, front_head = -depth / 2 + t / 2, depth / 2 - t / 2, -depth / 2 + top_depth - t / 2
    rear, front = make((x, 0, back), (x, height, back)), make((x, 0, front_foot), (x, height, front_head))
    if kind == "posts":
        return [
            part(f"post_{f}_{s}", material, solid if s == "right" else mirrored(solid))
            for f, solid in (("front", front), ("back", rear))
            for s in ("left", "right")
        ]
    rails = []
    for y in (t / 2 + 0.02, height - t / 2):
        end = front_foot + (front_head - front_foot) * y / height
        rails.append(box((x - t * 0.4, y - t * 0.4, back), (x + t * 0.4, y + t * 0.4, end + EMBED)))
    right = merged(rear, front, *rails)
    return [part("frame_left", material, mirrored(right)), part("frame_right", material, right)]
