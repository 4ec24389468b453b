"""What training and validation show of targets: all of each, or a cut of its own in the frame of what is left.

The fitting loss is against the whole either way, so a shown target brings the whole mapped into its observed frame and
what leads back: the frames' units differ by target, and a loss in them is worth scale^2 in the unit of the whole.
Without that factor small remainders outweigh the rest: networks alone, trained so for 12 epochs, were 4 and 11 % worse
(half-space, 50 % missing) and 16 and 23 % (view, 75 %) on the source nearest to the whole, two seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jr_dist.geometry.observation import generator, training_cut


def whole_targets(num_targets: int) -> dict[str, np.ndarray]:
    """`scale` and `origin`, as of `cut_targets`, of targets that are shown whole."""
    return {"scale": np.ones(num_targets, np.float32), "origin": np.zeros((num_targets, 3), np.float32)}


def cut_targets(
    points: np.ndarray, keys: Sequence[tuple[str | int, ...]], *, num_points: int, encoder_points: int
) -> dict[str, np.ndarray]:
    """Targets [B, N', 3] cut, each as its key says and nothing else: the same in any process and any batch.

    Returns float32 arrays: `points` [B, N, 3] the first `num_points` of the whole, in the observed frame;
    `shown` [B, E, 3] what is left, its first `encoder_points` (where fewer are left they repeat, which a
    max-pooling does not notice); `scale` [B], in the unit of the whole; `origin` [B, 3], where the frame of the
    whole has its origin in the observed frame. Raises `InputError` as `training_cut` does.
    """
    cuts = [training_cut(cloud, generator(*key)) for cloud, key in zip(points, keys, strict=True)]
    return {
        "points": np.stack([cut.seen_from_here(cloud[:num_points]) for cut, cloud in zip(cuts, points)]),
        "shown": np.stack([np.resize(cut.points, (encoder_points, 3)) for cut in cuts]),
        "scale": np.array([cut.scale for cut in cuts], np.float32),
        "origin": np.stack([cut.seen_from_here(np.zeros((1, 3)))[0] for cut in cuts]),
    }
