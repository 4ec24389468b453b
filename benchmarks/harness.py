"""What the benchmarks share: interleaved timing, records, the command line and clouds to measure on.

Contenders take turns in every round and their ratio is taken round by round, so that a machine that slows down for a
while slows both. With one thread the clock is the processor time of the process, which on an idle machine is the time
that passes and on a busy one hardly changes. Ratios carry over to other machines; times do not.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from records import ROOT, Record, Row, commit_of, origin, write_rows

from jr_dist.atomic import atomic_write

#: of the code that is measured: it may be changed while a benchmark runs
AT_START = commit_of(ROOT)


def parser(description: str | None) -> argparse.ArgumentParser:
    """--quick, --csv FILE, --json FILE and --threads, which every benchmark here takes."""
    result = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",  # workers.py has rounds to write, not records
    )
    result.add_argument(
        "--quick", action="store_true", help="fewer pairs and rounds: a minute or so on an idle machine"
    )
    result.add_argument("--csv", type=Path, metavar="FILE", help="put the records here, with commit and hardware")
    result.add_argument("--json", type=Path, metavar="FILE", help="write the records here")
    result.add_argument("--threads", type=int, default=1, help="threads of every contender (default: 1)")
    return result


def finish(records: list[Record], path: Path | None, csv: Path | None = None) -> None:
    """Print the ratios and write the records: as JSON to `path`, into the rows of `csv` that have their names."""
    print(f"\n{'record':36} {'ours':>12}    {'ratio':>8}  peer")
    for record in records:
        ratio = "" if record.ratio is None else f"{record.ratio:.1f}x"
        print(f"{record.name:36} {record.value:12.4g} {record.unit:4}{ratio:>8}  {record.peer or ''}")
    if path:
        atomic_write(path, json.dumps([asdict(record) for record in records], indent=2) + "\n")
    if csv:
        measured = origin(torch.get_num_threads(), *AT_START)
        write_rows(csv, [Row(record, measured) for record in records])


def compared(name: str, unit: str, peer: str, ours: list[float], theirs: list[float], **more: Any) -> Record:
    """A record of two contenders' seconds or milliseconds of the same work, round by round; `more` as of `Record`."""
    times = [b / a for a, b in zip(ours, theirs, strict=True)]
    return Record(
        name, median(ours), unit, peer, median(times), low=min(times), high=max(times), rounds=len(times), **more
    )


def spread(name: str, values: list[float], unit: str) -> Record:
    """A record of a value alone, measured in some rounds."""
    return Record(name, median(values), unit, low=min(values), high=max(values), rounds=len(values))


def machine(threads: int) -> str:
    """One line saying what was measured on."""
    numbers = "1 thread, processor time" if threads == 1 else f"{threads} threads"
    return f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, {numbers}"


def interleaved(
    contenders: dict[str, Callable[[], object]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one call of each that isn't counted (unless `warm_up` is off)."""
    now = clock()
    for run in contenders.values() if warm_up else ():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            start = now()
            run()
            seconds[name].append(now() - start)
        progress(f"round {number + 1} of {rounds}")
    progress("")
    return seconds


def clock() -> Callable[[], float]:
    """Processor time for one thread, else the time that passes."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def progress(text: str) -> None:
    """One line on a terminal, overwritten by the next; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{text:40}", end="\r" if not text else "", file=sys.stderr, flush=True)


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over rounds of their time to ours."""
    return median(b / a for a, b in zip(ours, theirs, strict=True))


# ---- clouds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boxes:
    """A shape like furniture: centres and half-extents [P, 3] of its parts."""

    centre: np.ndarray
    half_extent: np.ndarray

    def moved(self, amount: float, rng: np.random.Generator) -> Boxes:
        """Each part scaled and shifted by up to `amount`, as a deformation module would."""
        scale, shift = rng.uniform(-amount, amount, (2, *self.centre.shape))
        return Boxes(self.centre + shift * self.half_extent, self.half_extent * (1 + scale))


def random_boxes(rng: np.random.Generator, num_parts: int | None = None) -> Boxes:
    """Slabs, bars and blocks, 4 to 16 unless told, in the canonical frame: centred, half-diagonal 1."""
    count = int(rng.integers(4, 17)) if num_parts is None else num_parts
    centre = rng.uniform(-0.6, 0.6, (count, 3))
    half_extent = np.exp(rng.uniform(np.log(0.02), np.log(0.6), (count, 3)))
    low, high = (centre - half_extent).min(0), (centre + half_extent).max(0)
    scale = 2 / np.linalg.norm(high - low)
    return Boxes((centre - (low + high) / 2) * scale, half_extent * scale)


def sample(boxes: Boxes, num_points: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] float32 spread evenly over the surfaces, in random order, and the part [N] of each."""
    sides = np.stack([boxes.half_extent[:, [1, 2, 0]], boxes.half_extent[:, [2, 0, 1]]]).prod(0)
    share = sides.ravel() / sides.sum()
    part, axis = np.divmod(rng.choice(share.size, num_points, p=share), 3)
    canonical = rng.uniform(-1, 1, (num_points, 3))
    canonical[np.arange(num_points), axis] = rng.choice([-1.0, 1.0], num_points)
    points = boxes.centre[part] + boxes.half_extent[part] * canonical
    return points.astype(np.float32), part


def near_pairs(num_pairs: int, num_points: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A shape and another sampling of it, each part a little moved: what training comes to."""
    rng = np.random.default_rng(seed)
    shapes = [random_boxes(rng) for _ in range(num_pairs)]
    x = [sample(shape.moved(0.05, rng), num_points, rng)[0] for shape in shapes]
    y = [sample(shape, num_points, rng)[0] for shape in shapes]
    return torch.from_numpy(np.stack(x)), torch.from_numpy(np.stack(y))


def far_pairs(num_pairs: int, num_points: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two shapes that have nothing to do with each other: what training starts from."""
    rng = np.random.default_rng(seed)
    clouds = [sample(random_boxes(rng), num_points, rng)[0] for _ in range(2 * num_pairs)]
    return torch.from_numpy(np.stack(clouds[:num_pairs])), torch.from_numpy(np.stack(clouds[num_pairs:]))
