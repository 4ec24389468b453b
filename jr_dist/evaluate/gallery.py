"""Pictures of what was retrieved and how it was deformed, beside the target and the oracle's choice, with numbers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from jr_dist.data import render
from jr_dist.data.part_mesh import concatenated, deformed
from jr_dist.evaluate.methods import DF, OURS, PAPERS_LETTER, R_DF, TOP_1, UNIFORM, Measured
from jr_dist.evaluate.rows import SCALE, Targets
from jr_dist.evaluate.runs import Ground, LoadedRun
from jr_dist.geometry.chamfer import chamfer

SHOWN = (OURS, UNIFORM, PAPERS_LETTER, R_DF)  # the first of these that was measured
SIZE = 256


@dataclass(frozen=True)
class Picture:
    """One picture and what stands under it."""

    title: str
    caption: str
    value_x100: float | None  # chamfer to the target
    data_uri: str  # PNG


@dataclass(frozen=True)
class Item:
    """One target with its pictures."""

    target: str
    category: str
    method: str
    seed: int | None
    place: str  # how good it is among its category, in words
    pictures: tuple[Picture, ...]


def show(
    grounds: Sequence[Ground], targets: Targets, results: Sequence[Measured], count: int, device: str = "cpu"
) -> list[Item]:
    """About `count` targets, as many of each category, spread evenly from the best fitted to the worst."""
    each = -(-count // len(targets.names))
    items = []
    for ground in grounds:
        chosen = _showcase(ground, results)
        for category in (name for name in targets.names if name in ground.scope.categories):
            if chosen is None or count <= 0:
                continue
            run, result = chosen
            members = np.flatnonzero(targets.categories == category)
            order = members[np.argsort(result.fits[TOP_1][members], kind="stable")]
            steps = np.unique(np.linspace(0, len(order) - 1, min(each, len(order))).round().astype(int))
            places = [f"{step + 1} of {len(order)} by fit" for step in steps]
            items += _items(ground, run, result, targets, order[steps], places, device)
    return items


def _showcase(ground: Ground, results: Sequence[Measured]) -> tuple[LoadedRun, Measured] | None:
    """The run whose results are shown: the first in `SHOWN`, of its least seed."""
    for name in SHOWN:
        for run in sorted(ground.scope.runs, key=lambda run: run.seed):
            for result in results:
                row = R_DF if run.name == DF else run.name
                if row == name and (result.method, result.seed) == (name, run.seed):
                    return run, result
    return None


def _items(
    ground: Ground,
    run: LoadedRun,
    result: Measured,
    targets: Targets,
    chosen: np.ndarray,
    places: Sequence[str],
    device: str,
) -> list[Item]:
    assert result.retrieved is not None and result.best is not None and result.least is not None
    row_of = {name: row for row, name in enumerate(ground.store.ids)}
    rows = np.array([[row_of[str(result.retrieved[t])], row_of[str(result.best[t])]] for t in chosen])
    local = torch.from_numpy(np.searchsorted(ground.where, chosen))
    points = ground.points[local].to(device)
    centre, half_extent = (x.cpu().numpy() for x in run.model.deform(points, torch.from_numpy(rows), ground.store))
    undeformed = ground.store.geometry(rows[:, 0], device=device, num_points=points.shape[1]).points
    before = SCALE * chamfer(undeformed, points).cpu().numpy()
    items = []
    for i, target in enumerate(chosen):
        name, retrieved, best = (str(x[target]) for x in (targets.ids, result.retrieved, result.best))
        after, least = (SCALE * float(x[target]) for x in (result.fits[TOP_1], result.least))
        cloud = png(render.render_points(points[i].cpu().numpy(), size=SIZE, radius=0.02))
        shown = (
            Picture("target", name, None, cloud),
            Picture("retrieved", retrieved, float(before[i]), _source(ground, rows[i, 0])),
            Picture("deformed", retrieved, after, _source(ground, rows[i, 0], centre[i, 0], half_extent[i, 0])),
            Picture("oracle", best, least, _source(ground, rows[i, 1], centre[i, 1], half_extent[i, 1])),
        )
        items.append(Item(name, str(targets.categories[target]), result.method, result.seed, places[i], shown))
    return items


def _source(ground: Ground, row: int, centre: np.ndarray | None = None, half_extent: np.ndarray | None = None) -> str:
    """A source, deformed where parameters are given, coloured by part, as a data URI."""
    mesh, record = ground.store.mesh(int(row)), ground.store.record(int(row))
    if centre is not None and half_extent is not None:
        mesh = deformed(mesh, record, centre[: record.num_parts], half_extent[: record.num_parts])
    vertices, faces, part_of_face = concatenated(mesh)
    colours = render.part_colours(record.num_parts)[part_of_face]
    return png(render.render_part_mesh(vertices, faces, colours, size=SIZE))


def png(image: np.ndarray) -> str:
    """A picture (H, W, 3 or 4) uint8 as a PNG data URI."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
