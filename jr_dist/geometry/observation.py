"""What is observed of a target: all of it, what a cut or a view leaves, with noise, or in an unknown pose.

| protocol | observed of N points |
|---|---|
| `full` | all of them, as they are |
| `partial-25`, `-50`, `-75` | without that per cent: those farthest along a direction, uniform on the sphere |
| `view-25`, `-50`, `-75` | without that per cent: those least visible from one viewpoint (`hidden_behind`) |
| `noise-1`, `noise-3` | all, each moved by a normal step in x, y and z of that per cent of the half-diagonal |
| `up` | all, turned by one of the 24 rotations that map axes to axes: which axis is up, and front, is unknown |
| `yaw` | all, turned by any angle about y |

A viewpoint stands three half-diagonals from the centre of the box, at any azimuth, 0 to 45 degrees above the horizon:
from there people and robots see furniture. The points that are left keep their order. Every observation but `full` is
normalised by what is left alone (box centred, half-diagonal 1: the *observed frame*), for who observes knows no more;
the transform back to the frame of the whole is kept. Equal generators give equal observations.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from jaxtyping import Float, Float32, Float64

from jr_dist.errors import InputError
from jr_dist.geometry.frames import apply_transform, canonical_transform, invert_transform

PROTOCOLS = (
    *("full", "partial-25", "partial-50", "partial-75", "view-25", "view-50", "view-75"),
    *("noise-1", "noise-3", "up", "yaw"),
)
#: of a cut in training, at most
MOST_MISSING = 0.75

_DISTANCE = 3.0  # half-diagonals from the viewpoint to the centre
_MOST_ELEVATION = math.pi / 4
_YAW_STEPS = 36


@dataclass(frozen=True)
class Observed:
    """Part of a target, or all of it, in the observed frame."""

    points: Float32[np.ndarray, "M 3"]
    transform: Float64[np.ndarray, "4 4"]  #: a similarity, from the observed frame to that of the whole

    @property
    def scale(self) -> float:
        """Length in the frame of the whole of one unit of the observed frame; squared, it converts a chamfer."""
        return float(np.linalg.norm(self.transform[:3, 0]))

    def seen_from_here(self, points: Float[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N 3"]:
        """Points given in the frame of the whole, in the observed frame; those of `full` keep their bits."""
        return apply_transform(invert_transform(self.transform), points).astype(np.float32)


def check_protocols(names: Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple. Raises `InputError` for one that is no protocol."""
    names = tuple(names)
    for name in names:
        if name not in PROTOCOLS:
            raise InputError(f"protocol {name!r} is unknown; allowed are {', '.join(PROTOCOLS)}; choose among them")
        if names.count(name) > 1:
            raise InputError(f"protocol {name!r} is named twice; allowed is once; leave one out")
    return names


