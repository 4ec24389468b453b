"""What a source and a target are: frozen records of plain arrays, in the canonical frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SourceModel:
    """A database model that can be deformed.

    Canonical frame: x right, y up, z front; centred on the box, half-diagonal 1. `transform` (4x4 float64) maps canonical
    coordinates to the frame and units of the file the model came from.
    """

    id: str
    category: str
    part_names: tuple[str, ...]  # P, unique
    centre: np.ndarray  # [P, 3] float32
    half_extent: np.ndarray  # [P, 3] float32, floored, so > 0
    points: np.ndarray  # [N, 3] float32, area-uniform, in random order: every prefix is a fair sample
    part_index: np.ndarray  # [N] int16
    joint_parts: np.ndarray  # [J, 2] int32, i < j
    joint_coordinates: np.ndarray  # [J, 2, 3] float32, the joint in the canonical coordinates of box i and of box j
    mesh_glb: bytes  # canonical frame; one top-level node a part, named as in part_names
    transform: np.ndarray  # [4, 4] float64
    provenance: Mapping[str, Any] = field(default_factory=dict)  # JSON-able: file, up axis, scale, how parts were found

    @property
    def num_parts(self) -> int:
        """P, the number of parts."""
        return len(self.part_names)


@dataclass(frozen=True)
class TargetShape:
    """A shape to be matched: points in its own canonical frame and how to go back from it."""

    id: str
    category: str
    points: np.ndarray  # [N, 3] float32, in random order
    part_index: np.ndarray  # [N] int16, -1 where unknown
    transform: np.ndarray  # [4, 4] float64, canonical -> the file's frame
    provenance: Mapping[str, Any] = field(default_factory=dict)
