"""What was retrieved and how it was deformed, beside the target and the oracle's choice: pictures, numbers, meshes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from jr_dist.data import render
from jr_dist.data.part_mesh import PartMesh, concatenated, deformed
from jr_dist.evaluate.methods import DF, FULL, NEAREST_DF, TOP_1, Measured, with_df
from jr_dist.evaluate.rows import SCALE, Targets
from jr_dist.evaluate.runs import Ground, LoadedRun
from jr_dist.evaluate.side_by_side import DEFORMED, SOURCE, TARGET, side_by_side
from jr_dist.evaluate.views import IMAGE
from jr_dist.geometry.chamfer import chamfer

SIZE = 256
MAX_BYTES = 2 << 20  # of an item's GLB, before base64: what is larger is shown as pictures alone


@dataclass(frozen=True)
class Picture:
    """One picture and what stands under it."""

    title: str
    caption: str
    value_x100: float | None  # chamfer to the target
    data_uri: str  # PNG


@dataclass(frozen=True)
class Item:
    """One target: its pictures, and source, deformed and target as a GLB that a person can turn."""

    target: str
    category: str
    method: str
    seed: int | None
    place: str  # how good it is among its category, in words
    pictures: tuple[Picture, ...]
    glb: str  # base64; "": too large, and `note` says so
    note: str = ""


def show(
    grounds: Sequence[Ground],
    targets: Targets,
    results: Sequence[Measured],
    count: int,
    device: str = "cpu",
    *,
    seed: int = 0,
) -> list[Item]:
    """About `count` targets, as many of each category, spread evenly from the best fitted to the worst.

    Targets are shown whole (protocol full) or by a picture (image, drawn by `seed`), under one of the runs that
    retrieve and deform: see `_showcase`.
    """
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
            items += _items(ground, run, result, targets, order[steps], places, device, seed)
    return items


def _showcase(ground: Ground, results: Sequence[Measured]) -> tuple[LoadedRun, Measured] | None:
    """The run whose results are shown: that which fits best at top-1 as it deforms; of equals the one of least seed."""
    found = {(result.method, result.seed): result for result in results if result.protocol in (FULL, IMAGE)}
    candidates = []
    for run in ground.scope.runs:
        names = [NEAREST_DF] if run.name == DF else [with_df(run.name), run.name]
        result = next((found[name, run.seed] for name in names if (name, run.seed) in found), None)
        if run.model.has_deformation and result is not None and result.retrieved is not None:
            candidates.append((run, result))

    def by_fit(pair: tuple[LoadedRun, Measured]) -> tuple[float, int]:
        return float(pair[1].fits[TOP_1][ground.where].mean()), pair[0].seed

    return min(candidates, key=by_fit, default=None)


def _items(
    ground: Ground,
    run: LoadedRun,
    result: Measured,
    targets: Targets,
    chosen: np.ndarray,
    places: Sequence[str],
    device: str,
    seed: int,
) -> list[Item]:
    assert result.retrieved is not None
    ids = [result.retrieved] if result.best is None else [result.retrieved, result.best]
    row_of = {name: row for row, name in enumerate(ground.store.ids)}
    rows = np.array([[row_of[str(names[target])] for names in ids] for target in chosen])
    local = np.searchsorted(ground.where, chosen)
    points, photos = ground.points[torch.from_numpy(local)].to(device), None
    if ground.views is not None:
        photos = ground.views.shown(local.tolist(), [str(targets.ids[target]) for target in chosen], IMAGE, seed)
    given = points if photos is None else torch.from_numpy(photos).to(device)
    centre, half_extent = (x.cpu().numpy() for x in run.model.deform(given, torch.from_numpy(rows), ground.store))
    undeformed = ground.store.geometry(rows[:, 0], device=device, num_points=points.shape[1]).points
    before = SCALE * chamfer(undeformed, points).cpu().numpy()
    items = []
    for i, target in enumerate(chosen):
        name, cloud = str(targets.ids[target]), points[i].cpu().numpy()
        meshes = [_deformed(ground, row, centre[i, k], half_extent[i, k]) for k, row in enumerate(rows[i])]
        source, retrieved = ground.store.mesh(int(rows[i, 0])), str(ids[0][target])
        shown = [
            Picture(SOURCE, retrieved, float(before[i]), _picture(source)),
            Picture(DEFORMED, retrieved, SCALE * float(result.fits[TOP_1][target]), _picture(meshes[0])),
            Picture(TARGET, name, None, png(render.render_points(cloud, size=SIZE, radius=0.02))),
        ]
        if photos is not None:
            shown.insert(0, Picture("picture", "all that was given", None, png(photos[i].transpose(1, 2, 0))))
        if result.best is not None and result.least is not None:
            least = SCALE * float(result.least[target])
            shown.append(Picture("oracle", str(result.best[target]), least, _picture(meshes[1])))
        glb, note = _turnable(side_by_side(source, meshes[0], cloud))
        category = str(targets.categories[target])
        items.append(Item(name, category, result.method, result.seed, places[i], tuple(shown), glb, note))
    return items


def _turnable(glb: bytes) -> tuple[str, str]:
    """(base64, "") or, where the page would grow too large, ("", why)."""
    if len(glb) <= MAX_BYTES:
        return base64.b64encode(glb).decode(), ""
    return (
        "",
        f"pictures only: its meshes take {len(glb) / 2**20:.1f} MiB, more than the {MAX_BYTES >> 20} a page holds",
    )


def _deformed(ground: Ground, row: int, centre: np.ndarray, half_extent: np.ndarray) -> PartMesh:
    record = ground.store.record(int(row))
    return deformed(ground.store.mesh(int(row)), record, centre[: record.num_parts], half_extent[: record.num_parts])


def _picture(mesh: PartMesh) -> str:
    """A mesh coloured by part, as a data URI."""
    vertices, faces, part_of_face = concatenated(mesh)
    return png(render.render_part_mesh(vertices, faces, render.part_colours(mesh.num_parts)[part_of_face], size=SIZE))


def png(image: np.ndarray) -> str:
    """A picture (H, W, 3 or 4) uint8 as a PNG data URI."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
