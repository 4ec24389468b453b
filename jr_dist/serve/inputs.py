"""What `fit` is given: files and folders found, and each scan turned into the points that are matched."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jr_dist.data.mesh_files import MESH_SUFFIXES, IndexRow, load_mesh_file, read_index
from jr_dist.data.part_mesh import concatenated
from jr_dist.errors import InputError
from jr_dist.geometry.frames import apply_transform, canonical_transform, invert_transform, up_axis_rotation
from jr_dist.geometry.sampling import sample_triangles
from jr_dist.log import say
from jr_dist.serve.cloud_files import (
    CLOUD_SUFFIXES,
    TEXT_SUFFIXES,
    is_cloud,
    read_cloud,
    why_no_text_cloud,
)

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
INDEX_NAME = "index.csv"
_SUFFIXES = tuple(sorted({*MESH_SUFFIXES, *CLOUD_SUFFIXES, ".ply"}))
_FAR_BOX = 0.6  # a box that shrinks below this without its outermost 1 % of points was stretched by strays
_NAMED = 5  # files that an error names
_FLAT = 1e-3  # of the longest extent, below which there is none across; a board is thicker


@dataclass(frozen=True)
class Input:
    """A file to be fitted and how it stands."""

    path: Path
    up: str = "y"
    rotation: np.ndarray | None = None  # (3, 3) of the file's coordinates; the up axis is meant after it
    category: str = ""  # as the index says; not used for the search


@dataclass(frozen=True)
class Observation:
    """The observed points of one input in their own canonical frame (box centred, half-diagonal 1, y up)."""

    path: Path
    kind: str  # "mesh" or "points"
    points: np.ndarray  # [N, 3] float32, in random order
    transform: np.ndarray  # [4, 4] float64, canonical -> the file's own frame and units
    num_file_points: int  # points of the cloud, vertices of the mesh
    warnings: tuple[str, ...] = ()


def find_inputs(
    paths: Sequence[str | Path], *, up: str = "y", index: str | Path | None = None, out: Path | None = None
) -> list[Input]:
    """The files named, in the order given; a folder stands for the shapes below it (not below `out`), sorted, or where
    there are none (pictures beside shapes are their textures) for the photos. Its text files that are no clouds are
    told on stderr.

    Up axis and rotation come from the `index` (paths relative to it) or the `index.csv` of a folder given,
    where they name the file; else from `up`. Raises `InputError` for an empty folder, a wrong index or axis.
    """
    up_axis_rotation(up)
    rows = {} if index is None else _index_rows(Path(index))
    found = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(_input(path, rows, up))
            continue
        own = _index_rows(path / INDEX_NAME) if (path / INDEX_NAME).is_file() else {}
        files = _usable_files(path, out)
        found += [_input(file, {**own, **rows}, up) for file in files]
    if rows and not any(source.path.resolve() in rows for source in found):
        raise InputError(
            f"index {index} names none of the {len(found)} inputs; its column 'file' holds paths relative to its "
            "folder; correct them or leave the index out"
        )
    if not found:
        raise InputError("no input given; name a mesh, a point cloud, a photo or a folder of them")
    return found


def _usable_files(folder: Path, out: Path | None) -> list[Path]:
    inside = [file for file in sorted(folder.rglob("*")) if _is_seen(file, folder, out)]
    shapes = [file for file in inside if file.suffix.lower() in _SUFFIXES and file.name != INDEX_NAME]
    text = [file for file in shapes if file.suffix.lower() in TEXT_SUFFIXES]
    no_clouds = {file: reason for file in text if (reason := why_no_text_cloud(file)) is not None}
    files = [file for file in shapes if file not in no_clouds] or [file for file in inside if is_photo(file)]
    if not files:
        raise InputError(
            f"folder {folder} holds no shape and no photo{_told(list(no_clouds.items()), folder)}; files ending in "
            f"{', '.join((*_SUFFIXES, *PHOTO_SUFFIXES))} are allowed; name another folder"
        )
    for file, reason in no_clouds.items():
        say(f"skipped {file}: {reason}", level="warning", stream=sys.stderr, fields={"event": "skipped"})
    return files


def _told(no_clouds: Sequence[tuple[Path, str]], folder: Path) -> str:
    """The files that would have been clouds, so that nobody looks for them elsewhere."""
    if not no_clouds:
        return ""
    names = [str(file.relative_to(folder)) for file, _ in no_clouds]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f": {', '.join(names[:_NAMED])}{more} can't be read as points (the first {no_clouds[0][1].partition(';')[0]})"
    )


def is_photo(path: Path) -> bool:
    """Whether `path` is read as a picture: by its suffix."""
    return path.suffix.lower() in PHOTO_SUFFIXES


def observe(source: Input, *, num_points: int, seed: int) -> Observation:
    """Read one input, turn it upright, normalise it from its own points and sample `num_points` of them.

    A mesh is sampled uniformly by area. Of a larger cloud each point has the same chance; a smaller one is
    used whole. The sample depends on the file's content and `seed`, not on its name or its neighbours.
    Raises `InputError` naming the file.
    """
    if not source.path.is_file():
        raise InputError(f"{source.path} does not exist; name an existing mesh, cloud or folder")
    kind = "points" if is_cloud(source.path) else "mesh"
    vertices, faces = (read_cloud(source.path), None) if kind == "points" else _read_mesh(source.path)
    try:
        upright = _upright(source)
        to_file = invert_transform(upright) @ canonical_transform(apply_transform(upright, vertices))
        canonical = apply_transform(invert_transform(to_file), vertices)
        points = _sampled(canonical, faces, num_points, _generator(vertices, seed))
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from error
    return Observation(source.path, kind, points, to_file, len(vertices), tuple(_warnings(canonical, kind)))


def _input(path: Path, rows: Mapping[Path, IndexRow], up: str) -> Input:
    row = rows.get(path.resolve())
    if row is None:
        return Input(path, up)
    return Input(path, row.up_axis or up, row.rotation, row.category)


def _index_rows(path: Path) -> dict[Path, IndexRow]:
    return {(path.parent / file).resolve(): row for file, row in read_index(path).items()}


def _is_seen(file: Path, folder: Path, out: Path | None) -> bool:
    if any(part.startswith(".") for part in file.relative_to(folder).parts) or not file.is_file():
        return False
    return out is None or not file.resolve().is_relative_to(out.resolve())  # what an earlier fit wrote is no input


def _read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces in the file's own frame and units."""
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(
            f"{path} ends in {path.suffix or 'nothing'}; allowed are {', '.join(_SUFFIXES)}; convert it to one of them"
        )
    vertices, faces, _ = concatenated(load_mesh_file(path).mesh)
    return vertices, faces


