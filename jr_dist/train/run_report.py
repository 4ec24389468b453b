"""What a run cost and survived: `run-report.json` and `run-report.md`, from what the run wrote about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jr_dist.atomic import atomic_write
from jr_dist.locations import AnyPath, as_path
from jr_dist.progress import duration
from jr_dist.train.journal import OF_STAGES, SECONDS, START, read_metrics
from jr_dist.train.run_directory import STARTS
from jr_dist.train.stages import STAGES

JSON, MARKDOWN = "run-report.json", "run-report.md"


@dataclass(frozen=True)
class Resources:
    """What a run had while it trained."""

    num_workers: int
    num_gpus: float
    num_cpus: float  # asked of Ray, or the one process without it
    spilled_bytes: int | None  # by all objects of the cluster since it started; None = Ray doesn't say, or wasn't used


@dataclass(frozen=True)
class Start:
    """One start of a run."""

    number: int
    time: str
    host: str
    reason: str
    seconds: float  # until its last validation, or its end; what a failed start did behind that is not known
    stages: Mapping[str, float]  # of rank 0


@dataclass(frozen=True)
class RunReport:
    """Where the time of a run went, over all its starts."""

    title: str
    run: str
    steps: int  # of the last line of metrics
    seconds: float
    stages: Mapping[str, float]
    failures: int  # starts that failed and were gone on from
    starts: tuple[Start, ...]
    resources: Resources
    validation: Mapping[str, Any]  # the last

    @property
    def gpu_hours(self) -> float:
        """GPUs held, times hours counted."""
        return self.seconds / 3600 * self.resources.num_gpus

    @property
    def cpu_hours(self) -> float:
        """Processors asked for, times hours counted."""
        return self.seconds / 3600 * self.resources.num_cpus


def run_report(run: AnyPath, title: str, resources: Resources) -> RunReport:
    """The report of a run directory, finished or not."""
    last_of: dict[int, dict[str, Any]] = {}
    validation: dict[str, Any] = {}
    steps = 0
    for entry in read_metrics(run):
        steps = max(steps, entry["step"] + 1)
        if OF_STAGES in entry:
            last_of[entry[START]] = entry
        if entry["part"] == "val":
            validation = {name: value for name, value in entry.items() if name not in (SECONDS, START, OF_STAGES)}
    starts = []
    for path in sorted((run / STARTS).glob("[0-9]*.json"), key=lambda path: path.name):
        note, number = _note(path), int(path.stem)
        last = last_of.get(number, {})
        known = {name: note.get(name, "not known: the note was cut short") for name in ("time", "host", "reason")}
        starts.append(Start(number=number, seconds=last.get(SECONDS, 0.0), stages=last.get(OF_STAGES, {}), **known))
    return RunReport(
        title=title,
        run=str(run),
        steps=steps,
        seconds=sum(start.seconds for start in starts),
        stages={name: sum(start.stages.get(name, 0.0) for start in starts) for name in STAGES},
        failures=sum(" failed; " in start.reason for start in starts),
        starts=tuple(starts),
        resources=resources,
        validation=validation,
    )


def _note(path: AnyPath) -> dict[str, str]:
    """What a start noted of itself; nothing where it was killed while it wrote."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}


def write_report(report: RunReport) -> AnyPath:
    """Leave the report in the run; returns the Markdown file."""
    run = as_path(report.run)
    tree = asdict(report) | {"gpu_hours": report.gpu_hours, "cpu_hours": report.cpu_hours}
    atomic_write(run / JSON, json.dumps(tree, indent=1) + "\n")
    atomic_write(run / MARKDOWN, as_markdown(report))
    return run / MARKDOWN


def as_markdown(report: RunReport) -> str:
    """The report for people."""
    has = report.resources
    spilled = "unknown" if has.spilled_bytes is None else f"{has.spilled_bytes / 1e6:.1f} MB"
    steps = max(report.steps, 1)
    lines = [
        f"# {report.title}: what the run took",
        "",
        f"{report.steps} steps in {duration(report.seconds)}, {len(report.starts)} start(s), {report.failures} of them "
        f"after a failure; {max(has.num_workers, 1)} worker(s), {has.num_gpus:g} GPU(s), {has.num_cpus:g} processor(s) "
        f"asked for: **{report.gpu_hours:.3g} GPU-hours**, {report.cpu_hours:.3g} processor-hours. Spilled to disk by "
        f"the cluster: {spilled}.",
        "",
        "| stage | seconds | share | ms a step | |",
        "|---|---|---|---|---|",
    ]
    for name in STAGES:
        seconds = report.stages[name]
        share = seconds / report.seconds if report.seconds else 0.0
        lines.append(f"| {name} | {seconds:.1f} | {share:.1%} | {1000 * seconds / steps:.1f} | {_MEANING[name]} |")
    rest = report.seconds - sum(report.stages.values())
    lines.append(f"| rest | {rest:.1f} | {rest / report.seconds if report.seconds else 0:.1%} | | writing metrics |")
    lines += ["", "| start | began | on | why | counted |", "|---|---|---|---|---|"]
    for start in report.starts:
        why = start.reason.replace("|", "\\|")
        lines.append(f"| {start.number} | {start.time} | {start.host} | {why} | {duration(start.seconds)} |")
    lines += [
        "",
        "Seconds are rank 0's. A start is counted until its last validation or its end: what a failed one did behind "
        "that, and the time between two starts, is not in them.",
    ]
    if report.validation:
        shown = ", ".join(f"{name} {value:.5g}" for name, value in report.validation.items() if _is_number(value))
        lines += ["", f"Last validation: {shown}."]
    return "\n".join(lines) + "\n"


_MEANING = {
    "start": "dataset, networks, shards, the checkpoint it went on from",
    "data": "waiting for targets",
    "compute": "networks, chamfer, optimiser; the bank's work where it is in the same process",
    "bank": "waiting for the shards of the bank",
    "exchange": "averaging dense gradients, waiting for the slowest rank",
    "validation": "validations",
    "checkpoint": "writing checkpoints",
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
