"""A dataset of procedural furniture: sources and targets drawn from one grammar, independently of each other."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from jr_dist.atomic import atomic_directory
from jr_dist import storage
from jr_dist.data.build import build_source, build_target
from jr_dist.data.dataset import split_targets, write_dataset
from jr_dist.data.manifest import Manifest
from jr_dist.data.records import SourceModel, TargetShape
from jr_dist.data.synthesize.cabinets import draw_cabinet
from jr_dist.data.synthesize.chairs import draw_chair
from jr_dist.data.synthesize.meshes import part_mesh
from jr_dist.data.synthesize.scans import scan_files
from jr_dist.data.synthesize.style import MAX_PARTS, Shape
from jr_dist.data.synthesize.tables import draw_table
from jr_dist.errors import InputError
from jr_dist.progress import Progress

GRAMMARS: dict[str, Callable[[np.random.Generator], Shape]] = {
    "cabinet": draw_cabinet,
    "chair": draw_chair,
    "table": draw_table,
}
GRAMMAR_VERSION = 1  # raise it when the same seed gives other shapes
MIN_POINTS, MAX_POINTS = 32, 65536
SCANS_A_CATEGORY = 2


def synthesize(
    path: str | Path,
    *,
    num_sources: int,
    num_targets: int,
    categories: Sequence[str],
    seed: int,
    num_points: int = 2048,
    progress: Progress | None = None,
) -> Manifest:
    """Write a dataset of procedural furniture to `path`, new or empty, with a few example scans in `scans/`.

    Counts are over all categories, shared evenly; targets count all splits (80/10/10). The same arguments give the same
    bytes, and the shapes of a smaller dataset are the first ones of a larger one. `progress` advances by one a shape.
    Raises `InputError` for counts below 1, fewer sources than categories, unknown or repeated categories, a negative
    seed, and a number of points outside 32 to 65536.
    """
    _check(num_sources, num_targets, categories, seed, num_points)
    advance = progress.advance if progress else lambda: None
    categories = sorted(categories)
    sources = (
        _counted(make_source(seed, category, index, num_points), advance)
        for category, index in _shares(num_sources, categories)
    )
    place = {target_id(category, index): (category, index) for category, index in _shares(num_targets, categories)}
    split = _split(place, seed)
    targets = {
        name: (_counted(make_target(seed, *place[target], num_points), advance) for target in members)
        for name, members in split.items()
    }
    how = {
        "made_by": "synthesize",
        "grammar_version": GRAMMAR_VERSION,
        "seed": seed,
        "num_sources": num_sources,
        "num_targets": num_targets,
        "categories": categories,
        "num_points": num_points,
    }
    scans = _scans(seed, [place[target] for target in split["test"]])
    location = storage.as_location(path)
    # The scans belong to the whole that appears at once; on an object store there is no such thing.
    with nullcontext(location) if storage.is_uri(location) else atomic_directory(location) as root:
        manifest = write_dataset(root, sources, targets, how=how)
        filesystem, folder = storage.resolve(str(root))
        if not storage.is_uri(str(root)):  # an object store knows no folders
            filesystem.create_dir(f"{folder}/scans")
        for name, content in scans.items():
            storage.write_bytes(filesystem, f"{folder}/{name}", content)
    return manifest


def draw_shape(seed: int, role: str, category: str, index: int) -> Shape:
    """Shape number `index` of a category, for the role "source" or "target": a pure function of its arguments."""
    rng = _generator(seed, role, category, index)
    while True:
        shape = GRAMMARS[category](rng)
        if 2 <= len(shape.parts) <= MAX_PARTS:
            return shape


def make_source(seed: int, category: str, index: int, num_points: int) -> SourceModel:
    """Source number `index` of a category."""
    shape = draw_shape(seed, "source", category, index)
    return build_source(
        part_mesh(shape),
        id=f"source-{category}-{index:06d}",
        category=category,
        num_points=num_points,
        seed=seed,
        provenance=_provenance(shape),
    )


def make_target(seed: int, category: str, index: int, num_points: int) -> TargetShape:
    """Target number `index` of a category."""
    shape = draw_shape(seed, "target", category, index)
    return build_target(
        part_mesh(shape),
        id=target_id(category, index),
        category=category,
        num_points=num_points,
        seed=seed,
        provenance=_provenance(shape),
    )


def target_id(category: str, index: int) -> str:
    """The name of a target."""
    return f"target-{category}-{index:06d}"


def place_of(target: str) -> tuple[str, int]:
    """The category and the number in it of a target: `target_id` undone."""
    _, category, index = target.split("-")
    return category, int(index)


def _provenance(shape: Shape) -> dict[str, object]:
    sizes = {name: round(float(value), 4) for name, value in shape.parameters.items()}
    return {
        "made_by": "synthesize",
        "structure": shape.structure,
        "family": shape.family,
        "num_parts": len(shape.parts),
        "part_names": [part.name for part in shape.parts],
        "sizes": sizes,
    }


def _generator(seed: int, role: str, category: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(role.encode()), zlib.crc32(category.encode()), index])


def _shares(count: int, categories: Sequence[str]) -> Iterator[tuple[str, int]]:
    """(category, index) of `count` shapes shared evenly, the first categories taking what is left over."""
    for position, category in enumerate(categories):
        for index in range((count - position + len(categories) - 1) // len(categories)):
            yield category, index


def _split(place: dict[str, tuple[str, int]], seed: int) -> dict[str, list[str]]:
    """80/10/10, of each category where each has ten targets or more, else of all together."""
    groups: dict[str, list[str]] = {}
    for target, (category, _) in place.items():
        groups.setdefault(category, []).append(target)
    if min(len(group) for group in groups.values()) < 10:
        groups = {"all": list(place)}
    parts = [split_targets(group, seed) for group in groups.values()]
    return {name: sorted(target for part in parts for target in part[name]) for name in ("train", "val", "test")}


def _scans(seed: int, test: Sequence[tuple[str, int]]) -> dict[str, bytes]:
    """Example inputs of the first test targets, some of each category."""
    places = {category: [place for place in test if place[0] == category][:SCANS_A_CATEGORY] for category, _ in test}
    chosen = [place for group in places.values() for place in group]
    meshes = [(target_id(*place), part_mesh(draw_shape(seed, "target", *place))) for place in chosen]
    return scan_files(meshes, _generator(seed, "scan", "", 0))


def _counted(record, advance: Callable[[], None]):
    advance()
    return record


def _check(num_sources: int, num_targets: int, categories: Sequence[str], seed: int, num_points: int) -> None:
    for name, count in (("num_sources", num_sources), ("num_targets", num_targets)):
        if count < 1:
            raise InputError(f"{name} is {count}; allowed is 1 or more; ask for at least one")
    allowed = ", ".join(sorted(GRAMMARS))
    for category in categories:
        if category not in GRAMMARS:
            raise InputError(f"category {category!r} is unknown; allowed are {allowed}; name some of them")
    if not categories or len(set(categories)) < len(categories):
        raise InputError(f"categories are {list(categories)}; allowed are {allowed}, each once; name at least one")
    if num_sources < len(categories):
        raise InputError(
            f"num_sources is {num_sources} for {len(categories)} categories; allowed is one a category or more; "
            "ask for more sources or name fewer categories"
        )
    if seed < 0:
        raise InputError(f"seed is {seed}; allowed is 0 or more; choose another")
    if not MIN_POINTS <= num_points <= MAX_POINTS:
        raise InputError(
            f"num_points is {num_points}; allowed is {MIN_POINTS} to {MAX_POINTS}; 2048 is the usual number"
        )
