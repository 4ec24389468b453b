"""The structure-aware deformation module of section 2.2: six numbers for every part of a source."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class StructureAwareDeformation(nn.Module):
    """The 3-layer MLP (512, 256, 6) on [global code | target code | part code], with ReLU between the layers.

    The first layer is linear in the three codes, so each code is multiplied once, not once a pair and part:
    W_s g is computed once a source, W_t t once a target, W_p l once a part, and the sums are formed after.
    (The published code has no ReLU here, which makes its whole network one affine map.)
    """

    def __init__(self, global_code: int, target_code: int, part_code: int, hidden: Sequence[int] = (512, 256)) -> None:
        super().__init__()
        first, second = hidden
        self.from_global = nn.Linear(global_code, first)
        self.from_target = nn.Linear(target_code, first, bias=False)
        self.from_part = nn.Linear(part_code, first, bias=False)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 6))
        _draw_as_one_layer(self.from_global, self.from_target, self.from_part)

    def source_term(
        self, global_code: Float[Tensor, "S G"], part_code: Float[Tensor, "S P C"]
    ) -> Float[Tensor, "S P H"]:
        """The source's share of the first layer, W_s g + W_p l + b; the same for all targets."""
        return self.from_global(global_code)[:, None] + self.from_part(part_code)

    def target_term(self, target_code: Float[Tensor, "B T"]) -> Float[Tensor, "B H"]:
        """The target's share of the first layer, W_t t; the same for all sources."""
        return self.from_target(target_code)

    def decode(self, source_term: Float[Tensor, "M P H"], target_term: Float[Tensor, "M H"]) -> Float[Tensor, "M P 6"]:
        """delta of M pairs: three numbers for each part's centre, then three for its half-extent."""
        return self.rest(source_term + target_term[:, None])

    def forward(
        self,
        global_code: Float[Tensor, "S G"],
        part_code: Float[Tensor, "S P C"],
        target_code: Float[Tensor, "B T"],
        source_index: Int[Tensor, " M"],
        target_index: Int[Tensor, " M"],
    ) -> Float[Tensor, "M P 6"]:
        """delta for the M pairs (source_index[m], target_index[m])."""
        source = self.source_term(global_code, part_code)
        target = self.target_term(target_code)
        return self.decode(source[source_index], target[target_index])


def _draw_as_one_layer(*layers: nn.Linear) -> None:
    # nn.Linear draws from +-1/sqrt(its own inputs); the three are one layer, so their inputs count together.
    inputs = sum(layer.in_features for layer in layers)
    bound = inputs**-0.5
    with torch.no_grad():
        for layer in layers:
            layer.weight.uniform_(-bound, bound)
            if layer.bias is not None:
                layer.bias.uniform_(-bound, bound)
