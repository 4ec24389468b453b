"""PointNet: a cloud of points to one code, whatever the order of the points."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jr_dist.models.largest_product import largest_product
from jr_dist.models.point_layer import fold, moments, point_layer


class PointNet(nn.Module):
    """The encoder E of the paper (section 2.2; Qi et al., CVPR 2017) without its transformer networks.

    A shared MLP a point (linear, batch norm, ReLU for each of `channels`), the maximum over the points, then one linear
    layer to the code, with no activation behind it. The points may be permuted or repeated without changing the code.
    In training, products behind the first layer are made in `precision` where one is given; all else has the type of
    the weights.
    """

    def __init__(self, channels: Sequence[int], code: int, *, precision: torch.dtype | None = None) -> None:
        super().__init__()
        self._precision = precision
        layers: list[nn.Module] = []
        width = 3
        for channel in channels:
            # The bias would be taken out again by the batch norm's mean.
            layers += [nn.Linear(width, channel, bias=False), nn.BatchNorm1d(channel), nn.ReLU(inplace=True)]
            width = channel
        # The last ReLU follows the maximum, with which it commutes. `forward` reads only weights and statistics of
        # these: point_layer.py and largest_product.py do what they would, in fewer passes over the memory.
        self.point_layers = nn.Sequential(*layers[:-1])
        self.head = nn.Linear(width, code)

    def forward(self, points: Float[Tensor, "M N 3"]) -> Float[Tensor, "M D"]:
        """Encode M clouds of N points in the canonical frame."""
        count, features = points.shape[0] * points.shape[1], points.flatten(0, 1)
        layers = self._layers()
        known = moments(features) if layers[0][1].training else None
        for (linear, norm), (_, next_norm) in pairwise(layers):
            folded = fold(linear.weight, norm, known, count)
            weight = folded.scale[:, None] * linear.weight
            features, known = point_layer(features, weight, folded.shift, of_outputs=next_norm.training)
            features = features if self._precision is None or not self.training else features.to(self._precision)
        linear, norm = layers[-1]
        scale, shift = fold(linear.weight, norm, known, count)
        # Batch norm is monotone in a channel: the largest after it comes from the largest product, or the least.
        falls = scale.detach() < 0
        turned = torch.where(falls[:, None], -linear.weight, linear.weight)
        largest = largest_product(features.view(*points.shape[:2], -1), turned)
        return self.head(torch.relu(torch.where(falls, -scale, scale) * largest + shift))

    def _layers(self) -> list[tuple[nn.Linear, nn.BatchNorm1d]]:
        linears = [module for module in self.point_layers if isinstance(module, nn.Linear)]
        norms = [module for module in self.point_layers if isinstance(module, nn.BatchNorm1d)]
        return list(zip(linears, norms, strict=True))
