"""What a cluster's dashboards see of the progress of any verb: metrics of Ray's metrics API (docs/operations.md)."""

from __future__ import annotations

from functools import cache

from ray.util.metrics import Gauge

from jr_dist.progress import Progress


@cache
def _progress_metrics() -> tuple[Gauge, Gauge]:
    tags = ("title",)
    return (
        Gauge("jr_progress_done", "Units of a job (targets, shapes, views) that are done", tags),
        Gauge("jr_progress_total", "Units of a job in all", tags),
    )


def show_progress(state: Progress) -> None:
    """A listener of `progress`."""
    done, total = _progress_metrics()
    done.set(state.done, tags={"title": state.title})
    total.set(state.total, tags={"title": state.title})
