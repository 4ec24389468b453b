"""What is wrong with a GLB or glTF, said before the loader meets it.

trimesh reads most of glTF 2.0, but fills what it cannot decode with zeros; such files are refused here by
name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jr_dist.errors import InputError

_MAGIC = b"glTF"
_HEADER_BYTES = 20
_MAX_HEADER = 256 << 20  # bytes of JSON; real files hold kilobytes
_UNDECODED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")
_EXPORT_PLAIN = "export it as plain glTF 2.0 without compression"


def check_gltf(path: Path, *, max_elements: int) -> None:
    """Raise `InputError` unless `path` is a whole glTF 2.0 file that can be decoded.

    `max_elements`: the most numbers an accessor may ask for (a short file can claim any count).
    """
    header = _glb_header(path) if path.suffix.lower() == ".glb" else _json(path, path.read_bytes())
    if not isinstance(header, dict) or not isinstance(header.get("asset", {}), dict):
        raise InputError(f"{path} is not glTF (its JSON is no object); give a glTF 2.0 file")
    _check_version(path, header)
    used = sorted(set(_UNDECODED) & _names(header.get("extensionsRequired")))
    if used:
        raise InputError(f"{path} needs the extension {used[0]}, which is not supported; {_EXPORT_PLAIN}")
    try:
        _check_accessors(path, header, max_elements)
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is broken glTF ({error!r}); export it again") from error


def _glb_header(path: Path) -> Any:
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(_HEADER_BYTES)
        if head[:4] != _MAGIC:
            raise InputError(f"{path} is not a GLB file (it begins with {head[:4]!r}, not {_MAGIC!r}); export it again")
        if len(head) < _HEADER_BYTES:
            raise InputError(f"{path} is truncated: it has {size} bytes, less than a header; export it again")
        length = int.from_bytes(head[8:12], "little")
        if length > size:
            raise InputError(
                f"{path} is truncated: its header promises {length} bytes, the file has {size}; copy or export it again"
            )
        num_json = int.from_bytes(head[12:16], "little")
        if num_json > min(size, _MAX_HEADER):
            raise InputError(f"{path} is truncated: its JSON part alone claims {num_json} bytes; export it again")
        return _json(path, file.read(num_json))


def _json(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not glTF (its JSON part cannot be read); export it again") from error


def _check_version(path: Path, header: dict[str, Any]) -> None:
    version = str(header.get("asset", {}).get("version", "2.0"))
    if not version.startswith("2"):
        raise InputError(f"{path} is glTF {version}; allowed is glTF 2.0; {_EXPORT_PLAIN}")


def _check_accessors(path: Path, header: dict[str, Any], max_elements: int) -> None:
    accessors = header.get("accessors", [])
    for accessor in accessors:
        if not 0 <= accessor["count"] <= max_elements:
            raise InputError(
                f"{path} claims an array of {accessor['count']} elements; at most {max_elements}; export it again"
            )
    primitives = [primitive for mesh in header.get("meshes", []) for primitive in mesh["primitives"]]
    for position in (primitive["attributes"].get("POSITION") for primitive in primitives):
        accessor = {} if position is None else accessors[position]
        if "sparse" in accessor or accessor.get("normalized"):
            raise InputError(f"{path} stores positions as sparse or normalised numbers; {_EXPORT_PLAIN}")


def _names(value: Any) -> set[str]:
    return {name for name in value if isinstance(name, str)} if isinstance(value, list) else set()
