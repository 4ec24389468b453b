"""How large the package is that a job's working directory makes, and what makes it so large."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """What `ray job submit --working-dir FOLDER` sends."""

    num_bytes: int
    num_files: int
    limit: int  # bytes; Ray refuses as much
    largest: tuple[tuple[str, int], ...]  # what is most of it, and its bytes


def package(folder: Path) -> Package:
    """The package of a folder, walked and left out by Ray's own code (.rayignore and .gitignore), but not made."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE, RAY_RUNTIME_ENV_IGNORE_GITIGNORE
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _dir_travel

    folder = folder.absolute()
    sizes: dict[str, int] = {}  # of the archive's entries

    def note(path: Path) -> None:
        if path.is_file() or (path.is_dir() and next(path.iterdir(), None) is None):
            name = path.relative_to(folder).as_posix() + "/" * path.is_dir()
            # stored as it is, with its name in two headers
            sizes[name] = (path.stat().st_size if path.is_file() else 0) + 76 + 2 * len(name.encode())

    gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    _dir_travel(folder, [], note, include_gitignore=gitignore, logger=logging.getLogger(f"{__name__}.package"))
    tops = Counter[str]()
    for name, num_bytes in sizes.items():
        tops["/".join(name.split("/")[:2])] += num_bytes
    limit = min(DASHBOARD_CLIENT_MAX_SIZE, GCS_STORAGE_MAX_SIZE)
    return Package(sum(sizes.values()) + 22, len(sizes), limit, tuple(tops.most_common(3)))
