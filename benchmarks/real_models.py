"""Where the models lie that nobody made for a benchmark: they are no part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

from jr_dist.errors import InputError


def furniture_folder() -> Path:
    """The folder that JR_FURNITURE names. Raises `InputError` where there is none with an index."""
    name = os.environ.get("JR_FURNITURE", "")
    if not name or not (Path(name) / "index.csv").is_file():
        raise InputError(
            f"JR_FURNITURE is {name!r}; allowed is a folder of models with an index.csv; set it (docs/datasets.md)"
        )
    return Path(name)
