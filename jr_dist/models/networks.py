"""All dense weights of a run in one module: the encoders, the deformation module, and AE's decoder."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import nn

from jr_dist.models.decoder import PointDecoder
from jr_dist.models.encoders import PointNet
from jr_dist.models.image_encoder import ImageEncoder, Layers, Name
from jr_dist.models.structure_aware import StructureAwareDeformation


class Networks(nn.Module):
    """Separate encoders for retrieval and deformation (section 2.2) and the deformation module.

    `encoder` encodes targets: "pointnet" their points, a ResNet pictures of them; beside a ResNet `encode_sources` adds
    a PointNet for the points of sources. Retrieval by an autoencoder has a decoder to `decoded_points`. What belongs to
    one source (codes, metric, sigma_k) is not here but in the bank. In training the encoders multiply in `precision`.
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
        encoder: Literal["pointnet"] | Name = "pointnet",
        trained_layers: Layers = "all",
        freeze_batch_norm: bool = False,
        encode_sources: bool = False,
        decoded_points: int | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        make: Callable[[int], nn.Module] = partial(PointNet, channels, precision=precision)
        if encoder != "pointnet":
            make = partial(
                ImageEncoder, encoder, layers=trained_layers, freeze_batch_norm=freeze_batch_norm, precision=precision
            )
        self.deformation_encoder = make(target_code)
        self.retrieval_encoder = make(embedding)
        self.deformation = StructureAwareDeformation(global_code, target_code, part_code, hidden)
        # Drawn last, so that the weights before them are those of the other methods.
        self.source_encoder = PointNet(channels, embedding, precision=precision) if encode_sources else None
        self.decoder = None if decoded_points is None else PointDecoder(embedding, decoded_points)
        self._deformation_is_kept = False

    def keep_deformation(self) -> None:
        """Hold the deformation module and its encoder fixed, batch norm's running statistics among them."""
        self._deformation_is_kept = True
        self.deformation_encoder.requires_grad_(False)
        self.deformation.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Networks":
        """As `nn.Module.train`; what is kept stays in evaluation mode."""
        super().train(mode)
        if self._deformation_is_kept:
            self.deformation_encoder.eval()
            self.deformation.eval()
        return self


def seeded_networks(seed: int, **sizes) -> Networks:
    """Networks whose first weights depend on `seed` alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 - inside fork_rng; nn's initialisers take no generator
        return Networks(**sizes)
