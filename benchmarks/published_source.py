"""A source and the decoder as the published formulation has them: what step.py and step_gpu.py compare with."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.models.encoders import PointNet
from jr_dist.models.structure_aware import StructureAwareDeformation

ALPHA = 0.1


@dataclass(frozen=True)
class DenseSource:
    """A source as matrices."""

    matrix: np.ndarray  # [3N, 6P] float64, points = matrix @ parameters
    default: np.ndarray  # [6P] float64: centre and half-extent of a part after another
    projection: np.ndarray  # [6P, 6P] float64
    points: Tensor  # [N, 3]


def dense_source(geometry: PartGeometry, num_parts: int) -> DenseSource:
    """The one source of `geometry`, of which `num_parts` are no padding."""
    num_points, padded = geometry.points.shape[1], geometry.centre.shape[1]
    part, canonical = geometry.part_index[0].numpy(), geometry.canonical[0].numpy()
    matrix = np.zeros((num_points, 3, num_parts, 6))
    projection = np.zeros((num_parts, 6, num_parts, 6))
    real = np.r_[:num_parts, padded : padded + num_parts]
    for axis in range(3):
        matrix[np.arange(num_points), axis, part, axis] = 1
        matrix[np.arange(num_points), axis, part, 3 + axis] = canonical[:, axis]
        of_axis = geometry.projection[0, axis].numpy()[np.ix_(real, real)]
        blocks = of_axis.reshape(2, num_parts, 2, num_parts).transpose(1, 0, 3, 2)
        projection[:, axis::3, :, axis::3] = blocks
    default = torch.cat([geometry.centre[0, :num_parts], geometry.half_extent[0, :num_parts]], 1)
    return DenseSource(
        matrix.reshape(3 * num_points, -1),
        default.flatten().double().numpy(),
        projection.reshape(6 * num_parts, -1),
        geometry.points[0],
    )


def plain_decoder(deformation: StructureAwareDeformation) -> nn.Sequential:
    """The deformation module as one plain MLP on [global | target | part], with the same weights."""
    module = deepcopy(deformation)
    parts = module.from_global, module.from_target, module.from_part
    first = nn.Linear(sum(part.in_features for part in parts), module.from_global.out_features)
    with torch.no_grad():
        first.weight.copy_(torch.cat([part.weight for part in parts], 1))
        first.bias.copy_(module.from_global.bias)
    return nn.Sequential(first, *module.rest)


class LayerAfterLayer(nn.Module):
    """A PointNet of the same weights as torch runs it: product, batch norm and ReLU each in a pass of its own."""

    def __init__(self, encoder: PointNet) -> None:
        super().__init__()
        self.point_layers, self.head = deepcopy(encoder.point_layers), deepcopy(encoder.head)

    def forward(self, points: Tensor) -> Tensor:
        """[M, N, 3] to [M, D]."""
        features = self.point_layers(points.flatten(0, 1)).view(*points.shape[:2], -1)
        return self.head(torch.relu(features.max(dim=1).values))


def plain_encoder(encoder: nn.Module) -> nn.Module:
    """The same encoder by torch's own layers; what is no PointNet is copied as it is."""
    return LayerAfterLayer(encoder) if isinstance(encoder, PointNet) else deepcopy(encoder)
