"""What a long job says: a line for people, or with JR_LOG=json one JSON object a line for whoever collects logs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from jr_dist.errors import InputError

VARIABLE = "JR_LOG"
FORMATS = ("text", "json")


def is_json() -> bool:
    """Whether lines are JSON. Raises `InputError` for another value of JR_LOG than those of `FORMATS`."""
    chosen = os.environ.get(VARIABLE) or "text"
    if chosen not in FORMATS:
        raise InputError(f"{VARIABLE} is {chosen!r}; allowed is {' or '.join(FORMATS)}; set one of them, or unset it")
    return chosen == "json"


def say(
    message: str, /, *, level: str = "info", stream: TextIO | None = None, fields: Mapping[str, Any] | None = None
) -> None:
    """Write `message` on `stream` (stdout). As JSON it has time (UTC), level, message and the `fields`, numbers as
    numbers; as text the message alone, which says what matters of them."""
    line = json.dumps(record(message, level, fields or {})) if is_json() else message
    print(line, file=stream or sys.stdout, flush=True)


def record(message: str, level: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The object of one line."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time": now, "level": level, "message": message, **{name: _plain(value) for name, value in fields.items()}}


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # numpy's and torch's numbers
        value = value.item()
    if isinstance(value, float) and value - value != 0:  # NaN and infinity are no JSON
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)
