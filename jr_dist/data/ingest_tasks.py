"""Which files an ingest reads, under which ids, categories and conventions: settled before any is opened."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jr_dist.data.mesh_files import MESH_SUFFIXES, IndexRow, read_index
from jr_dist.data.partnet import HIERARCHY, find_partnet_models, partnet_category
from jr_dist.errors import InputError

INDEX_NAME = "index.csv"
NO_CATEGORY = "object"


@dataclass(frozen=True)
class IngestTask:
    """One model to read."""

    path: str
    id: str  # path below the folder, without suffix
    category: str
    file: str  # path below the folder
    up: str = "y"
    rotation: tuple[tuple[float, ...], ...] | None = None
    size_cm: tuple[float | None, float | None, float | None] | None = None
    parts: str | None = None  # how the index says that parts are separated
    partnet: bool = False
    credits: dict[str, str] = field(default_factory=dict)


def find_tasks(
    path: str | Path,
    *,
    index: str | Path | None = None,
    up: str = "y",
    category: str | None = None,
    partnet: bool = False,
    leave_out: Path | None = None,
) -> tuple[list[IngestTask], dict[str, str]]:
    """The models at or below `path`, by name, and what can already be told of the others (file -> reason).

    Every `index.csv` on the way speaks for the files below its folder, `index` for those it names relative
    to its own folder or to `path`. What the index doesn't say: `up` (glTF is y-up by its standard, so `up`,
    `auto` too, is not asked there), the category is `category`, else the name of the folder the file lies in,
    else "object". Raises `InputError` where nothing is found, and for an index that can't be understood.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; name a mesh file or a folder of them")
    root = path if path.is_dir() else path.parent
    if partnet:
        return _partnet_tasks(path, up, category), {}
    rows = _index_rows(path, root, index)
    files = [path] if path.is_file() else _mesh_files(path, leave_out)
    if not files:
        raise InputError(f"folder {path} holds no mesh; allowed are {', '.join(MESH_SUFFIXES)}; name another folder")
    names = _ids([file.relative_to(root) for file in files])
    tasks = [
        _task(file, root, name, rows.get(file.resolve()), up, category) for file, name in zip(files, names, strict=True)
    ]
    known = {file.resolve() for file in files}
    missing = {
        row.file: f"{row.file} is named by the index but not there; correct its path"
        for file, row in rows.items()
        if path.is_dir() and not file.exists() and file not in known
    }
    return sorted(tasks, key=lambda task: task.id), missing


def _partnet_tasks(path: Path, up: str, category: str | None) -> list[IngestTask]:
    folders = find_partnet_models(path)
    if not folders:
        raise InputError(f"{path} holds no PartNet model (no {HIERARCHY}); name the folder of the models (data_v0)")
    names = [folder.relative_to(path).as_posix() if folder != path else path.resolve().name for folder in folders]
    if up == "auto":
        up = "y"  # as PartNet is; a guess for each surface alone would turn the parts of a model apart
    return [
        IngestTask(str(folder), name, category or partnet_category(folder) or NO_CATEGORY, name, up, partnet=True)
        for folder, name in zip(folders, names, strict=True)
    ]


def _mesh_files(folder: Path, leave_out: Path | None) -> list[Path]:
    found = []
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if file.name == HIERARCHY:
            raise InputError(f"{folder} is a PartNet tree ({inside}); add --partnet, or name another folder")
        if _is_hidden(inside) or file.suffix.lower() not in MESH_SUFFIXES:
            continue
        if file.is_dir() or (leave_out is not None and file.resolve().is_relative_to(leave_out.resolve())):
            continue
        found.append(file)
    return found


def _index_rows(path: Path, root: Path, index: str | Path | None) -> dict[Path, IndexRow]:
    """Rows by the file they speak of. A deeper index wins over a higher one, a given one over all."""
    rows: dict[Path, IndexRow] = {}
    # What lies in folders below a single file's, or in hidden ones, speaks of nothing that is read.
    found = root.glob(INDEX_NAME) if path.is_file() else root.rglob(INDEX_NAME)
    own = [file for file in found if file.is_file() and not _is_hidden(file.relative_to(root))]
    own.sort(key=lambda file: len(file.parts))
    for file in own:
        rows |= {(file.parent / name).resolve(): row for name, row in read_index(file).items()}
    if index is None:
        return rows
    for name, row in read_index(index).items():
        beside = (Path(index).parent / name).resolve()
        below = (root / name).resolve()
        rows[below if below.exists() and not beside.exists() else beside] = row
    return rows


def _is_hidden(inside: Path) -> bool:
    return any(part.startswith(".") for part in inside.parts)


def _ids(files: list[Path]) -> list[str]:
    """Paths without suffix; with it where two would share an id."""
    names = [file.with_suffix("").as_posix() for file in files]
    while len(set(names)) < len(names):
        count = Counter(names)
        names = [file.as_posix() if count[name] > 1 else name for file, name in zip(files, names, strict=True)]
    return names


def _task(file: Path, root: Path, name: str, row: IndexRow | None, up: str, category: str | None) -> IngestTask:
    inside = file.relative_to(root)
    row = row or IndexRow(inside.as_posix())
    by_standard = file.suffix.lower() in (".glb", ".gltf")
    folder = inside.parent.name.strip().lower()
    rotation = None if row.rotation is None else tuple(map(tuple, np.asarray(row.rotation).tolist()))
    return IngestTask(
        path=str(file),
        id=name,
        category=row.category or category or folder or NO_CATEGORY,
        file=inside.as_posix(),
        up=row.up_axis or ("y" if by_standard else up),
        rotation=rotation,
        size_cm=row.size_cm if any(row.size_cm) else None,
        parts=row.parts,
        credits=row.credits,
    )
