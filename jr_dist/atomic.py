"""Write aside, then rename: a file or directory is whole or not there. An object of a store always is."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from jr_dist.errors import InputError
from jr_dist.locations import AnyPath, UriPath, as_path

#: what an OSError says of a disk, or of one's share of it, that is full
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def _aside(path: Path) -> Path:
    # The process id and a random tail keep two writers of one path apart; the dot hides it from listings.
    return path.with_name(f".{path.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def sync(path: Path) -> None:
    """What was written to a file, or the names in a directory, outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: str | AnyPath, content: bytes | str) -> None:
    """Replace the file `path` by `content` in one step; after a crash the old content or the new one is there."""
    path = as_path(path)
    data = content.encode() if isinstance(content, str) else content
    if isinstance(path, UriPath):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_directory(path: str | Path, *, replace: bool = False, keep: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty directory beside `path`; renamed to `path` when the block ends well, removed when it raises.

    Raises `InputError` where `path` exists (and is no empty directory), unless `replace` is set: then the old directory
    is moved away just before the rename and deleted after it. What it holds under the names of `keep` is in the new one
    too; until then it stays where it is, whatever happens.
    """
    path = Path(path)
    occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if occupied and not replace:
        raise InputError(f"output {path} exists already; allowed is a new or empty place; remove it or name another")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    aside.mkdir()
    try:
        yield aside
        for content in [*aside.rglob("*"), aside]:
            sync(content)
        for name in keep:
            _link(path / name, aside / name)
        _swap_in(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _link(entry: Path, into: Path) -> None:
    """A second name for a file, or for all that a directory holds: none is moved, so a crash can lose none."""
    if entry.is_dir() and not entry.is_symlink():
        into.mkdir()
        for inside in entry.iterdir():
            _link(inside, into / inside.name)
        shutil.copystat(entry, into)
        return
    try:
        os.link(entry, into, follow_symlinks=False)
    except OSError:  # a file system without links, or a mount inside the directory
        shutil.copy2(entry, into, follow_symlinks=False)


def _swap_in(aside: Path, path: Path) -> None:
    if not path.exists():
        os.rename(aside, path)
        return
    old = _aside(path)
    os.rename(path, old)
    try:
        os.rename(aside, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
