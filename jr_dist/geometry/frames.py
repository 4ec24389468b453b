"""Frames: the canonical one (x right, y up, z front; box centre at 0, half-diagonal 1) and those of files."""

import numpy as np
from jaxtyping import Float

from jr_dist.errors import InputError

# Each the shortest turn that brings the axis to +y; a file with z up faces -y, so its front comes to +z.
_UP_ROTATIONS = {
    "y": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "z": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "x": ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    "-y": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "-z": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "-x": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
}


def canonical_transform(points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "4 4"]:
    """Transform (float64) from the canonical frame to that of `points`: their box centre and half-diagonal.

    Raises `InputError` for points that are none, not finite, or all the same.
    """
    if len(points) == 0 or not np.isfinite(points).all():
        raise InputError(f"{len(points)} points, or some not finite; allowed are finite points; check the input")
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    half_diagonal = np.linalg.norm(high - low) / 2
    if not (np.isfinite(half_diagonal) and half_diagonal > 0):
        raise InputError(f"the points span a box of half-diagonal {half_diagonal}; allowed is above 0; check the input")
    transform = np.eye(4)
    transform[:3, :3] *= half_diagonal
    transform[:3, 3] = (low + high) / 2
    return transform


def apply_transform(transform: Float[np.ndarray, "4 4"], points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """`points` moved by an affine 4x4 transform; float64."""
    return points @ transform[:3, :3].T + transform[:3, 3]


def invert_transform(transform: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """The inverse of an affine 4x4 transform; its last row is exactly 0, 0, 0, 1."""
    inverse = np.eye(4)
    inverse[:3, :3] = np.linalg.inv(transform[:3, :3])
    inverse[:3, 3] = -inverse[:3, :3] @ transform[:3, 3]
    return inverse


def up_axis_rotation(up: str) -> Float[np.ndarray, "3 3"]:
    """Rotation that brings the file's axis `up` ("x", "y", "z", "-x", "-y", "-z") to +y: points @ rotation.T.

    Raises `InputError` for any other name.
    """
    if up not in _UP_ROTATIONS:
        raise InputError(
            f"up is {up!r}; allowed are {', '.join(_UP_ROTATIONS)}; name the axis that points up in the file"
        )
    return np.array(_UP_ROTATIONS[up], dtype=np.float64)
