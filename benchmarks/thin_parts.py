"""What `fit --refine` gives up where thin boards keep a share of their thickness: chamfer to points held out.

    python benchmarks/thin_parts.py [--quick] [--seeds 0,1,2]

Procedural targets with their three nearest sources, on furniture of three seeds. Fitted to one half of a target's
points and judged by the chamfer to the other half, with other samples of the source. A row is a `thin_scale` of
`models.refine`; 0.05 is what binds every half-extent anyway. `collapsed` counts half-extents below a tenth of the
source's.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from harness import machine, parser, progress

from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.source_store import SourceStore
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer, chamfer_matrix
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import MINIMUM_SCALE
from jr_dist.models.refine import Refinement, refine

NUM_SOURCES = 60
NUM_POINTS = 1024  # fitted to; as many are held out
NEAREST = 3
SCALES = (MINIMUM_SCALE, 0.3, 0.5, 0.75)


@dataclass(frozen=True)
class Case:
    """M sources, sampled twice, and B targets, cut in two."""

    fitted: PartGeometry
    judged: PartGeometry
    seen: torch.Tensor
    held_out: torch.Tensor
    target_index: torch.Tensor


def main() -> None:
    """Fit with each scale and print what came of it, over all seeds."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", default="20261,20262,20263", help="of the furniture (default: %(default)s)")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    print(machine(given.threads))
    seeds = [int(seed) for seed in given.seeds.split(",")]
    cases = [make_case(seed, 16 if given.quick else 64) for seed in seeds]
    print(
        f"\n{'thin_scale':>10} {'fitted x100':>12} {'held out x100':>14} {'of least':>9} {'collapsed':>10}  each seed"
    )
    base = None
    for scale in SCALES:
        fitted, held_out, collapsed = zip(*[judged(case, scale) for case in cases], strict=True)
        base = np.array(held_out) if base is None else base
        shares = np.array(held_out) / base
        each = " ".join(f"{share:.3f}" for share in shares)
        print(
            f"{scale:10g} {np.mean(fitted):12.4f} {np.mean(held_out):14.4f} {np.mean(held_out) / base.mean():9.3f} "
            f"{np.mean(collapsed):10.1%}  {each}"
        )


def make_case(seed: int, num_targets: int) -> Case:
    """Furniture of one seed."""
    progress(f"making furniture, seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "furniture"
        synthesize(
            path,
            num_sources=NUM_SOURCES,
            num_targets=2 * num_targets,
            categories=("chair", "table", "cabinet"),
            seed=seed,
            num_points=2 * NUM_POINTS,
        )
        dataset = open_dataset(path)
        everything = SourceStore.open(dataset).geometry(np.arange(NUM_SOURCES))
        points = torch.from_numpy(np.array(read_targets(dataset, "train").points[:num_targets]))
    seen, held_out = points[:, :NUM_POINTS].contiguous(), points[:, NUM_POINTS:].contiguous()
    order = chamfer_matrix(everything.points[:, :512].contiguous(), seen[:, :512].contiguous()).argsort(dim=0)
    rows = order[:NEAREST].T.reshape(-1)
    index = torch.arange(num_targets).repeat_interleave(NEAREST)
    fitted, tested = _sampled(everything, slice(None, NUM_POINTS)), _sampled(everything, slice(NUM_POINTS, None))
    return Case(fitted.take(rows), tested.take(rows), seen, held_out, index)


def judged(case: Case, scale: float) -> tuple[float, float, float]:
    """Mean chamfer x100 to what was fitted and to what was held out, and the share of half-extents below a tenth."""
    fit = refine(case.fitted, case.seen, case.target_index, None, Refinement(12, thin_scale=scale))
    clouds = deform(case.judged, fit.centre, fit.half_extent)
    held_out = chamfer(clouds, case.held_out, y_index=case.target_index)
    shares = (fit.half_extent / case.fitted.half_extent)[case.fitted.part_mask]
    return 100 * fit.loss.mean().item(), 100 * held_out.mean().item(), (shares < 0.1).float().mean().item()


def _sampled(geometry: PartGeometry, which: slice) -> PartGeometry:
    """With some of its samples."""
    points = {name: getattr(geometry, name)[:, which].contiguous() for name in ("points", "canonical", "part_index")}
    return replace(geometry, **points)


if __name__ == "__main__":
    main()
