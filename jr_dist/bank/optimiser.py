"""Sparse optimisers: only the rows a step touched move, with their own momentum and their own step count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RowOptimiser:
    """Which update rule the rows follow. `name` is "adam" (Kingma & Ba 2015) or "sgd" (momentum as in torch)."""

    name: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    @property
    def num_slots(self) -> int:
        """Arrays of a table's size that it keeps."""
        return 1 if self.name == "sgd" else 2

    def slots(self, table: np.ndarray) -> dict[str, np.ndarray]:
        """Fresh optimiser state of a table [R, W]: arrays with R rows."""
        if self.name == "sgd":
            return {"momentum": np.zeros_like(table)}
        return {
            "mean": np.zeros_like(table),
            "square": np.zeros_like(table),
            "count": np.zeros((len(table), 1), np.float32),
        }

    def update(
        self,
        table: np.ndarray,
        slots: dict[str, np.ndarray],
        rows: np.ndarray,
        gradient: np.ndarray,
        rate: float,
    ) -> None:
        """Move `rows` (unique) of `table` in place by `gradient` [len(rows), W]; no other row changes a bit."""
        if self.weight_decay:
            gradient = gradient + np.float32(self.weight_decay) * table[rows]
        step = self._sgd(slots, rows, gradient) if self.name == "sgd" else self._adam(slots, rows, gradient)
        table[rows] -= np.float32(rate) * step

    def _sgd(self, slots: dict[str, np.ndarray], rows: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        slots["momentum"][rows] = np.float32(self.momentum) * slots["momentum"][rows] + gradient
        return slots["momentum"][rows]

    def _adam(self, slots: dict[str, np.ndarray], rows: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        first, second = (np.float32(beta) for beta in self.betas)
        slots["count"][rows] += 1
        slots["mean"][rows] = first * slots["mean"][rows] + (1 - first) * gradient
        slots["square"][rows] = second * slots["square"][rows] + (1 - second) * gradient * gradient
        count = slots["count"][rows]
        mean = slots["mean"][rows] / (1 - first**count)
        square = slots["square"][rows] / (1 - second**count)
        return (mean / (np.sqrt(square) + np.float32(self.epsilon))).astype(np.float32)
