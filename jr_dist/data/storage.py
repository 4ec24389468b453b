"""Where a dataset lies: a local path or a URI (s3, gs, file), reached through `pyarrow.fs`."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from jr_dist.errors import InputError

_REMEDY = "give a local path or a URI such as s3://bucket/folder"


def as_location(path: str | Path) -> str:
    """`path` as text: an absolute local path (also for file:// URIs), or the URI as it is."""
    text = str(path)
    if text.startswith("file://"):
        return text.removeprefix("file://")
    return text if is_uri(text) else str(Path(text).absolute())


def is_uri(path: str | Path) -> bool:
    """Whether `path` has a scheme ("s3://...")."""
    return "://" in str(path)


def resolve(location: str, filesystem: pafs.FileSystem | None = None) -> tuple[pafs.FileSystem, str]:
    """The file system of a location and the path within it.

    `filesystem`, where given, is used as it is. Raises `InputError` for a scheme nobody knows.
    """
    if filesystem is not None:
        return filesystem, location.rstrip("/")
    if not is_uri(location):
        return pafs.LocalFileSystem(), location
    try:
        found, root = pafs.FileSystem.from_uri(location)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(f"{location} can't be reached ({error}); {_REMEDY}") from error
    return found, root.rstrip("/")


def read_bytes(filesystem: pafs.FileSystem, path: str) -> bytes:
    """All of one file."""
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def write_bytes(filesystem: pafs.FileSystem, path: str, data: bytes) -> None:
    """One whole file; on an object store it appears when it is complete."""
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def file_size(filesystem: pafs.FileSystem, path: str) -> int | None:
    """Bytes of a file; None where there is none."""
    info = filesystem.get_file_info(path)
    return info.size if info.type == pafs.FileType.File else None


def is_empty(filesystem: pafs.FileSystem, root: str) -> bool:
    """Whether nothing lies below `root` (it needn't exist)."""
    return not filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True, recursive=False))