def generator(*key: str | int) -> np.random.Generator:
    """A generator that depends on the key alone, for what is to be observed the same everywhere and every time."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def observe(points: Float32[np.ndarray, "N 3"], protocol: str, rng: np.random.Generator) -> Observed:
    """What `protocol` leaves of a target in its canonical frame; the number of points depends on N and it alone.

    Raises `InputError` for an unknown protocol, for points that are none, not finite or all the same, and where no two
    different ones are left.
    """
    check_protocols([protocol])
    kind, _, number = protocol.partition("-")
    whole = canonical_transform(points)
    if kind == "full":
        return Observed(points, np.eye(4))
    if kind == "partial":
        return _normalised(_cut(points, int(number) / 100, rng))
    if kind == "view":
        return _normalised(_view(points, int(number) / 100, rng))
    if kind == "noise":
        return _normalised(points + rng.normal(scale=int(number) / 100 * whole[0, 0], size=points.shape))
    turns = _axis_rotations() if kind == "up" else _about_y(rng.uniform(0, 2 * math.pi, 1))
    return posed(Observed(points, np.eye(4)), turns[rng.integers(len(turns))])


def training_cut(points: Float32[np.ndarray, "N 3"], rng: np.random.Generator) -> Observed:
    """What training shows of a target in part: a half-space cut or a view, as likely, 0 to 75 % missing (uniform).

    Raises `InputError` as `observe` does.
    """
    canonical_transform(points)
    missing = rng.uniform(0, MOST_MISSING)
    return _normalised((_cut if rng.random() < 0.5 else _view)(points, missing, rng))


def rotations(protocol: str) -> Float64[np.ndarray, "H 3 3"]:
    """The turns to try on an observation, by `posed`: one of them, or one near, sets it upright. The first is none.

    `up`: the 24 there are. `yaw`: steps of 10 degrees, which leave 5 at most and 2.5 in the mean. That alone is a
    chamfer x 100 of 0.07 for synthetic furniture; steps of 15 degrees leave 0.11, steps of 5 degrees 0.02 at twice the
    work. Otherwise the pose is known.
    """
    check_protocols([protocol])
    if protocol == "up":
        return _axis_rotations()
    return _about_y(np.arange(_YAW_STEPS if protocol == "yaw" else 1) * (2 * math.pi / _YAW_STEPS))


def posed(observed: Observed, rotation: Float[np.ndarray, "3 3"]) -> Observed:
    """The observation turned (points @ rotation.T) and normalised again; its transform still leads to the whole."""
    turned = _normalised(observed.points.astype(np.float64) @ rotation.T)
    back = np.eye(4)
    back[:3, :3] = rotation.T
    return Observed(turned.points, observed.transform @ back @ turned.transform)


def hidden_behind(
    points: Float[np.ndarray, "N 3"], towards: Float[np.ndarray, " 3"]
) -> tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
    """How deep each point lies behind the surface seen from a viewpoint (0: seen), and its depth, in half-diagonals.

    `towards` is the unit vector from the box's centre to the viewpoint. The z-buffer has 2 N cells (64 x 64 for 2048
    points), a point hides what lies behind its own cell and the eight around it, and less than a cell behind counts as
    seen. Points are no surface: against rays cast at the meshes of synthetic furniture, a third of which is seen from
    one side, the half of the points ranked first holds 83 % of what is seen (90 % for closed boxes), and of the quarter
    ranked first 69 % is seen (88 %); the rest is mostly backs of thin boards.
    """
    frame = canonical_transform(points)
    canonical = apply_transform(invert_transform(frame), points)
    right = np.cross((0.0, 1.0, 0.0) if abs(towards[1]) < 0.9 else (0.0, 0.0, 1.0), towards)
    right /= np.linalg.norm(right)
    depth = _DISTANCE - canonical @ towards
    picture = canonical @ np.stack([right, np.cross(towards, right)], axis=1) / depth[:, None]
    widest = 1 / math.sqrt(_DISTANCE**2 - 1)  # of the unit sphere, in which all points are
    side = math.ceil(math.sqrt(2 * len(points)))
    cell = np.clip(((picture / widest + 1) / 2 * side).astype(np.int64), 0, side - 1)
    nearest = np.full((side + 2, side + 2), np.inf)
    np.minimum.at(nearest, (cell[:, 0] + 1, cell[:, 1] + 1), depth)
    nearest = np.minimum(np.minimum(nearest[:-2], nearest[1:-1]), nearest[2:])
    nearest = np.minimum(np.minimum(nearest[:, :-2], nearest[:, 1:-1]), nearest[:, 2:])
    tolerance = 2 * widest * _DISTANCE / side  # a cell, at the centre
    return np.maximum(depth - nearest[cell[:, 0], cell[:, 1]] - tolerance, 0), depth


def _cut(points, missing: float, rng: np.random.Generator):
    """The points nearest along a random direction."""
    return _kept(points, np.argsort(points @ _unit(rng.normal(size=3)), kind="stable"), missing)


def _view(points, missing: float, rng: np.random.Generator):
    """The points most visible from a random viewpoint: those hidden deepest go first, then the farthest."""
    azimuth, elevation = rng.uniform(0, 2 * math.pi), rng.uniform(0, _MOST_ELEVATION)
    level = math.cos(elevation)
    towards = np.array([level * math.sin(azimuth), math.sin(elevation), level * math.cos(azimuth)])
    behind, depth = hidden_behind(points, towards)
    return _kept(points, np.lexsort((depth, behind)), missing)


def _kept(points, ranked: np.ndarray, missing: float):
    """The points that come first in `ranked`, in their own order; exactly the share `missing` is not among them."""
    return points[np.sort(ranked[: len(points) - round(missing * len(points))])]


def _normalised(points) -> Observed:
    transform = canonical_transform(points)
    return Observed(apply_transform(invert_transform(transform), points).astype(np.float32), transform)


def _unit(vector):
    return vector / np.linalg.norm(vector)


def _axis_rotations() -> Float64[np.ndarray, "24 3 3"]:
    """Permutations of the axes with signs, those of determinant 1, the identity first."""
    signed = (
        np.diag(signs)[list(order)] for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)
    )
    return np.stack([matrix for matrix in signed if np.linalg.det(matrix) > 0])


def _about_y(angles: Float[np.ndarray, " H"]) -> Float64[np.ndarray, "H 3 3"]:
    cos, sin = np.cos(angles), np.sin(angles)
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    return np.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], axis=1).reshape(-1, 3, 3)
