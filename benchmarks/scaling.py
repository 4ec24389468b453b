"""What 10^4, 10^5 and 10^6 sources take in memory, messages and time: the tables of docs/scaling.md.

    python benchmarks/bank.py --json bank.json
    python benchmarks/scaling.py bank.json [--workers W] [--shards N] [--step-ms MS] ...

Bytes are counted by the functions that the dry run uses, for default settings and 8 parts a source. Speeds are those of
the records in bank.json. What was neither counted nor measured is an assumption with a flag of its own; nothing here
was run on several machines or accelerators.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from jr_dist.bank.layout import cut, shard_bytes
from jr_dist.config import load_config
from jr_dist.train.dry_run import POINT_BYTES, bank_file_bytes, code_bytes, proposal_bytes, trained_parameters
from jr_dist.train.state import bank_layout, build_networks, row_optimiser

SIZES = (10_000, 100_000, 1_000_000)
NUM_PARTS, MOST_PARTS, NUM_POINTS = 8, 16, 2048
SCAN_TARGETS, SCAN_SOURCES = 16, 100_000  # of the record that the scan's speed is taken from
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
    network_mb_s: float = _assumption(1000.0, "of each machine, each way; one worker and one shard are on it")
    latency_ms: float = _assumption(1.0, "of a message, one way")
    disk_mb_s: float = _assumption(2000.0, "of the shared file system, for all shards together")
    encoder_speedup: float = _assumption(100.0, "an accelerator's, against the processor thread that was measured")
    failures_a_day: float = _assumption(1.0, "of the whole run")
    restart_s: float = _assumption(120.0, "until all processes are up again, without reading the checkpoint")
    checkpoint_minutes: float = _assumption(30.0, "between two checkpoints")


@dataclass(frozen=True)
class Measured:
    """One thread, or one process, of the machine that bank.py ran on."""

    scan_ms: float  # 16 targets, 100,000 sources
    scan_growth: float  # its time at 1,000,000 over that
    encode_ms: float  # a source
    save_mb_s: float
    load_mb_s: float

    def scan_seconds(self, num_sources: float) -> float:
        """16 targets against so many sources, by one thread."""
        growth = max(self.scan_growth / 10, 1.0) if num_sources > SCAN_SOURCES else 1.0
        return self.scan_ms / 1e3 * num_sources / SCAN_SOURCES * growth


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
    dense = sum(parameter.nbytes for parameter in trained_parameters(build_networks(config), "ours"))
    reduced = 2 * (assumed.workers - 1) / assumed.workers * dense  # what a ring sends from each

    asked = proposal_bytes(layout, num_shards, batch, k)
    codes = 2 * code_bytes(layout, min(batch * k, num_sources))
    network = assumed.network_mb_s * 1e6
    # proposals, pull and push wait for a message there and back; a ring takes 2 (W - 1) messages in turn
    codes_s = (asked + codes) / network + 6 * assumed.latency_ms / 1e3
    reduced_s = reduced / network + 2 * (assumed.workers - 1) * assumed.latency_ms / 1e3
    shard_s = (asked + codes) * assumed.workers / num_shards / network

    step_s = assumed.step_ms / 1e3
    groups = assumed.workers * math.ceil(batch / SCAN_TARGETS)
    scan_s = groups * measured.scan_seconds(num_sources / num_shards) / assumed.shard_threads
    enough = groups * measured.scan_seconds(num_sources) / assumed.shard_threads / step_s
    refresh_s = num_sources * measured.encode_ms / 1e3 / assumed.encoder_speedup / assumed.workers

    written = bank_file_bytes(layout, rule) + 3 * dense
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
        "a worker and shards, a step": f"{(asked + codes) / 1e6:.2f} MB, {codes_s * 1e3:.1f} ms",
        "a shard and workers, a step": f"{(asked + codes) * assumed.workers / num_shards / 1e6:.2f} MB, "
        f"{shard_s * 1e3:.1f} ms",
        "dense gradients, a worker and step": f"{reduced / 1e6:.1f} MB, {reduced_s * 1e3:.0f} ms",
        "scan, a shard and step": f"{scan_s * 1e3:.1f} ms",
        "scan that lookahead leaves visible": f"{max(scan_s - step_s, 0) * 1e3:.0f} ms",
        "shards for a scan as long as a step": f"{math.ceil(enough)}",
        "refresh of the embedding": f"{refresh_s:.2f} s",
        f"`refresh_steps` for {REFRESH_SHARE:.0%} of the time": f"{math.ceil(refresh_s / REFRESH_SHARE / step_s)}",
        "checkpoint": f"{_gb(written)}, {layout.num_blocks + 4} files",
        "writing it, reading it": f"{save_s:.1f} s, {load_s:.1f} s",
        "lost by a failure": f"{lost_s / 60:.1f} min",
        "time spent on both": f"{wasted:.1%}",
        "best minutes between checkpoints": f"{best / 60:.0f}",
    }


def _source_bytes() -> int:
    """What a worker holds of a source besides its points: padded boxes, joints (as many as parts), id, places."""
    return MOST_PARTS * 24 + NUM_PARTS * 32 + 100


def _device_bytes() -> int:
    """A source in `DeviceGeometry`: two clouds, parts as int64, boxes, mask, three projections."""
    return NUM_POINTS * 32 + MOST_PARTS * 25 + 3 * (2 * MOST_PARTS) ** 2 * 4


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2g} GB"


def read(path: Path) -> Measured:
    """The records that are needed, of what `bank.py --json` wrote."""
    values = {record["name"]: record["value"] for record in json.loads(path.read_text())}
    return Measured(
        scan_ms=values["bank.propose_vs_naive_100k"],
        scan_growth=values["bank.propose_1m_over_100k"],
        encode_ms=values["bank.encode"],
        save_mb_s=values["bank.save"],
        load_mb_s=values["bank.load"],
    )


def main() -> None:
    """Print the inputs and the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, help="what bank.py --json wrote")
    for assumption in fields(Assumed):
        flag, default = "--" + assumption.name.replace("_", "-"), assumption.default
        meaning = f"{assumption.metadata['meaning']} [{default:g}]"
        parser.add_argument(flag, type=type(default), default=default, metavar="X", help=meaning)
    options = vars(parser.parse_args())
    measured = read(options.pop("records"))
    assumed = Assumed(**options)
    for title, values in (("measured", measured), ("assumed", assumed)):
        print(f"{title}: " + ", ".join(f"{f.name} {getattr(values, f.name):.4g}" for f in fields(values)) + "\n")
    print("| sources | " + " | ".join(f"{size:,}" for size in SIZES) + " |\n|---" + "|---" * len(SIZES) + "|")
    for name, cells in table(measured, assumed).items():
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
