"""What a fit looks like: the input's points, the source, the source deformed; parts keep their colours."""

from __future__ import annotations

import numpy as np
from PIL import Image

from jr_dist.data.part_mesh import PartMesh, concatenated
from jr_dist.data.render import contact_sheet, part_colours, render_part_mesh, render_points
from jr_dist.serve.matching import Fitted

SIZE = 320  # pixels of one view


def fit_picture(points: np.ndarray, best: Fitted, *, partial: bool) -> Image.Image:
    """Input `points` (N, 3), canonical frame | source | deformed source, with the chamfers below; one-sided where the
    input is `partial`."""
    name, before, after = best.candidate.distances(partial=partial)
    labels = [
        f"input, {len(points)} points",
        f"source, {name} x100 {before:.3f}",
        f"deformed, {name} x100 {after:.3f}",
    ]
    views = [render_points(points, size=SIZE), _view(best.mesh), _view(best.deformed_mesh())]
    return contact_sheet(views, labels, columns=3, title=best.candidate.source)


def _view(mesh: PartMesh) -> np.ndarray:
    vertices, faces, part_of_face = concatenated(mesh)
    return render_part_mesh(vertices, faces, part_colours(mesh.num_parts)[part_of_face], size=SIZE)
