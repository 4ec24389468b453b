"""Which of many rows lie in a limited number of slots: those used lately, the least recently used given up."""

from __future__ import annotations

import numpy as np


class RecentSlots:
    """Places of `num_rows` rows in `num_slots` slots of a cache; what lies in the slots is the caller's business."""

    def __init__(self, num_rows: int, num_slots: int) -> None:
        self.num_slots = min(num_rows, num_slots)
        self._slot_of = np.full(num_rows, -1, np.int32)
        self._row_in = np.full(self.num_slots, -1)
        self._used = np.zeros(self.num_slots, np.int64)  # when, counted in calls of `missing`
        self._calls = 0

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` [M] that no slot holds, each once; the others count as used now."""
        self._calls += 1
        slots = self._slot_of[rows]
        held = slots >= 0
        if held.all():
            self._used[slots] = self._calls
            return rows[:0]
        self._used[slots[held]] = self._calls
        return np.unique(rows[~held])

    def hold(self, rows: np.ndarray) -> np.ndarray:
        """[U] int64 slots for the rows that were `missing`, to be filled by the caller before it asks for `slots_of`.

        The rows that were asked for with them keep theirs: all together must be at most `num_slots`.
        """
        slots = np.argpartition(self._used, len(rows) - 1)[: len(rows)]
        given_up = self._row_in[slots]
        self._slot_of[given_up[given_up >= 0]] = -1
        self._slot_of[rows], self._row_in[slots], self._used[slots] = slots, rows, self._calls
        return slots

    def slots_of(self, rows: np.ndarray) -> np.ndarray:
        """[M] int64 slots of rows [M] that are held."""
        return self._slot_of[rows].astype(np.int64)
