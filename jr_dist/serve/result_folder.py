"""OUT/STEM, where `fit` leaves what it made of one input: whose it is, and what of it the next fit may replace."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from jr_dist.atomic import atomic_directory
from jr_dist.errors import InputError

RESULT_NAME = "result.json"


def check_folder(folder: Path, source: Path) -> None:
    """Raise `InputError` where `folder` may not become that of the input `source`."""
    _earlier_files(folder, source)


def write_folder(folder: Path, source: Path, files: Mapping[str, bytes]) -> None:
    """Write `files`, a `result.json` among them, in place of those of an earlier fit of `source`; what else lies in
    `folder` stays. Nothing is ever half written, and what stays is never moved.

    Raises `InputError` where the folder is another's, or a file of somebody else's is in the way.
    """
    earlier = _earlier_files(folder, source)
    theirs = {entry.name for entry in folder.iterdir()} - earlier if folder.exists() else set()
    if in_the_way := sorted(theirs.intersection(files)):
        raise InputError(
            f"{folder / in_the_way[0]} is a file that no fit wrote; allowed is a folder without one of that name; "
            "rename it or name another --out"
        )
    with atomic_directory(folder, replace=True, keep=theirs) as aside:
        for name, content in files.items():
            (aside / name).write_bytes(content)


def _earlier_files(folder: Path, source: Path) -> set[str]:
    """Names of the files that the last fit of `source` wrote into `folder`; none where that is new or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return set()
    if not (folder / RESULT_NAME).is_file():
        raise InputError(
            f"output {folder} exists already and holds no {RESULT_NAME} of a fit; allowed is a new or empty place, or "
            "an earlier result of the same input; remove it or name another --out"
        )
    try:
        earlier = json.loads((folder / RESULT_NAME).read_bytes())
        of, files = Path(earlier["input_path"]), {str(name) for name in earlier["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / RESULT_NAME} does not say of which input and files it is ({type(error).__name__}: {error}); "
            "allowed is an earlier result of this version; remove the folder or name another --out"
        ) from error
    if str(of) != os.path.abspath(source) and of.resolve() != source.resolve():
        raise InputError(
            f"output {folder} holds the result of {of}, not of {source}; allowed is a new or empty place, or an "
            "earlier result of the same input; name another --out"
        )
    return files
