"""What a run writes about itself: metrics.jsonl, TensorBoard, and one line now and then with the time left."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from jr_dist.locations import AnyPath
from jr_dist.log import say
from jr_dist.train.log_copies import BOARD, LogCopies
from jr_dist.train.run_directory import METRICS

SECONDS_BETWEEN_LINES = 5.0
#: in the lines of validations and of the end: which start of the run, the seconds since it began, and those by stage
START, SECONDS, OF_STAGES = "start", "seconds", "stages"
END = "end"


class Journal:
    """Logs of the rank that writes them. Use as a context manager."""

    def __init__(self, run: AnyPath, num_steps: int, first_step: int, *, title: str, start: int, began: float) -> None:
        self._copies = LogCopies(run)
        self._file = open(self._copies.folder / METRICS, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
        self._board = SummaryWriter(str(self._copies.folder / BOARD), purge_step=first_step)
        self._num_steps, self._first_step, self._title = num_steps, first_step, title
        self._started = self._last_line = 0.0  # of the first step: what starting took says nothing of the rest
        self._nearest: deque[int] = deque(maxlen=512)
        self._start, self._began = start, began

    def step(self, step: int, logged: Mapping[str, Any], *, rate: float, every: int) -> None:
        """Note a step; it is written every `every` steps and printed every few seconds."""
        self._nearest.extend(int(row) for row in logged["nearest"] if row >= 0)
        values = {name: value for name, value in logged.items() if name != "nearest"}
        values["learning_rate"] = rate
        if self._nearest:
            values["distinct_recent"] = len(set(self._nearest))
        if step % every == 0:
            self._write("train", step, values, None)
        now = time.monotonic()
        if not self._started:
            self._started = self._last_line = now
            self._first_step = step + 1
        if now - self._last_line >= SECONDS_BETWEEN_LINES or step + 1 == self._num_steps:
            self._last_line = now
            say(self._line(step, values, now), fields={**self._who("train"), "step": step + 1, **values})

    def validation(self, step: int, values: Mapping[str, Any], stages: Mapping[str, float]) -> None:
        """Note a validation, and the seconds by stage until then."""
        self._write("val", step, values, stages)
        shown = " ".join(f"{name} {_short(value)}" for name, value in values.items())
        line = f"{self._title} step {step + 1}/{self._num_steps} validation {shown}"
        say(line, fields={**self._who("validation"), "step": step + 1, **values})

    def end(self, step: int, stages: Mapping[str, float]) -> None:
        """Note that this start of the run has come to its end behind `step`, trained to the last or stopped."""
        self._write(END, step, {}, stages)

    def _who(self, event: str) -> dict[str, Any]:
        return {"event": event, "method": self._title, "start": self._start, "num_steps": self._num_steps}

    def publish(self) -> None:
        """Have the run hold all lines so far: before a checkpoint; a restart cuts those that are too many."""
        self._board.flush()
        self._copies.publish()

    def _seconds(self) -> float:
        return round(time.monotonic() - self._began, 1)

    def _line(self, step: int, values: Mapping[str, Any], now: float) -> str:
        steps_a_second = (step + 1 - self._first_step) / max(now - self._started, 1e-9)
        left = (self._num_steps - step - 1) / steps_a_second if steps_a_second else 0.0
        shown = (
            "fit",
            "loss_deformation",
            "loss_supervision",
            "loss_embedding",
            "loss_reconstruction",
            "effective_candidates",
            "effective_fit",
            "distinct_recent",
        )
        numbers = " ".join(f"{name} {_short(values[name])}" for name in shown if name in values)
        return (
            f"{self._title} step {step + 1}/{self._num_steps} {numbers} "
            f"rate {steps_a_second:.2f} steps/s left {int(left) // 60}:{int(left) % 60:02d}"
        )

    def _write(self, part: str, step: int, values: Mapping[str, Any], stages: Mapping[str, float] | None) -> None:
        entry = {"step": step, "part": part, **values}
        if stages is not None:
            entry |= {START: self._start, SECONDS: self._seconds()}
            entry[OF_STAGES] = {name: round(seconds, 3) for name, seconds in stages.items()}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{part}/{name}", value, step)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()
        if kind is None:
            self._copies.close()


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def recorded_step_seconds(run: AnyPath) -> float | None:
    """Seconds a step, validations included, from the first validation to the last of the newest start that has two."""
    seen: dict[int, list[tuple[int, float]]] = {}
    for entry in (entry for entry in read_metrics(run) if entry.get("part") == "val" and SECONDS in entry):
        seen.setdefault(entry.get(START, 0), []).append((entry["step"], entry[SECONDS]))
    for points in reversed(list(seen.values())):
        (first, began), (last, ended) = points[0], points[-1]
        if last > first:
            return (ended - began) / (last - first)
    return None


def training_minutes(run: AnyPath) -> float | None:
    """What a run took by its own metrics, preparation included; of each start, up to its last validation.

    None where it logged none.
    """
    seconds: dict[int, float] = {}
    for entry in read_metrics(run):
        if SECONDS in entry:
            start = entry.get(START, 0)
            seconds[start] = max(entry[SECONDS], seconds.get(start, 0.0))
    return sum(seconds.values()) / 60 if seconds else None


def read_metrics(run: AnyPath) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics in the order written: none where it logged none."""
    path = run / METRICS
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the line being written when the process was killed
        if isinstance(entry, dict):
            yield entry
