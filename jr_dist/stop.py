"""SIGTERM: what a scheduler sends before it takes a machine away. Training saves a checkpoint, all else just ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

#: exit status of a process that SIGTERM ended
EXIT_STATUS = 128 + signal.SIGTERM


class StoppedError(BaseException):
    """SIGTERM came; the message says in a line what is left. No error to be handled: nobody catches it on the way."""


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """SIGTERM raises `StoppedError` inside the block, so that what was half-written is taken away."""
    with _handled(lambda: _raise("nothing half-written is left")):
        yield


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM sets inside the block; a second one raises `StoppedError`."""
    asked = threading.Event()

    def handle() -> None:
        if asked.is_set():
            _raise("asked twice; the last checkpoint is whole")
        asked.set()

    with _handled(handle):
        yield asked


def _raise(left: str) -> NoReturn:
    raise StoppedError(f"stopped by SIGTERM; {left}")


@contextmanager
def _handled(handle) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python gives signals to the main thread alone
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        handle()

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
