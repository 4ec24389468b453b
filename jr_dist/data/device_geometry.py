"""Sources kept on the device: what was asked for lately is not copied there again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from jr_dist.data.recent_slots import RecentSlots
from jr_dist.data.source_store import SourceStore
from jr_dist.data.transfer import to_device
from jr_dist.geometry.part_geometry import PartGeometry


class DeviceGeometry:
    """`SourceStore.geometry` with as many sources on the device as `max_bytes` holds, the least recently used given up.

    A whole database that fits is copied once. Batches are copies of the kept rows: the caller's own.
    """

    def __init__(
        self, store: SourceStore, device: torch.device | str, *, num_points: int | None = None, max_bytes: int = 2 << 30
    ) -> None:
        self._store, self._device, self._num_points = store, torch.device(device), num_points
        one = store.geometry([0], num_points=num_points)
        row_bytes = sum(getattr(one, f.name).nbytes for f in fields(one))
        self.num_copied = 0  # sources that went to the device so far
        self._slots = RecentSlots(len(store), max_bytes // row_bytes)
        self._kept = _like(one, self.num_slots, self._device)

    @property
    def num_slots(self) -> int:
        """How many sources are kept at most."""
        return self._slots.num_slots

    def geometry(self, rows: np.ndarray | Sequence[int] | Tensor) -> PartGeometry:
        """The sources `rows` [M] as a padded batch on the device."""
        rows = self._store.check_rows(rows)
        missing = self._slots.missing(rows)
        if len(missing):
            if len(np.unique(rows)) > self.num_slots:  # past the cache, which would only lose what it has
                self.num_copied += len(rows)
                return self._store.geometry(rows, self._device, self._num_points)
            self._copy(missing)
        return self._kept.take(to_device(torch.from_numpy(self._slots.slots_of(rows)), self._device))

    def _copy(self, rows: np.ndarray) -> None:
        self.num_copied += len(rows)
        batch = self._store.geometry(rows, self._device, self._num_points)
        index = torch.from_numpy(self._slots.hold(rows)).to(self._device)
        for f in fields(batch):
            getattr(self._kept, f.name)[index] = getattr(batch, f.name)


def _like(one: PartGeometry, num_rows: int, device: torch.device) -> PartGeometry:
    def empty(example: Tensor) -> Tensor:
        return torch.zeros((num_rows, *example.shape[1:]), dtype=example.dtype, device=device)

    return PartGeometry(**{f.name: empty(getattr(one, f.name)) for f in fields(one)})
