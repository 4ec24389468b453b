"""The manifest of a dataset: what lies in it, in which files, with which hashes. Without it there is no dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jr_dist.errors import InputError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class FileEntry:
    """One Parquet file: its path below the dataset, its rows, bytes and SHA-256."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds. `hash` names its content: sources and targets, not the pictures rendered of it."""

    num_points: int
    counts: Mapping[str, int]  # "sources", "train", "val", "test" -> rows
    categories: Mapping[str, Mapping[str, int]]  # category -> the same four counts
    files: tuple[FileEntry, ...]
    how: Mapping[str, Any]  # what made it, with which settings
    schema_version: int = SCHEMA_VERSION

    @property
    def hash(self) -> str:
        """SHA-256 over the schema version and the path and hash of every file."""
        lines = [f"{self.schema_version}", *sorted(f"{x.path} {x.sha256}" for x in self.files)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def table_files(self, table: str) -> tuple[FileEntry, ...]:
        """The files of "sources", "train", "val" or "test", in the order of their rows."""
        return tuple(x for x in self.files if x.path.startswith(folder(table) + "/"))


def folder(table: str) -> str:
    """Where the files of a table lie: "sources", or "targets/train" for "train"."""
    return table if table == "sources" else f"targets/{table}"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text. NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def to_text(manifest: Manifest) -> str:
    """The manifest as it lies on disk."""
    content = {**asdict(manifest), "hash": manifest.hash}
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def from_text(text: str | bytes, location: str) -> Manifest:
    """Read `to_text` back. Raises `InputError` for what is no manifest, another version, a hash that doesn't fit."""
    try:
        content = json.loads(text)
        version = content["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{location}/{MANIFEST} is no manifest ({error!r}); make the dataset again") from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"dataset {location} has schema version {version}; this release reads {SCHEMA_VERSION}; make it again"
        )
    try:
        files = tuple(FileEntry(**entry) for entry in content.pop("files"))
        stated = content.pop("hash")
        content.pop("images", None)  # written by the first release, always empty
        manifest = Manifest(files=files, **content)
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{location}/{MANIFEST} lacks or misnames a field ({error}); make the dataset again"
        ) from error
    if stated != manifest.hash:
        raise InputError(
            f"{location}/{MANIFEST} was altered: it states hash {stated} and its files give {manifest.hash}; restore it"
        )
    return manifest
