"""The grammar of cabinets: a carcass of panels cut into bays and cells, closed by doors and drawers or left open."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from jr_dist.data.synthesize.bases import wheels
from jr_dist.data.synthesize.etageres import draw_etagere
from jr_dist.data.synthesize.fronts import FrontStyle, door, draw_front_style, drawer
from jr_dist.data.synthesize.legs import LegStyle, Stand, corner_legs
from jr_dist.data.synthesize.primitives import box, merged, mirrored, rod, rounded_path, tube
from jr_dist.data.synthesize.style import EMBED, Material, Part, Shape, chance, metal, part, pick, uniform, whole, wood

SIZES = {  # width, depth, height of the whole in metres
    "wardrobe": ((0.60, 1.80), (0.45, 0.70), (1.60, 2.30)),
    "bookcase": ((0.40, 1.30), (0.20, 0.40), (0.90, 2.20)),
    "sideboard": ((1.00, 2.20), (0.35, 0.55), (0.50, 0.95)),
    "commode": ((0.60, 1.40), (0.38, 0.60), (0.60, 1.25)),
    "nightstand": ((0.32, 0.60), (0.28, 0.50), (0.38, 0.75)),
    "tower": ((0.28, 0.60), (0.28, 0.55), (1.00, 2.10)),
}
FILLS = {  # how probable each kind of cell is
    "wardrobe": {"doors": 5.0, "drawers": 0.8, "open": 0.5},
    "bookcase": {"open": 6.0, "doors": 0.9, "drawers": 0.5},
    "sideboard": {"doors": 2.5, "drawers": 2.0, "open": 1.3},
    "commode": {"drawers": 5.0, "doors": 0.8, "open": 0.5},
    "nightstand": {"drawers": 2.5, "open": 1.8, "doors": 1.2},
    "tower": {"doors": 2.0, "drawers": 1.2, "open": 1.8},
}


@dataclass(frozen=True)
class Carcass:
    """The box of a cabinet: outer half-width, depth planes, heights, and the thickness of its boards (metres)."""

    half_x: float
    half_z: float
    low: float
    high: float
    board: float
    material: Material

    def upright(self, name: str, x: float) -> Part:
        """A side or a divider whose middle is at x."""
        t, inner = self.board / 2, 0.0 if name.startswith("side") else self.board - EMBED
        return part(
            name, self.material, box((x - t, self.low + inner, -self.half_z), (x + t, self.high - inner, self.half_z))
        )

    def level(self, name: str, x0: float, x1: float, y: float, setback: float = 0.0) -> Part:
        """A board between two uprights, its middle at height y."""
        t = self.board / 2
        return part(
            name, self.material, box((x0 - EMBED, y - t, -self.half_z), (x1 + EMBED, y + t, self.half_z - setback))
        )


def draw_cabinet(rng: np.random.Generator) -> Shape:
    """One cabinet, commode, bookcase or étagère. It may have more than 16 parts: the caller draws again."""
    if chance(rng, 0.12):
        return draw_etagere(rng)
    use = pick(
        rng, {"wardrobe": 1.4, "bookcase": 2.0, "sideboard": 2.0, "commode": 1.8, "nightstand": 1.4, "tower": 1.3}
    )
    width, depth, height = (uniform(rng, *span) for span in SIZES[use])
    body, accent = wood(rng), wood(rng) if chance(rng, 0.35) else None
    base, base_label, low = _draw_base(rng, Stand(width / 2, depth / 2, height), body)
    top, top_label, high = _draw_top(rng, width / 2, depth / 2, height, accent or body)
    carcass = Carcass(width / 2, depth / 2, low, high, uniform(rng, 0.012, 0.036), body)
    fronts = draw_front_style(rng, accent or body, metal(rng))
    inside, labels = _fill(rng, carcass, fronts, use)
    parts = [*_shell(carcass), *inside]
    if "open" not in "".join(labels) or chance(rng, 0.6):
        parts.append(_back(carcass))
    else:
        labels.append("backless")
    sizes = {"width": width, "depth": depth, "height": height, "board": carcass.board, "base_height": low}
    structure = "/".join(x for x in ("cabinet", base_label, *labels, top_label) if x)
    return Shape("cabinet", (*base, *parts, *top), structure, sizes)


def _shell(c: Carcass) -> list[Part]:
    x, t = c.half_x - c.board / 2, c.board
    boards = [
        c.level(n, -c.half_x + t, c.half_x - t, y) for n, y in (("bottom", c.low + t / 2), ("top", c.high - t / 2))
    ]
    return [c.upright("side_left", -x), c.upright("side_right", x), *boards]


def _back(c: Carcass) -> Part:
    inner = c.half_x - c.board + EMBED
    low, high = c.low + c.board - EMBED, c.high - c.board + EMBED
    return part("back", c.material, box((-inner, low, -c.half_z), (inner, high, -c.half_z + 0.008)))


def _draw_base(rng: np.random.Generator, stand: Stand, material: Material) -> tuple[list[Part], str, float]:
    """What the carcass stands on, and the height at which it begins."""
    kind = pick(rng, {"floor": 2.5, "legs4": 3.5, "plinth": 1.6, "casters": 0.6, "sled": 0.9, "feet": 0.8})
    if kind == "floor":
        return [], "floor", 0.0
    if kind == "casters":
        parts, drop = wheels(rng, stand)
        return parts, kind, drop
    height = min(uniform(rng, 0.06, 0.34), 0.35 * stand.height)
    if kind == "plinth":
        height, back = min(height, 0.15), uniform(rng, 0.0, 0.07)
        x, z = stand.half_x - back, stand.half_z - back
        return [part("plinth", material, box((-x, 0, -z), (x, height + EMBED, z)))], kind, height
    if kind == "feet":
        height = min(height, 0.12)
        x, w = stand.half_x * uniform(rng, 0.75, 0.95), uniform(rng, 0.02, 0.05)
        foot = box((x - w, 0, -stand.half_z * 0.95), (x, height + EMBED, stand.half_z * 0.95))
        return [part("foot_left", material, mirrored(foot)), part("foot_right", material, foot)], kind, height
    steel = metal(rng) if chance(rng, 0.5) else material
    if kind == "sled":
        x, z, t = stand.half_x * uniform(rng, 0.7, 0.95), stand.half_z * 0.9, uniform(rng, 0.015, 0.035)
        corners = [(x, height + EMBED, z), (x, t / 2, z), (x, t / 2, -z), (x, height + EMBED, -z)]
        runner = tube(rounded_path(corners, 0.02), t, t, round_section=chance(rng, 0.4))
        return [part("runner_left", steel, mirrored(runner)), part("runner_right", steel, runner)], kind, height
    section = pick(rng, {"square": 2, "round": 2, "turned": 0.7})
    splay = [uniform(rng, 0.05, 0.3) * height if chance(rng, 0.4) else 0.0 for _ in range(2)]
    style = LegStyle(section, uniform(rng, 0.025, 0.06), uniform(rng, 0.4, 1.0) if section != "turned" else 1.0, *splay)
    legs, _ = corner_legs(Stand(stand.half_x, stand.half_z, height), style, steel, inset=uniform(rng, 0.0, 0.08))
    return legs, kind, height


def _draw_top(
    rng: np.random.Generator, x: float, z: float, height: float, material: Material
) -> tuple[list[Part], str, float]:
    """A board or a cornice on the carcass, and the height at which the carcass ends."""
    kind = pick(rng, {"none": 4.0, "overhang": 1.3, "cornice": 0.7})
    if kind == "none":
        return [], "", height
    t = uniform(rng, 0.015, 0.05) if kind == "overhang" else uniform(rng, 0.04, 0.1)
    out = uniform(rng, 0.005, 0.03) if kind == "overhang" else uniform(rng, 0.02, 0.05)
    low = height - t
    slab = box((-x - out, height - t * 0.5, -z), (x + out, height, z + out))
    if kind == "overhang":
        return [part("overhang", material, box((-x - out, low - EMBED, -z), (x + out, height, z + out)))], kind, low
    step = box((-x - out / 2, low - EMBED, -z), (x + out / 2, height - t * 0.4, z + out / 2))
    return [part("cornice", material, merged(slab, step))], kind, low


def _fill(rng: np.random.Generator, c: Carcass, fronts: FrontStyle, use: str) -> tuple[list[Part], list[str]]:
    """Dividers, and in each bay a stack of cells from the bottom up."""
    clear = 2 * (c.half_x - c.board)
    most = 1 if clear < 0.7 else 2 if clear < 1.3 else 3
    num_bays = whole(rng, max(1, most - 1), most)
    shares = np.ones(num_bays)
    if num_bays > 1 and chance(rng, 0.5):
        shares[num_bays // 2 if num_bays == 3 else int(rng.integers(num_bays))] *= uniform(rng, 1.3, 2.0)
    edges = -c.half_x + c.board / 2 + np.concatenate([[0.0], np.cumsum(shares) / shares.sum()]) * (clear + c.board)
    parts = [c.upright(f"divider_{i}", x) for i, x in enumerate(edges[1:-1], 1)]
    same = chance(rng, 0.7)  # outer bays alike: most furniture is symmetric
    plans = [_plan(rng, use, c.high - c.low) for _ in range(num_bays)]
    if same:
        plans[-1] = plans[0]
    bays = []
    for i, plan in enumerate(plans):
        suffix = f"_{i + 1}" if num_bays > 1 else ""
        hinge = "left" if i < (num_bays + 1) / 2 - 0.5 or num_bays == 1 else "right"
        bay = (edges[i] + c.board / 2, edges[i + 1] - c.board / 2)
        parts += _bay(c, fronts, bay, plan, suffix, hinge)
        names = {"doors": f"doors{_num_doors(c, *bay)}", "glass": f"glass{_num_doors(c, *bay)}"}
        bays.append("+".join(names.get(kind, f"{kind}{count}") for kind, count, _ in plan))
    labels = ["|".join(bays)]
    if fronts.separate and any(p.name.startswith("handle") for p in parts):
        labels.append("handles")
    return parts, labels


def _num_doors(c: Carcass, x0: float, x1: float) -> int:
    return 1 if x1 - x0 + 2 * c.board / 3 < 0.58 else 2


Cell = tuple[str, int, float]  # kind, number of drawers or shelves (or 1 or 2 doors), share of the height


def _plan(rng: np.random.Generator, use: str, height: float) -> list[Cell]:
    """The cells of one bay from the bottom up."""
    count = pick(rng, {"1": 3.0, "2": 2.0 if height > 0.55 else 0.5, "3": 0.4 if height > 1.2 else 0.0})
    cells: list[Cell] = []
    for _ in range(int(count)):
        kind = pick(rng, FILLS[use])
        if cells and cells[-1][0] == kind:
            kind = {"doors": "open", "open": "drawers", "drawers": "doors"}[kind]
        room = height / int(count)
        number = {
            "open": whole(rng, 0, max(1, min(5, int(room / 0.28)))),
            "drawers": whole(rng, 1, max(1, min(5, int(room / 0.16)))),
            "doors": 0,
        }[kind]
        if kind == "doors" and chance(rng, 0.3):
            kind = "glass"
        cells.append(
            (kind, number, {"open": 1.0, "drawers": 0.7, "doors": 1.2, "glass": 1.2}[kind] * uniform(rng, 0.6, 1.5))
        )
    return cells


def _bay(
    c: Carcass, fronts: FrontStyle, bay: tuple[float, float], plan: list[Cell], suffix: str, hinge: str
) -> list[Part]:
    x0, x1 = bay
    shares = np.array([share for _, _, share in plan])
    bottom, top = c.low + c.board, c.high - c.board
    edges = bottom + np.concatenate([[0.0], np.cumsum(shares) / shares.sum()]) * (top - bottom)
    parts = [c.level(f"board{suffix}_{i}", x0, x1, y) for i, y in enumerate(edges[1:-1], 1)]
    drawers = shelves = 0
    for i, (kind, count, _) in enumerate(plan):
        low, high = edges[i] + (c.board / 2 if i else 0), edges[i + 1] - (c.board / 2 if i + 1 < len(plan) else 0)
        if kind == "open" and count == 0 and high - low > 0.9:
            y, z = high - 0.09, 0.0  # room to hang clothes
            parts.append(
                part(f"hanging_rail{suffix}", fronts.metal, rod((x0 - EMBED, y, z), (x1 + EMBED, y, z), 0.014))
            )
        elif kind == "open":
            for y in np.linspace(low, high, count + 2)[1:-1]:
                shelves += 1
                parts.append(c.level(f"shelf{suffix}_{shelves}", x0, x1, y, setback=0.01))
        elif kind == "drawers":
            ys = np.linspace(low, high, count + 1)
            for y0, y1 in pairwise(ys):
                drawers += 1
                parts += drawer(fronts, f"drawer{suffix}_{drawers}", *_overlay(c, x0, x1, y0, y1), c.half_z)
        else:
            parts += _doors(
                c,
                fronts,
                (x0, x1),
                (low, high),
                f"{suffix}_{i + 1}" if len(plan) > 1 else suffix,
                hinge,
                kind == "glass",
            )
    return parts


def _overlay(c: Carcass, x0: float, x1: float, y0: float, y1: float):
    """A front overlaps the boards around its opening by a third of a board, and keeps 1 mm from its neighbours."""
    lap = c.board / 3
    return (x0 - lap, y0 + 0.001 - (lap if y0 < c.low + 1.5 * c.board else 0)), (x1 + lap, y1 - 0.001)


def _doors(c: Carcass, fronts: FrontStyle, x, y, suffix: str, hinge: str, glass: bool) -> list[Part]:
    low, high = _overlay(c, *x, *y)
    if _num_doors(c, *x) == 1:
        return door(fronts, f"door{suffix}", low, high, c.half_z, hinge=hinge, glass=glass)
    middle = (low[0] + high[0]) / 2
    left = door(fronts, f"door{suffix}_left", low, (middle - 0.001, high[1]), c.half_z, hinge="left", glass=glass)
    return left + door(
        fronts, f"door{suffix}_right", (middle + 0.001, low[1]), high, c.half_z, hinge="right", glass=glass
    )
