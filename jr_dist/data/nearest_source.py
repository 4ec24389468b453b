"""The nearest source of each target before any deformation, of a database that need not fit in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jr_dist.data.source_store import SourceStore, local_source_batches
from jr_dist.geometry.chamfer import chamfer_matrix

CHUNK = 256  # sources at once: 6 MB of points at 2048 points a source


@torch.no_grad()
def nearest_by_chamfer(store: SourceStore, points: Tensor, num_points: int) -> np.ndarray:
    """[T] int64 the source with the smallest chamfer to each target [T, N, 3], `num_points` points of each source.

    Of equal ones the lowest row. Memory grows with T and not with the database.
    """
    least = torch.full((len(points),), torch.inf, dtype=points.dtype)
    nearest = np.zeros(len(points), np.int64)
    for rows, sources in local_source_batches(store, np.arange(len(store)), num_points=num_points, batch_size=CHUNK):
        found, place = chamfer_matrix(points, sources.to(points.device)).cpu().min(dim=1)
        nearer = found < least
        least[nearer] = found[nearer]
        nearest[nearer.numpy()] = rows[place[nearer].numpy()]
    return nearest
