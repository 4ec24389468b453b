"""PointNet: a cloud of points to one code, whatever the order of the points."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PointNet(nn.Module):
    """The encoder E of the paper (section 2.2; Qi et al., CVPR 2017) without its transformer networks.

    A shared MLP a point (linear, batch norm, ReLU for each of `channels`), the maximum over the points, then one linear
    layer to the code, with no activation behind it. The points may be permuted or repeated without changing the code.
    """

    def __init__(self, channels: Sequence[int], code: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for channel in channels:
            # The bias would be taken out again by the batch norm's mean.
            layers += [nn.Linear(width, channel, bias=False), nn.BatchNorm1d(channel), nn.ReLU(inplace=True)]
            width = channel
        # The last ReLU follows the maximum, with which it commutes: N times fewer numbers.
        self.point_layers = nn.Sequential(*layers[:-1])
        self.head = nn.Linear(width, code)

    def forward(self, points: Float[Tensor, "M N 3"]) -> Float[Tensor, "M D"]:
        """Encode M clouds of N points in the canonical frame."""
        num_clouds, num_points, _ = points.shape
        features = self.point_layers(points.reshape(num_clouds * num_points, 3))
        # `max` sends the gradient to one point of each maximum; `amax` would share it among ties, at more cost.
        largest = features.view(num_clouds, num_points, -1).max(dim=1).values
        return self.head(torch.relu(largest))
