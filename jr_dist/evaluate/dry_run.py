"""What measuring would take: counts of targets, sources and runs, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jr_dist.data.dataset import Dataset, count_rows
from jr_dist.estimates import MB, MEASURED, measuring_seconds, shared_by
from jr_dist.placement import Ask, Node, of_measuring, room
from jr_dist.plan import Amounts, Plan

BLOCK_BYTES = 16  # a pair of a target and a source in the blocks that a rerun keeps


@dataclass(frozen=True)
class MeasuringWork:
    """How runs are to be measured."""

    num_runs: int
    split: str
    num_points: int
    protocols: tuple[str, ...]
    ido: bool
    num_workers: int
    num_gpus: float

    def asks(self, nodes: Sequence[Node]) -> tuple[Ask, ...]:
        """Of a cluster."""
        return (of_measuring(self.num_workers, self.num_gpus),) if self.num_workers else ()

    def seconds(self, dataset: Dataset, nodes: Sequence[Node]) -> float:
        """On a cluster of these nodes, or in this process."""
        asks = self.asks(nodes)
        at_once = min(self.num_workers, max(1, room(nodes, asks[0]))) if asks else 1
        rows = self.num_runs * len(self.protocols)
        targets, sources = count_rows(dataset, self.split), count_rows(dataset, "sources")
        return shared_by(measuring_seconds(targets, sources, self.num_points, rows, ido=self.ido), at_once)


def plan_measuring(verb: str, work: MeasuringWork, dataset: Dataset, end: tuple[str, ...]) -> Plan:
    """The plan of measuring runs on a dataset."""
    targets, sources = count_rows(dataset, work.split), count_rows(dataset, "sources")
    rows = work.num_runs * len(work.protocols)
    process, points = MEASURED.process_mb * MB, 14.0 * dataset.num_points * sources
    actors = [(f"{work.num_workers} actors", work.num_workers * process), ("Ray", MEASURED.ray_mb * MB)]

    def seconds(nodes: Sequence[Node]) -> Amounts:
        start = MEASURED.ray_start_s if work.num_workers else 0.0
        note = "with IDO" if work.ido else "without IDO"
        return Amounts((("start", start), ("measuring", work.seconds(dataset, nodes))), note)

    return Plan(
        verb=verb,
        lines=(
            ("runs", f"{work.num_runs}, {len(work.protocols)} protocol(s) each"),
            ("pairs", f"{targets} targets x {sources} sources"),
        ),
        asks=work.asks,
        memory=Amounts((("this process", process), ("sources", points), *(actors if work.num_workers else []))),
        disk=Amounts(
            (("blocks", float(BLOCK_BYTES * targets * sources * rows)), ("report and tables", MEASURED.report_mb * MB))
        ),
        seconds=seconds,
        end=end,
        subject="the actors that measure",
        remedy="lower num_gpus, add machines, or set num_workers 0",
    )
