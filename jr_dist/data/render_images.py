"""Pictures of a dataset as files: what is missing is rendered, in this process or by actors, file by file.

A file's bytes depend on its task and the settings alone, so they are the same whoever renders it, in whatever order.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jr_dist.atomic import NO_ROOM
from jr_dist.config import ClusterConfig
from jr_dist.data.dataset import check_categories
from jr_dist.data.image_files import (
    CAMERA_COLUMNS,
    IMAGES,
    SHAPES_A_FILE,
    VIEWS_A_FILE,
    RenderTask,
    about,
    about_of,
    content_of,
    file_content,
    read_manifest,
    write_file,
    write_manifest,
)
from jr_dist.data.image_table import open_images
from jr_dist.data.render import contact_sheet, numbered_label
from jr_dist.data.render_shapes import Shapes, open_shapes
from jr_dist.data.render_views import (
    DEPTH_STEP,
    RENDERER_VERSION,
    ViewSettings,
    depth_picture,
    parts_picture,
    png,
    render_view,
)
from jr_dist.data.table_reader import Dataset
from jr_dist.errors import InputError
from jr_dist.locations import UriPath, as_path, check_access

MAX_VIEWS = 1000
FEW_PICTURES = 200  # rendered sooner than Ray starts
CONTACT_SHEET = f"{IMAGES}/contact_sheet.png"
_SHEET = 48  # pictures on it


@dataclass(frozen=True)
class RenderPlan:
    """What is to be rendered of a dataset."""

    dataset: Dataset
    view_settings: ViewSettings
    parts: bool
    depth: bool
    num_views: int
    categories: tuple[str, ...]
    shapes: Mapping[str, Shapes]  # of each table asked for, all of the categories
    tasks: tuple[RenderTask, ...]  # in the order of tables, categories, shapes, views
    kept: Mapping[str, str]  # path -> SHA-256 of the files that are there already

    @property
    def settings(self) -> dict[str, Any]:
        """All that a picture depends on beside its shape and view, JSON-able."""
        return {
            **asdict(self.view_settings),
            "renderer_version": RENDERER_VERSION,
            "parts": self.parts,
            "depth": self.depth,
            "depth_step": DEPTH_STEP,
            "dataset": self.dataset.hash,
        }

    @property
    def missing(self) -> tuple[RenderTask, ...]:
        """The tasks whose files are not there."""
        return tuple(task for task in self.tasks if task.path not in self.kept)


def plan_images(
    dataset: Dataset,
    view_settings: ViewSettings,
    *,
    num_views: int,
    tables: Sequence[str],
    categories: Sequence[str] | None = None,
    parts: bool = False,
    depth: bool = False,
    models: str | Path | None = None,
) -> RenderPlan:
    """What is missing of `num_views` pictures of every shape of `tables` ("sources" and splits) in the categories.

    Nothing is rendered. Raises `InputError` for settings out of range, a table or category that there is not, a target
    whose mesh can't be made again, and pictures that lie there and were made with other settings, or more views.
    """
    if not 1 <= num_views <= MAX_VIEWS:
        raise InputError(f"num_views is {num_views}; allowed is 1 to {MAX_VIEWS}; 24 is the usual number")
    chosen = check_categories(dataset, categories) or dataset.categories
    shapes = {table: open_shapes(dataset, table, chosen, models=models) for table in tables}
    for of_table in shapes.values():
        of_table.check()
    tasks = tuple(
        task for table, of_table in shapes.items() for task in _tasks(dataset, table, of_table, chosen, num_views)
    )
    plan = RenderPlan(dataset, view_settings, parts, depth, num_views, tuple(sorted(chosen)), shapes, tasks, {})
    _check_views(plan)
    return RenderPlan(**{**vars(plan), "kept": _kept(plan)})


def render_images(
    plan: RenderPlan,
    *,
    num_workers: int | None = 0,
    cluster: ClusterConfig | None = None,
    advance: Callable[[int], object] = lambda pictures: None,
) -> None:
    """Render what is missing, then write the manifest and a contact sheet.

    In this process where `num_workers` is 0, else by so many actors through Ray Data (None: all that have room). `advance` is
    told of the pictures of each file as it is written. Raises `InputError` for a
    target that is another shape now, a backend that can't work and a disk that is full; finished files stay.
    """
    missing, dataset = plan.missing, as_path(plan.dataset.path)
    if isinstance(dataset, UriPath):
        check_access(dataset, "dataset")
    hashes = dict(plan.kept)
    render = FileRenderer(plan)
    results = ((task, render(task)) for task in missing)
    if num_workers != 0 and missing:
        # Ray takes seconds to import and is not needed for a few pictures.
        from jr_dist.data.render_job import render_in_parallel

        results = render_in_parallel(
            render,
            missing,
            backend=plan.view_settings.backend,
            num_workers=num_workers,
            cluster=cluster or ClusterConfig(),
        )
    for task, content in results:
        _keep(plan, task, content, len(hashes))
        hashes[task.path] = hashlib.sha256(content).hexdigest()
        advance(task.num_pictures)
    write_manifest(plan.dataset, plan.settings, _tables(plan, hashes))
    write_file(plan.dataset, CONTACT_SHEET, _sheet(plan.dataset))


@dataclass(frozen=True)
class FileRenderer:
    """From a task to its file; what an actor holds."""

    plan: RenderPlan

    def __call__(self, task: RenderTask) -> bytes:
        """The file's bytes. Raises `InputError` as `render_images` does."""
        plan = self.plan
        names = ("id", "view", *CAMERA_COLUMNS, "png", *["parts_png"] * plan.parts, *["depth_png"] * plan.depth)
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for row in task.rows:
            shape = plan.shapes[task.table].shape(row)
            for view in task.view_numbers:
                picture = render_view(shape, view, plan.view_settings)
                values: dict[str, Any] = {name: getattr(picture.camera, name) for name in CAMERA_COLUMNS}
                values |= {"id": shape.id, "view": view, "png": png(picture.rgba)}
                if plan.parts:
                    values["parts_png"] = png(parts_picture(picture.part_index))
                if plan.depth:
                    values["depth_png"] = png(depth_picture(picture.depth))
                for name, column in columns.items():
                    column.append(values[name])
        return file_content(task, plan.settings, columns)


