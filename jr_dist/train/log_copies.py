"""Logs grow line by line, objects don't: those of a run at a URI grow in a scratch folder and are put as a whole."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from jr_dist.data.decoded import scratch_folder
from jr_dist.locations import AnyPath, UriPath
from jr_dist.train.run_directory import METRICS

BOARD = "tensorboard"


class LogCopies:
    """Where the logs of a run are written on this machine: in the run itself where it is a directory."""

    def __init__(self, run: AnyPath) -> None:
        self._run = run
        self._put: dict[str, int] = {}  # what was put, and how long it was then
        if not isinstance(run, UriPath):
            self.folder: Path = run
            return
        self.folder = scratch_folder() / "logs" / hashlib.sha256(str(run).encode()).hexdigest()[:16]
        shutil.rmtree(self.folder, ignore_errors=True)  # of an earlier start; what counts of it was put
        self.folder.mkdir(parents=True)
        so_far = run / METRICS
        if so_far.is_file():
            (self.folder / METRICS).write_bytes(so_far.read_bytes())

    def publish(self) -> None:
        """Put what has grown since the last time."""
        if not isinstance(self._run, UriPath):
            return
        boards = sorted((self.folder / BOARD).iterdir()) if (self.folder / BOARD).is_dir() else []
        for path in [self.folder / METRICS, *boards]:
            name = str(path.relative_to(self.folder))
            content = path.read_bytes()
            if self._put.get(name) != len(content):
                (self._run / name).write_bytes(content)
                self._put[name] = len(content)

    def close(self) -> None:
        """Put the rest, and leave nothing on this machine."""
        self.publish()
        if isinstance(self._run, UriPath):
            shutil.rmtree(self.folder, ignore_errors=True)
