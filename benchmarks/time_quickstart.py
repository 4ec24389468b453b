"""What `make quickstart` takes, by stage, of this clone or another one; for a figure before a change and behind it.

    make time-quickstart LABEL=before CLONE=../older
    make time-quickstart LABEL=after
    python benchmarks/time_quickstart.py --label after [--clone FOLDER] [--quick] [--csv FILE]

Runs `python -m jr_dist.quickstart` of the clone in an empty folder, with this Python and as many threads as it takes,
and notes when it says that a stage begins and ends: wall seconds, so nothing else may run. --quick makes a dataset of a
few shapes and trains for two epochs: that it works, not what it takes. Kernels must have been compiled: the first run
of a clone is another 30 seconds slower, so it runs once with --quick before it counts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from records import ROOT, Record, Row, commit_of, origin, write_rows

SMALL = ["--num-sources", "12", "--num-targets", "30", "--train.epochs", "2", "--train.warmup_epochs", "1"]
SMALL += ["--train.validate_every", "2", "--train.checkpoint_every", "2"]


def stages(lines: Iterable[str]) -> dict[str, float]:
    """Seconds of each stage by when its lines come: `== NAME` and, at its end, `== NAME: duration`."""
    started: dict[str, float] = {}
    found: dict[str, float] = {}
    for line in lines:
        if not line.startswith("== "):
            continue
        name, ended, _ = line[3:].strip().partition(": ")
        if ended:
            found[name.partition(" ")[0]] = time.perf_counter() - started[name]
        else:
            started[name] = time.perf_counter()
    return found


def run(clone: Path, words: list[str]) -> dict[str, float]:
    """Seconds of each stage and of all (`total`) of the clone's quickstart."""
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    with tempfile.TemporaryDirectory() as folder:
        where = ["--data", f"{folder}/data", "--runs", f"{folder}/runs"]
        command = [sys.executable, "-m", "jr_dist.quickstart", *where, *words]
        start = time.perf_counter()
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found = stages(process.stdout)
        if process.returncode:
            sys.exit(f"the quickstart of {clone} ended with status {process.returncode}")
    return {**found, "total": time.perf_counter() - start}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", required=True, help="goes into the records' names: quickstart.LABEL.STAGE")
    parser.add_argument("--clone", type=Path, default=ROOT, help="whose quickstart [this clone's]")
    parser.add_argument("--quick", action="store_true", help="a tiny one")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="put the records here, with commit and hardware")
    options = parser.parse_args()
    clone = options.clone.resolve()
    at_start = commit_of(clone)
    if not options.quick:
        run(clone, SMALL)
    seconds = run(clone, SMALL if options.quick else [])
    records = [Record(f"quickstart.{options.label}.{name}", value, "s", rounds=1) for name, value in seconds.items()]
    for record in records:
        print(f"{record.name:36} {record.value:8.1f} s")
    if options.csv:
        measured = origin(os.cpu_count() or 1, *at_start)
        write_rows(options.csv, [Row(record, measured) for record in records])


if __name__ == "__main__":
    main()