def _tasks(
    dataset: Dataset, table: str, shapes: Shapes, categories: Sequence[str], num_views: int
) -> Iterator[RenderTask]:
    names = np.array(shapes.categories)
    for number, category in enumerate(dataset.categories):
        rows = np.flatnonzero(names == category) if category in categories else []
        for block in range(-(-len(rows) // SHAPES_A_FILE)):
            own = tuple(int(row) for row in rows[block * SHAPES_A_FILE : (block + 1) * SHAPES_A_FILE])
            for views in range(-(-num_views // VIEWS_A_FILE)):
                count = min(VIEWS_A_FILE, num_views - views * VIEWS_A_FILE)
                yield RenderTask(table, number, block, views, own, tuple(shapes.ids[row] for row in own), count)


def _kept(plan: RenderPlan) -> dict[str, str]:
    """Hashes of the files that are whole and as they would be rendered now."""
    manifest = read_manifest(plan.dataset) or {"tables": {}}
    listed = {entry["path"]: entry["sha256"] for told in manifest["tables"].values() for entry in told["files"]}
    found = {}
    for task in plan.tasks:
        content = content_of(plan.dataset, task.path)
        told = None if content is None else about_of(content)
        if content is None or told is None:
            continue
        _check_settings(plan, told["settings"])
        digest = hashlib.sha256(content).hexdigest()
        if told == about(task, plan.settings) and listed.get(task.path, digest) == digest:
            found[task.path] = digest
    return found


def _check_settings(plan: RenderPlan, made: Mapping[str, Any]) -> None:
    """Raise `InputError` where pictures were made with other settings: what lies together must be of one kind."""
    other = [name for name, value in plan.settings.items() if made.get(name) != value]
    if other:
        name = other[0]
        raise InputError(
            f"{plan.dataset.path}/{IMAGES} holds pictures made with {name} {made.get(name)}, asked for is "
            f"{plan.settings[name]}; allowed is one setting for all; delete the folder, or ask for the same"
        )


def _check_views(plan: RenderPlan) -> None:
    manifest = read_manifest(plan.dataset)
    if manifest is None:
        return
    _check_settings(plan, manifest["settings"])
    for table in plan.shapes:
        told = manifest["tables"].get(table)
        others = told and set(told["categories"]) - set(plan.categories)
        if told and (plan.num_views < told["num_views"] or (others and plan.num_views != told["num_views"])):
            raise InputError(
                f"{plan.dataset.path}/{IMAGES} holds {told['num_views']} views of {', '.join(told['categories'])} in "
                f"{table}, asked for are {plan.num_views} of {', '.join(plan.categories)}; allowed is to add views to "
                "all categories, or categories with as many views; delete the folder to begin anew"
            )


def _keep(plan: RenderPlan, task: RenderTask, content: bytes, num_kept: int) -> None:
    try:
        write_file(plan.dataset, task.path, content)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise InputError(
            f"{plan.dataset.path}/{IMAGES} has no room for {task.path} ({error.strerror}); the {num_kept} of "
            f"{len(plan.tasks)} files that are finished are kept; make room and run it again"
        ) from error


def _tables(plan: RenderPlan, hashes: Mapping[str, str]) -> dict[str, Any]:
    """What the manifest says of each table: those of this plan and those that were there."""
    tables = dict((read_manifest(plan.dataset) or {"tables": {}})["tables"])
    for table in plan.shapes:
        files = {entry["path"]: entry for entry in tables.get(table, {"files": []})["files"]}
        for task in plan.tasks:
            if task.table == table:
                place = {"category": task.category, "shapes": task.shapes, "views": task.views}
                files[task.path] = {"path": task.path, **place, "rows": task.num_pictures, "sha256": hashes[task.path]}
        have = set(tables.get(table, {"categories": []})["categories"]) | set(plan.shapes[table].categories)
        tables[table] = {
            "num_views": plan.num_views,
            "categories": sorted(have),
            "files": [files[path] for path in sorted(files)],
        }
    return tables


def _sheet(dataset: Dataset) -> bytes:
    """Some of all pictures that there are, chosen evenly among the shapes of each table, and among the views."""
    manifest = read_manifest(dataset)
    assert manifest is not None, "written just before"
    images, labels = [], []
    for table, told in sorted(manifest["tables"].items()):
        pictures = open_images(dataset, table, told["categories"])
        count = min(len(pictures), max(1, _SHEET // len(manifest["tables"])))
        rows, views = np.linspace(0, len(pictures) - 1, count).astype(int), np.arange(count) % told["num_views"]
        images += [np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")) for data in pictures.png(rows, views)]
        labels += [numbered_label(int(view), name) for name, view in zip(pictures.ids(rows), views)]
    buffer = io.BytesIO()
    contact_sheet(images, labels, columns=8).save(buffer, format="PNG")
    return buffer.getvalue()