def _upright(source: Input) -> np.ndarray:
    transform = np.eye(4)
    transform[:3, :3] = up_axis_rotation(source.up)
    if source.rotation is not None:
        transform[:3, :3] = transform[:3, :3] @ source.rotation
    return transform


def _generator(vertices: np.ndarray, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(vertices.tobytes()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _sampled(points: np.ndarray, faces: np.ndarray | None, num_points: int, rng: np.random.Generator) -> np.ndarray:
    if faces is None:
        sample = points[rng.permutation(len(points))[:num_points]]
    else:
        sample = sample_triangles(points, faces, num_points, rng)[0]
    return sample.astype(np.float32)


def _warnings(points: np.ndarray, kind: str) -> Iterable[str]:
    """What makes a result doubtful, said beside it. `points` (N, 3) canonical."""
    if flatness := _flatness(points):
        yield (
            f"all points lie {flatness}: nothing is known of the shape across it, nor are the scales of parts there; "
            "give points all round the shape"
        )
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    if kind == "points" and np.linalg.norm(high - low) / 2 < _FAR_BOX:
        yield (
            "the outermost 1 % of the points stretch the box, which sets position and scale; "
            "remove stray points for a better fit"
        )


def _flatness(points: np.ndarray) -> str | None:
    """Along what all `points` (N, 3) lie, "on a line" or "in a plane"; None where they fill space."""
    centred = points - points.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # the thinnest first
    thinnest, middle, longest = np.ptp(centred @ axes, axis=0)
    if middle < _FLAT * longest:
        return "on a line"
    return "in a plane" if thinnest < _FLAT * longest else None
