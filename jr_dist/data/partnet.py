"""PartNet's tree: a folder a model, `result_after_merging.json` names the parts, `objs/` holds their
surfaces.

Parts are the leaves of the hierarchy (Mo et al. 2019, section 3), as in the paper. The paper leaves models
with more than 16 out; here they are kept, their leaves grouped as the nodes of any other file are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from jr_dist.data.mesh_files import LoadedFile, load_mesh_file
from jr_dist.data.part_mesh import PartMesh, unique_names
from jr_dist.errors import InputError

HIERARCHY = "result_after_merging.json"
# PartNet's names of what this project calls otherwise.
_CATEGORIES = {"storagefurniture": "cabinet"}


def find_partnet_models(path: Path) -> list[Path]:
    """Folders at or below `path` that hold a PartNet model, sorted."""
    return sorted(found.parent for found in path.rglob(HIERARCHY) if found.is_file())


def partnet_category(folder: Path) -> str:
    """The category that the model's meta.json names, in lower case; '' where there is none."""
    try:
        name = str(json.loads((folder / "meta.json").read_bytes())["model_cat"]).strip().lower()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return _CATEGORIES.get(name, name)


def load_partnet(folder: str | Path, *, up: str = "y") -> LoadedFile:
    """A PartNet model, one node a leaf of its hierarchy, named as the leaf; leaves without surface are left
    out.

    Raises `InputError` for a hierarchy that can't be read and for one whose surfaces are all missing or
    broken.
    """
    folder = Path(folder)
    leaves = _leaves(folder)
    names = sorted({obj for _, objs in leaves for obj in objs})
    if not names:
        raise InputError(f"{folder / HIERARCHY} names no surface (objs); download the model again")
    surfaces: dict[str, tuple[trimesh.Trimesh, ...]] = {}
    problems, to_file = [], np.eye(4)
    for name in names:
        try:
            loaded = load_mesh_file(folder / "objs" / f"{name}.obj", up=up)
        except InputError as error:
            problems.append(error)
            continue
        surfaces[name] = tuple(piece for pieces in loaded.mesh.pieces for piece in pieces)
        to_file = loaded.to_file
    if not surfaces:
        raise InputError(f"{folder}: none of its {len(names)} surfaces can be read; the first: {problems[0]}")
    found = [(name, tuple(piece for obj in objs for piece in surfaces.get(obj, ()))) for name, objs in leaves]
    found = [(name, pieces) for name, pieces in found if pieces]
    mesh = PartMesh(unique_names(name for name, _ in found), tuple(pieces for _, pieces in found))
    told: dict[str, Any] = {"format": "partnet", "up_axis": up, "unit": "file"}
    if problems:
        told["broken_surfaces"] = len(problems)
    return LoadedFile(folder, mesh, to_file, told)


def _leaves(folder: Path) -> list[tuple[str, list[str]]]:
    """Name and surfaces of each leaf, in the order of the file."""
    path = folder / HIERARCHY
    try:
        content = json.loads(path.read_bytes())
        return [leaf for root in (content if isinstance(content, list) else [content]) for leaf in _below(root)]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); download the model again") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is no PartNet hierarchy ({type(error).__name__}); download the model again"
        ) from error


def _below(node: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    children = node.get("children", [])
    for child in children:
        yield from _below(child)
    if not children:
        # Names come from the file: they stay within objs/.
        objs = [str(obj) for obj in node.get("objs", [])]
        yield str(node.get("name", "part")), [obj for obj in objs if obj and Path(obj).name == obj and obj[0] != "."]
