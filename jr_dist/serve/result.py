"""What `fit` found out about one input: frozen records and their form in `result.json`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

FRAME = (
    "canonical: x right, y up, z front; the input's box centre at the origin, half-diagonal 1; "
    "`transform` (4x4, applied to column vectors) leads from it to the input's own frame; of a photo the identity"
)
UNITS = (
    "chamfer: squared, mean over points, both directions added, times 100, canonical frame, "
    "against the input's points, so that what a partial input does not show counts as error; one_sided: the half of it "
    "that looks from the input's points to the source; objective: what the refinement of a partial input minimised, "
    "that half (with the input's mirror image where asked for) and the pull towards the network; "
    "centre, half_extent, translation and gap: canonical units; "
    "scale: new half-extent by old; GLB vertices: the input's own frame and units; "
    "azimuth, elevation: degrees, azimuth 0 in front of the object, positive towards its right; "
    "iou: intersection over union of the silhouette and the mask, both framed"
)


@dataclass(frozen=True)
class PartFit:
    """Where one part of a source went, canonical frame; translation = c - c0, scale = s / s0."""

    name: str
    centre: tuple[float, float, float]
    half_extent: tuple[float, float, float]
    translation: tuple[float, float, float]
    scale: tuple[float, float, float]


@dataclass(frozen=True)
class JointReport:
    """How well a deformed source hangs together: closed joints mean little where there are none."""

    num_joints: int
    joints_max_gap: float  # canonical units, 0 without joints
    joint_graph_connected: bool
    num_joint_groups: int  # groups of parts that hang together; 1 is connected
    null_space_dimensions: tuple[int, int, int]  # degrees of freedom left along x, y, z


@dataclass(frozen=True)
class Candidate:
    """A source deformed to the input. Chamfers x100 against the input's points, canonical frame; of a photo NaN, in
    JSON null."""

    source: str
    category: str
    retrieval_distance: float  # squared d_R; smaller is nearer
    retrieval_rank: int  # 1 is the network's own first choice
    chamfer_before_x100: float
    chamfer_after_x100: float
    chamfer_network_x100: float | None  # with the network's parameters; None where the run does not deform
    one_sided_before_x100: float
    one_sided_after_x100: float
    objective_x100: float | None  # of a partial input, refined
    parameters: str  # "network", "refined" or "undeformed"
    glb: str  # file name in the result's folder
    joints: JointReport
    parts: tuple[PartFit, ...]

    def distances(self, *, partial: bool) -> tuple[str, float, float]:
        """(name, before, after) of the distance that tells how good the fit is, x100."""
        if partial:
            return "one-sided chamfer", self.one_sided_before_x100, self.one_sided_after_x100
        return "chamfer", self.chamfer_before_x100, self.chamfer_after_x100


@dataclass(frozen=True)
class Fitting:
    """How an input was fitted."""

    partial: bool  # it shows a part of the shape
    refined: bool  # by IDO
    mirror: bool  # its mirror image was fitted with it
    iterations: int  # exact solves from each start; 0 where not refined
    prior_weight: float  # pull towards the network's parameters, or the undeformed source's
    ranked_by: str  # the field of a candidate


@dataclass(frozen=True)
class ViewpointReport:
    """From where a photo was taken, as the silhouette of the best candidate, deformed, tells."""

    azimuth: float  # degrees
    elevation: float
    distance: float  # canonical units from the object's middle, as far as perspective tells
    iou: float
    ambiguous: bool  # whether the runner-up is as good
    runner_up: dict[str, float]  # azimuth, elevation and iou of the best viewpoint from another side


@dataclass(frozen=True)
class PhotoReport:
    """What only a photo has; files are names in the result's folder."""

    viewpoint: ViewpointReport
    mask: str  # grey PNG of the photo as it was looked at
    mask_method: str  # "alpha" or "background"
    mask_confidence: float  # 0 to 1
    overlay: str  # the best candidate over the photo, PNG


@dataclass(frozen=True)
class FitResult:
    """One input's candidates, best first, and where they were written."""

    input: str
    path: Path  # OUT/STEM
    kind: str  # "mesh", "points" or "photo"
    up: str
    transform: np.ndarray  # [4, 4] float64, canonical -> the input's frame
    num_file_points: int | None  # None for a photo, as the next two
    num_points: int | None  # points on the input's side of the chamfer
    num_source_points: int | None  # points on the source's side
    run: str
    seed: int
    fitting: Fitting
    candidates: tuple[Candidate, ...]
    warnings: tuple[str, ...] = ()
    photo: PhotoReport | None = None
    files: tuple[str, ...] = ()  # names of all that was written into `path`

    def to_json(self) -> str:
        """The content of `result.json`."""
        return json.dumps(_as_json(self), indent=1, allow_nan=False) + "\n"


def part_fits(
    names: tuple[str, ...],
    centre0: np.ndarray,
    half_extent0: np.ndarray,
    centre: np.ndarray,
    half_extent: np.ndarray,
) -> tuple[PartFit, ...]:
    """One record a part; arrays (P, 3), canonical frame."""
    centre0, half_extent0 = np.asarray(centre0, np.float64), np.asarray(half_extent0, np.float64)
    centre, half_extent = np.asarray(centre, np.float64), np.asarray(half_extent, np.float64)
    columns = (centre, half_extent, centre - centre0, half_extent / half_extent0)
    return tuple(
        PartFit(name, *(tuple(column[part].tolist()) for column in columns)) for part, name in enumerate(names)
    )


def _as_json(result: FitResult) -> dict[str, Any]:
    fields = {
        "input": result.input,
        "input_path": os.path.abspath(result.input),
        "kind": result.kind,
        "up": result.up,
        "transform": result.transform.tolist(),
        "frame": FRAME,
        "units": UNITS,
        "num_file_points": result.num_file_points,
        "num_points": result.num_points,
        "num_source_points": result.num_source_points,
        "run": result.run,
        "seed": result.seed,
        "fitting": asdict(result.fitting),
        "warnings": list(result.warnings),
        "files": list(result.files),
    }
    if result.photo is not None:
        fields.update(asdict(result.photo))
    candidates = [
        {"rank": rank, **_flat(asdict(candidate))} for rank, candidate in enumerate(result.candidates, start=1)
    ]
    return {**fields, "candidates": candidates}


def _flat(candidate: dict[str, Any]) -> dict[str, Any]:
    parts, joints = candidate.pop("parts"), candidate.pop("joints")
    numbers = {name: None if value != value else value for name, value in candidate.items()}  # NaN: not measured
    return {**numbers, **joints, "parts": parts}
