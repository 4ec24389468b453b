"""The decoder of the autoencoder: a code to a cloud of points."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

HIDDEN = (256, 512)


class PointDecoder(nn.Module):
    """An MLP with ReLU between the layers that gives all points at once (Achlioptas et al., ICML 2018, section 3)."""

    def __init__(self, code: int, num_points: int, hidden: Sequence[int] = HIDDEN) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = code
        for channel in hidden:
            layers += [nn.Linear(width, channel), nn.ReLU(inplace=True)]
            width = channel
        self.layers = nn.Sequential(*layers, nn.Linear(width, 3 * num_points))

    def forward(self, code: Float[Tensor, "M D"]) -> Float[Tensor, "M N 3"]:
        """The clouds that M codes stand for, in no order that means anything."""
        return self.layers(code).view(len(code), -1, 3)
