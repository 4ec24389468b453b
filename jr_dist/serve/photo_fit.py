"""From one photograph to its best sources: masked, framed as in training, retrieved, deformed; then seen from where?"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jr_dist.data.augment import plain_picture
from jr_dist.data.part_mesh import concatenated
from jr_dist.errors import InputError
from jr_dist.serve.database import Database
from jr_dist.serve.matching import Fitted, deformed_by_network, joint_report, retrieved
from jr_dist.serve.overlay import Panels, draw_panels, sheet
from jr_dist.serve.photo_files import read_photo
from jr_dist.serve.photo_masks import PhotoMask, mask_photo
from jr_dist.serve.result import Candidate, PhotoReport, ViewpointReport, part_fits
from jr_dist.serve.viewpoint import Viewpoint, find_viewpoint

MASK_NAME = "mask.png"
OVERLAY_NAME = "overlay.png"
POOR_OVERLAP = 0.6  # of silhouettes, below which a viewpoint means little

_NO_SCALE = "a photo gives no scale: the models are in the canonical frame, half-diagonal 1 whatever the object's size"


@dataclass(frozen=True)
class PhotoFit:
    """What was found out about one photograph."""

    fitted: list[Fitted]  # nearest first
    mask: PhotoMask
    panels: Panels
    report: PhotoReport
    warnings: tuple[str, ...]


def fit_photo(database: Database, path: Path, top_k: int) -> PhotoFit:
    """The sources nearest to the photo's framed object in the learned space, deformed by the network.

    Nothing is measured against the photo but the best one's silhouette. Raises `InputError` naming the file.
    """
    assert database.picture_size is not None, "the run takes pictures"
    photo = read_photo(path)
    try:
        mask = mask_photo(photo.rgba)
        shown = plain_picture(np.dstack([photo.rgba[..., :3], mask.alpha]), database.picture_size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    fitted = _nearest(database, torch.from_numpy(shown)[None], top_k)
    model = fitted[0].deformed_mesh()
    try:
        viewpoint = find_viewpoint(*concatenated(model)[:2], mask.alpha)
        panels = draw_panels(photo.rgba, mask.alpha, model, viewpoint.best.camera)
    except InputError as error:
        raise InputError(f"{path}: its best model, {fitted[0].candidate.source}, can't be drawn ({error})") from error
    return PhotoFit(
        fitted,
        mask,
        panels,
        PhotoReport(_report(viewpoint), MASK_NAME, mask.method, mask.confidence, OVERLAY_NAME),
        (*mask.warnings, _NO_SCALE, *_warnings(viewpoint)),
    )


def picture_files(found: PhotoFit, *, sheet_name: str | None) -> dict[str, bytes]:
    """The mask and the overlay as PNG, and under `sheet_name` all that there is to see side by side."""
    files = {
        MASK_NAME: _png(Image.fromarray(found.mask.alpha)),
        OVERLAY_NAME: _png(Image.fromarray(found.panels.overlay)),
    }
    if sheet_name is not None:
        view = found.report.viewpoint
        mask = f"mask from its {found.mask.method}, confidence {found.mask.confidence:.2f}"
        overlay = f"azimuth {view.azimuth:.0f}, elevation {view.elevation:.0f}, IoU {view.iou:.2f}"
        files[sheet_name] = _png(sheet(found.panels, mask, overlay, found.fitted[0].candidate.source))
    return files


@torch.no_grad()
def _nearest(database: Database, shown: torch.Tensor, top_k: int) -> list[Fitted]:
    rows, distances = retrieved(database, shown, top_k)
    centres, half_extents = deformed_by_network(database, shown, rows)
    fitted = []
    for rank, (row, distance) in enumerate(zip(rows.tolist(), distances.tolist()), start=1):
        record = database.store.record(row)
        centre, half_extent = (x[rank - 1, : record.num_parts].numpy() for x in (centres, half_extents))
        candidate = Candidate(
            source=record.id,
            category=record.category,
            retrieval_distance=distance,
            retrieval_rank=rank,
            chamfer_before_x100=math.nan,
            chamfer_after_x100=math.nan,
            chamfer_network_x100=None,
            one_sided_before_x100=math.nan,
            one_sided_after_x100=math.nan,
            objective_x100=None,
            parameters="network",
            glb="",
            joints=joint_report(record, centre, half_extent),
            parts=part_fits(record.part_names, record.centre, record.half_extent, centre, half_extent),
        )
        fitted.append(Fitted(record, database.store.mesh(row), centre, half_extent, candidate))
    return fitted


def _report(viewpoint: Viewpoint) -> ViewpointReport:
    best, other = viewpoint.best, viewpoint.runner_up
    return ViewpointReport(
        azimuth=round(best.camera.azimuth, 2),
        elevation=round(best.camera.elevation, 2),
        distance=round(best.camera.distance, 3),
        iou=round(best.iou, 4),
        ambiguous=viewpoint.ambiguous,
        runner_up={
            "azimuth": round(other.camera.azimuth, 2),
            "elevation": round(other.camera.elevation, 2),
            "iou": round(other.iou, 4),
        },
    )


def _warnings(viewpoint: Viewpoint) -> Iterable[str]:
    best, other = viewpoint.best, viewpoint.runner_up
    if best.iou < POOR_OVERLAP:
        yield (
            f"the model's silhouette agrees poorly with the mask (IoU {best.iou:.2f}): "
            "the viewpoint means little, and so may the fit; look at the overlay"
        )
    elif viewpoint.ambiguous:
        yield (
            f"the silhouette is the same from azimuth {best.camera.azimuth:.0f} and {other.camera.azimuth:.0f}: "
            "the photo may have been taken from either"
        )


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
