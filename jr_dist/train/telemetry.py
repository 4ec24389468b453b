"""What a cluster's dashboards see of training: metrics of Ray's metrics API, which each node offers to Prometheus.

docs/operations.md lists them. Without Ray's agents (the extra `cluster`) they go nowhere and cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from jr_dist.train.state import TrainState

#: seconds; a step takes from some hundredths on a GPU to some seconds on a laptop
STEP_BOUNDARIES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]


@cache
def _train_metrics() -> dict[str, Any]:
    # One of each name a process: Ray warns where a metric is made twice.
    tags = ("run", "method", "rank")
    return {
        "steps": Counter("jr_train_steps", "Steps done", tags),
        "step": Gauge("jr_train_step", "The step that was done last", tags),
        "step_seconds": Histogram("jr_train_step_seconds", "Seconds of a step, waits included", STEP_BOUNDARIES, tags),
        "stage_seconds": Counter("jr_train_stage_seconds", "Seconds of steps by stage", (*tags, "stage")),
        "rows": Counter("jr_bank_rows", "Sources whose codes were pulled or pushed", (*tags, "direction")),
        "loss": Gauge("jr_train_loss", "Losses of the last step, and its mean L_fit", (*tags, "loss")),
        "effective": Gauge("jr_train_effective", "Effective numbers, exp(entropy), of P_R and of p_fit", (*tags, "of")),
        "validation": Gauge("jr_train_validation_chamfer_x100", "Chamfer x100 of the last validation", tags),
    }


class TrainTelemetry:
    """A `Watch` of the training loop that passes on what it sees."""

    def __init__(self, run: str, method: str, rank: int) -> None:
        self._tags = {"run": run, "method": method, "rank": str(rank)}
        self._metrics = _train_metrics()
        self._rows = {"pulled": 0, "pushed": 0}

    def step(self, state: TrainState, logged: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """Count a step, its seconds, its codes and its losses."""
        metrics, tags = self._metrics, self._tags
        metrics["steps"].inc(1, tags=tags)
        metrics["step"].set(state.step, tags=tags)
        metrics["step_seconds"].observe(sum(seconds.values()), tags=tags)
        for stage, value in seconds.items():
            if value > 0:
                metrics["stage_seconds"].inc(value, tags={**tags, "stage": stage})
        for direction, rows in (("pulled", state.bank.rows_pulled), ("pushed", state.bank.rows_pushed)):
            if rows > self._rows[direction]:
                metrics["rows"].inc(rows - self._rows[direction], tags={**tags, "direction": direction})
                self._rows[direction] = rows
        for name, value in logged.items():
            if name == "fit" or name.startswith("loss_"):
                metrics["loss"].set(value, tags={**tags, "loss": name})
            elif name in ("effective_candidates", "effective_fit"):
                metrics["effective"].set(value, tags={**tags, "of": name.removeprefix("effective_")})

    def validation(self, state: TrainState) -> None:
        """Note the chamfer."""
        self._metrics["validation"].set(state.validation["chamfer_x100"], tags=self._tags)
