"""All dense weights of a run in one module: two target encoders and the deformation module."""

from collections.abc import Sequence

import torch
from torch import nn

from jr_dist.models.encoders import PointNet
from jr_dist.models.structure_aware import StructureAwareDeformation


class Networks(nn.Module):
    """Separate encoders for retrieval and deformation (section 2.2) and the deformation module.

    What belongs to one source (codes, metric, sigma_k) is not here but in the bank.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        hidden: Sequence[int],
        global_code: int,
        target_code: int,
        part_code: int,
        embedding: int,
    ) -> None:
        super().__init__()
        self.deformation_encoder = PointNet(channels, target_code)
        self.retrieval_encoder = PointNet(channels, embedding)
        self.deformation = StructureAwareDeformation(global_code, target_code, part_code, hidden)


def seeded_networks(seed: int, **sizes) -> Networks:
    """Networks whose first weights depend on `seed` alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 - inside fork_rng; nn's initialisers take no generator
        return Networks(**sizes)
