"""What 10^4, 10^5 and 10^6 sources take in memory, messages and time: the tables of docs/scaling.md.

    python benchmarks/scaling.py docs/results/benchmarks/bank.csv docs/results/steps.csv [--document docs/scaling.md]
        [--workers W] [--shards N] [--step-ms MS] ...

Bytes are counted by the functions that the dry run uses, for default settings and 8 parts a source. Times of a step are
those of step_model.py, with the rates that step_measure.py's file gives; the scan, encoding and disks have their speed
from the records that bank.py left. What was neither counted nor measured is an assumption with a flag of its own;
nothing here was run on several machines or accelerators. The second table names what comes first on top of the compute
as workers and sources grow, with the number of shards, a power of two, that makes the step shortest.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

from records import read_rows
from step_measure import fitted
from step_measure import read as read_steps
from step_model import STAGES, Cluster, Rates, Shape, bottleneck, ring_bytes, stages, step_seconds

from jr_dist.atomic import atomic_write
from jr_dist.bank.layout import BLOCK_SIZE, cut, shard_bytes
from jr_dist.config import load_config
from jr_dist.train.dry_run import POINT_BYTES, bank_file_bytes, code_bytes, proposal_bytes, trained_parameters
from jr_dist.train.state import bank_layout, build_networks, row_optimiser

SIZES = (10_000, 100_000, 1_000_000)
MORE_SIZES, WORKERS = (1_000, *SIZES), (1, 2, 4, 8, 16, 32, 64)
NUM_PARTS, MOST_PARTS, NUM_POINTS = 8, 16, 2048
SCAN_SOURCES = 100_000  # of the record that the scan's speed is taken from
DEVICE_CACHE = 2 << 30  # as `DeviceGeometry` has it
REFRESH_SHARE = 0.1  # of the time that refreshing the cached embedding may take


def _assumption(default: float, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Assumed:
    """A cluster that nobody has measured."""

    workers: int = _assumption(16, "W")
    shards: int = _assumption(16, "N, at most one a block of sources")
    shard_threads: int = _assumption(4, "threads of a shard; the scan is taken to be as many times faster")
    step_ms: float = _assumption(200.0, "a step of a worker on its accelerator, without any waiting")
    jitter: float = _assumption(0.03, "standard deviation of that time between workers, as a share of it")
    lookahead: int = _assumption(1, "bank.lookahead")
    refresh_steps: int = _assumption(50, "steps between two refreshes of the cached embedding")
    network_mb_s: float = _assumption(1000.0, "of each machine, each way; one worker and one shard are on it")
    latency_ms: float = _assumption(1.0, "of a message, one way")
    disk_mb_s: float = _assumption(2000.0, "of the shared file system, for all shards together")
    encoder_speedup: float = _assumption(100.0, "an accelerator's, against the processor thread that was measured")
    failures_a_day: float = _assumption(1.0, "of the whole run")
    restart_s: float = _assumption(120.0, "until all processes are up again, without reading the checkpoint")
    checkpoint_minutes: float = _assumption(30.0, "between two checkpoints")


@dataclass(frozen=True)
class Measured:
    """One thread, or one process, of the machine that bank.py ran on, and of the one that step_measure.py did."""

    scan_ms: float  # 16 targets, 100,000 sources
    scan_growth: float  # its time at 1,000,000 over that
    encode_ms: float  # a source
    save_mb_s: float
    load_mb_s: float
    rates: Rates

    def rates_at(self, num_sources: float, jitter: float) -> Rates:
        """The rates with the scan as it was measured: slower where a shard outgrows the caches."""
        growth = max(self.scan_growth / 10, 1.0) if num_sources > SCAN_SOURCES else 1.0
        scan_ns = self.scan_ms * 1e6 / (SCAN_SOURCES * Shape().embedding) * growth
        return replace(self.rates, scan_ns=scan_ns, jitter=jitter)


def run_of(measured: Measured, assumed: Assumed, num_sources: int, workers: int, shards: int) -> tuple[Any, ...]:
    """Shape, rates and cluster of a run of default settings, as step_model.py has them."""
    config = load_config(None, {"data.path": "-", "run.path": "-"})
    dense = sum(parameter.nbytes for parameter in trained_parameters(build_networks(config), "ours"))
    shape = Shape(
        workers=workers, shards=shards, sources=num_sources, parts=NUM_PARTS, dense_bytes=dense,
        batch=config.train.batch_size, candidates=config.retrieval.num_candidates,
        global_code=config.model.global_code, part_code=config.model.part_code, embedding=config.retrieval.embedding,
        refresh_steps=assumed.refresh_steps, lookahead=assumed.lookahead,
    )  # fmt: skip
    cluster = Cluster(
        shard_threads=assumed.shard_threads,
        compute_ms=assumed.step_ms,
        encode_ms=measured.encode_ms / assumed.encoder_speedup,
        network_mb_s=assumed.network_mb_s,
        latency_ms=assumed.latency_ms,
    )
    return shape, measured.rates_at(num_sources / shards, assumed.jitter), cluster


def table(measured: Measured, assumed: Assumed) -> dict[str, list[str]]:
    """The lines of the table, a column for each of `SIZES`."""
    columns = [_column(num_sources, measured, assumed) for num_sources in SIZES]
    return {name: [column[name] for column in columns] for name in columns[0]}


def _column(num_sources: int, measured: Measured, assumed: Assumed) -> dict[str, str]:
    config = load_config(None, {"data.path": "-", "run.path": "-"})
    layout, rule = bank_layout(config, (NUM_PARTS,) * num_sources), row_optimiser(config)
    batch, k = config.train.batch_size, config.retrieval.num_candidates
    num_shards = min(assumed.shards, layout.num_blocks)
    shard = max(shard_bytes(layout, blocks, rule.num_slots) for blocks in cut(layout, num_shards))
    asked = proposal_bytes(layout, num_shards, batch, k)
    codes = 2 * code_bytes(layout, min(batch * k, num_sources))

    shape, rates, cluster = run_of(measured, assumed, num_sources, assumed.workers, num_shards)
    seconds = stages(shape, rates, cluster)
    reduced, step_s = ring_bytes(shape.dense_bytes, assumed.workers), sum(seconds.values())
    scan_s = assumed.workers * shape.scanned / cluster.shard_threads * rates.scan_ns / 1e9
    refresh_s, other_s = seconds["refresh"] * shape.refresh_steps, step_s - seconds["refresh"]

    written = bank_file_bytes(layout, rule) + 3 * shape.dense_bytes
    disk = assumed.disk_mb_s * 1e6
    save_s, load_s = (
        max(written / disk, written / num_shards / (speed * 1e6)) for speed in (measured.save_mb_s, measured.load_mb_s)
    )
    lost_s = assumed.checkpoint_minutes * 30 + assumed.restart_s + load_s
    wasted = save_s / (assumed.checkpoint_minutes * 60) + lost_s * assumed.failures_a_day / 86400
    best = math.sqrt(2 * save_s * 86400 / assumed.failures_a_day)  # Young 1974
    return {
        "bank, all shards": _gb(shard_bytes(layout, range(layout.num_blocks), rule.num_slots)),
        f"a shard, of {assumed.shards}": _gb(shard),
        "points, a machine, mapped above 4 GB": _gb(num_sources * NUM_POINTS * POINT_BYTES),
        "boxes, joints, ids, a worker": _gb(num_sources * _source_bytes()),
        "sources that an accelerator keeps": f"{min(num_sources, DEVICE_CACHE // _device_bytes()):,}",
        "a worker and shards, a step": f"{(asked + codes) / 1e6:.2f} MB",
        "a shard and workers, a step": f"{(asked + codes) * assumed.workers / num_shards / 1e6:.2f} MB",
        "dense gradients, a worker and step": f"{reduced / 1e6:.1f} MB",
        "scan, a shard and step": f"{scan_s * 1e3:.1f} ms",
        **{f"{name}, seen in a step": f"{seconds[name] * 1e3:.1f} ms" for name in STAGES if name != "compute"},
        "a step, and its share that computes": f"{step_s * 1e3:.0f} ms, {seconds['compute'] / step_s:.0%}",
        "shards for a scan as long as the compute": f"{math.ceil(num_shards * scan_s / seconds['compute'])}",
        "refresh of the embedding": f"{refresh_s:.2f} s",
        f"`refresh_steps` for {REFRESH_SHARE:.0%} of the time": f"{math.ceil(refresh_s / REFRESH_SHARE / other_s)}",
        "checkpoint": f"{_gb(written)}, {layout.num_blocks + 4} files",
        "writing it, reading it": f"{save_s:.1f} s, {load_s:.1f} s",
        "lost by a failure": f"{lost_s / 60:.1f} min",
        "time spent on both": f"{wasted:.1%}",
        "best minutes between checkpoints": f"{best / 60:.0f}",
    }


def first_bottlenecks(measured: Measured, assumed: Assumed) -> dict[int, list[str]]:
    """For each of `WORKERS` and `MORE_SIZES`: the share of a step that computes, what adds most to it, and N."""
    found: dict[int, list[str]] = {}
    for workers in WORKERS:
        for num_sources in MORE_SIZES:
            shards = [2**power for power in range(8) if 2**power <= max(num_sources // BLOCK_SIZE, 1)]
            runs = [run_of(measured, assumed, num_sources, workers, number) for number in shards]
            run = min(runs, key=lambda own: step_seconds(*own))
            seconds = stages(*run)
            first, share = bottleneck(seconds), seconds["compute"] / sum(seconds.values())
            found.setdefault(workers, []).append(
                f"{share:.0%}: {first} {seconds[first] * 1e3:.3g} ms, N {run[0].shards}"
            )
    return found


def _source_bytes() -> int:
    """What a worker holds of a source besides its points: padded boxes, joints (as many as parts), id, places."""
    return MOST_PARTS * 24 + NUM_PARTS * 32 + 100


def _device_bytes() -> int:
    """A source in `DeviceGeometry`: two clouds, parts as int64, boxes, mask, three projections."""
    return NUM_POINTS * 32 + MOST_PARTS * 25 + 3 * (2 * MOST_PARTS) ** 2 * 4


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2g} GB"


def read(bank: Path, steps: Path) -> Measured:
    """The records that are needed, of what `bank.py --csv` wrote, and the rates of what `step_measure.py` wrote."""
    values = {row.record.name: row.record.value for row in read_rows(bank)}
    return Measured(
        scan_ms=values["bank.propose_vs_naive_100k"],
        scan_growth=values["bank.propose_1m_over_100k"],
        encode_ms=values["bank.encode"],
        save_mb_s=values["bank.save"],
        load_mb_s=values["bank.load"],
        rates=fitted(*read_steps(steps)),
    )


def main() -> None:
    """Print the inputs and the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, help="what bank.py --csv wrote")
    parser.add_argument("steps", type=Path, help="what step_measure.py --csv wrote")
    parser.add_argument("--document", type=Path, metavar="FILE", help="put the tables in the place of those it has")
    for assumption in fields(Assumed):
        flag, default = "--" + assumption.name.replace("_", "-"), assumption.default
        meaning = f"{assumption.metadata['meaning']} [{default:g}]"
        parser.add_argument(flag, type=type(default), default=default, metavar="X", help=meaning)
    options = vars(parser.parse_args())
    measured, document = read(options.pop("records"), options.pop("steps")), options.pop("document")
    assumed = Assumed(**options)
    for title, values in (("measured", measured), ("fitted", measured.rates), ("assumed", assumed)):
        numbers = {each.name: getattr(values, each.name) for each in fields(values) if each.name != "rates"}
        print(f"{title}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()) + "\n")
    print("\n".join(tables(measured, assumed)))
    if document is not None:
        atomic_write(document, placed(document.read_text(), tables(measured, assumed)))


def placed(text: str, lines: Sequence[str]) -> str:
    """The text with each table of `lines` in the place of the one with the same heading."""
    for table in "\n".join(lines).split("\n\n"):
        heading = table.partition("\n")[0]
        before, found, behind = text.partition(heading + "\n")
        if not found:
            raise ValueError(f"no table with the heading {heading}")
        rest = behind.splitlines(keepends=True)
        text = before + table + "\n" + "".join(dropwhile(lambda line: line.startswith("|"), rest))
    return text


def tables(measured: Measured, assumed: Assumed) -> list[str]:
    """Both, a line each."""
    sizes = [f"{size:,} sources" for size in MORE_SIZES]
    of_workers = _lines("workers", sizes, first_bottlenecks(measured, assumed))
    return [*_lines("sources", SIZES, table(measured, assumed)), "", *of_workers]


def _lines(corner: str, heads: Sequence[Any], lines: Mapping[Any, Sequence[str]]) -> list[str]:
    shown = [f"{head:,}" if isinstance(head, int) else head for head in heads]
    found = [f"| {corner} | " + " | ".join(shown) + " |", "|---" + "|---" * len(shown) + "|"]
    return [*found, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in lines.items())]


if __name__ == "__main__":
    main()
