"""Connectivity projections of the sources: made when they are asked for, and kept as long as there is room."""

from __future__ import annotations

from typing import Any

import numpy as np

from jr_dist.data.recent_slots import RecentSlots
from jr_dist.geometry.projection import axis_projections

MAX_BYTES = 256 << 20  # 38000 sources of 12 parts; a million would take 7 GB, and each is made in 0.35 ms


class RecentProjections:
    """Rows of [S, 3, 2P, 2P] float32, of which those used lately are in memory."""

    def __init__(
        self,
        num_parts: np.ndarray,  # [S]
        joint_offsets: np.ndarray,  # [S + 1]
        joint_parts: np.ndarray,  # [J, 2]
        joint_coordinates: np.ndarray,  # [J, 2, 3]
    ) -> None:
        self._num_parts, self._offsets = num_parts, joint_offsets
        self._joints = joint_parts, joint_coordinates
        self._max_parts = int(num_parts.max())
        shape = (3, 2 * self._max_parts, 2 * self._max_parts)
        self._slots = RecentSlots(len(num_parts), MAX_BYTES // (4 * int(np.prod(shape))))
        self._kept = np.zeros((self._slots.num_slots, *shape), np.float32)  # pages that are not filled cost nothing

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process go the joints; it keeps what it is asked for itself."""
        return RecentProjections, (self._num_parts, self._offsets, *self._joints)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """[M, 3, 2P, 2P] float32 of the sources `rows` [M]: the caller's own."""
        missing = self._slots.missing(rows)
        if len(missing):
            unique, inverse = np.unique(rows, return_inverse=True)
            if len(unique) > self._slots.num_slots:  # past the cache, which would only lose what it has
                return self._make(unique)[inverse]
            made = self._make(missing)
            self._kept[self._slots.hold(missing)] = made
        return self._kept[self._slots.slots_of(rows)]

    def _make(self, rows: np.ndarray) -> np.ndarray:
        result = np.empty((len(rows), *self._kept.shape[1:]), np.float32)
        for place, row in enumerate(rows):
            own = slice(self._offsets[row], self._offsets[row + 1])
            parts, coordinates = (values[own] for values in self._joints)
            result[place] = axis_projections(parts, coordinates, int(self._num_parts[row]), pad_to=self._max_parts)
        return result
