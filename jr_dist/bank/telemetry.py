"""What a cluster's dashboards see of a shard: metrics of Ray's metrics API (docs/operations.md)."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge


class ShardTelemetry:
    """What a shard of the bank passes on."""

    def __init__(self, run: str, number: int) -> None:
        self._tags = {"run": run, "shard": str(number)}
        self._waiting = Gauge("jr_bank_requests_waiting", "Requests that a shard can't serve yet", ("run", "shard"))
        self._requests = Counter("jr_bank_requests", "Requests that a shard has had", ("run", "shard"))

    def came(self, num_waiting: int) -> None:
        """A request came; now `num_waiting` wait."""
        self._requests.inc(1, tags=self._tags)
        self._waiting.set(num_waiting, tags=self._tags)
