"""What rank 0 reports of a run under Ray Train, handed on as it comes: to a sweep, which may stop the run by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.train import UserCallback


class Validations(UserCallback):
    """Calls `report`, in Ray Train's controller, with the metrics of each validation."""

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report

    def after_report(self, run_context: object, metrics: list[dict[str, Any]], checkpoint: object) -> None:
        """Ray Train calls this with what all ranks reported."""
        self._report(metrics[0])
