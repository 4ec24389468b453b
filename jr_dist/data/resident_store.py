"""A source store for an evaluation on a GPU, which meets all sources with every target: they stay on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from jr_dist.data.device_geometry import DeviceGeometry
from jr_dist.data.source_store import SourceStore
from jr_dist.geometry.part_geometry import PartGeometry


class ResidentStore:
    """Answers as `store` does; geometry asked for on `device` comes from what is kept there, if it fits."""

    def __init__(self, store: SourceStore, device: torch.device | str, *, num_points: int) -> None:
        self.ids, self.joints = store.ids, store.joints
        self._store, self._device, self._num_points = store, torch.device(device), num_points

    @cached_property
    def _kept(self) -> DeviceGeometry:
        return DeviceGeometry(self._store, self._device, num_points=self._num_points)

    def geometry(
        self,
        rows: np.ndarray | Sequence[int] | Tensor,
        device: torch.device | str = "cpu",
        num_points: int | None = None,
    ) -> PartGeometry:
        """As `SourceStore.geometry`."""
        if torch.device(device).type != self._device.type or num_points is None or num_points > self._num_points:
            return self._store.geometry(rows, device, num_points)
        whole = self._kept.geometry(rows)
        prefix = {name: getattr(whole, name)[:, :num_points] for name in ("points", "canonical", "part_index")}
        return replace(whole, **prefix)

    def clouds(self, rows: np.ndarray | Sequence[int] | Tensor, num_points: int | None = None) -> Tensor:
        """As `SourceStore.clouds`, on the device."""
        return self.geometry(rows, self._device, num_points).points
