"""What a mesh file may read besides itself: regular files of its own folder and below, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

from trimesh.resolvers import Resolver

MAX_FILE_BYTES = 1 << 30  # of a mesh or a texture; 2 million triangles as text take a quarter of it


class FolderResolver(Resolver):
    """Hands trimesh the files that a mesh names. Names in files are not to be trusted: no absolute path, no
    way up, no device.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def get(self, key: str) -> bytes:
        """Content of the file `key`. Raises FileNotFoundError for whatever lies outside or is no regular
        file of bearable size.
        """
        name = str(key).strip().replace("\\", "/")
        for candidate in dict.fromkeys((name, unquote(name))):
            path = (self.folder / candidate).resolve()
            if path.is_relative_to(self.folder) and path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
                return path.read_bytes()
        raise FileNotFoundError(f"{name[:80]!r} is not in the file's own folder")

    def keys(self) -> list[str]:
        """No listing: a mesh asks for files by name."""
        return []

    def write(self, key: str, value: Any) -> None:
        """Never: reading a mesh writes nothing."""
        raise PermissionError(key)

    def namespaced(self, namespace: str) -> FolderResolver:
        """The resolver of a folder below; this one where the name leads elsewhere."""
        inner = (self.folder / namespace).resolve()
        return FolderResolver(inner) if inner.is_relative_to(self.folder) else self
