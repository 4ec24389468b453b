"""A training step as the published formulation has it, written anew from its description: the peer of step.py.

What is kept: a source is its dense matrix A (3N x 6P, float64) with x' = A Pi (p0 + alpha delta); for every step each
pair's matrices are padded on the host, cast and stacked; the decoder is called once a pair on [global | target | part];
pairs run candidate by candidate (k-major) with targets repeated; a retrieval step encodes the source of every pair.
The encoders run as torch's layers, one after the other.
What is kept in its favour: the decoder's ReLUs and the softmax over candidates are the paper's; a retrieval step sends
no gradient into the deformation (the published one computes it and throws it away); nothing is refreshed or logged.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from chamfer import cdist_loss
from numba import njit
from published_source import ALPHA, DenseSource, dense_source, plain_decoder, plain_encoder
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from jr_dist.data.source_store import SourceStore
from jr_dist.geometry.blocks import run_blocks
from jr_dist.models.networks import Networks

MINIMUM_WEIGHT = 1e-6
#: losses [M] of clouds [M, N, 3] and [M, N2, 3]
PairLoss = Callable[[Tensor, Tensor], Tensor]


# ---- two chamfers ------------------------------------------------------------------------------


class _CdistChamfer(torch.autograd.Function):
    """torch.cdist and autograd, a pair at a time: all pairs at once would hold some 20 GB."""

    @staticmethod
    def forward(ctx, x, y):
        values, gradients = [], []
        wanted = ctx.needs_input_grad
        for a, b in zip(x.split(1), y.split(1), strict=True):
            clouds = a.detach().requires_grad_(wanted[0]), b.detach().requires_grad_(wanted[1])
            with torch.set_grad_enabled(any(wanted)):
                value = cdist_loss(*clouds)
                if any(wanted):
                    value.sum().backward()
            values.append(value.detach())
            gradients.append([cloud.grad for cloud in clouds])
        stacked = [torch.cat(list(g)) if w else None for g, w in zip(zip(*gradients, strict=True), wanted, strict=True)]
        ctx.save_for_backward(*stacked)
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return tuple(None if g is None else g * grad[:, None, None] for g in ctx.saved_tensors)


class _TwoPassChamfer(torch.autograd.Function):
    """Compiled brute force, each direction on its own, gradient from the indices."""

    @staticmethod
    def forward(ctx, x, y):
        a, b = x.detach().contiguous().numpy(), y.detach().contiguous().numpy()
        value = np.zeros(len(a), np.float32)
        to_x, to_y = np.zeros_like(a), np.zeros_like(b)

        def block(start, stop):
            for m in range(start, stop):
                value[m] = _one_pass(a[m], b[m], to_x[m], to_y[m]) + _one_pass(b[m], a[m], to_y[m], to_x[m])
            return 0

        run_blocks(block, len(a), torch.get_num_threads())
        ctx.save_for_backward(torch.from_numpy(to_x), torch.from_numpy(to_y))
        return torch.from_numpy(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return tuple(
            gradient * grad[:, None, None] if wanted else None
            for gradient, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        )


@njit(nogil=True, cache=True, error_model="numpy")
def _one_pass(queries, cloud, to_queries, to_cloud):
    total = 0.0
    scale = np.float32(2 / len(queries))
    for i in range(len(queries)):
        x, y, z = queries[i, 0], queries[i, 1], queries[i, 2]
        best, nearest = np.float32(np.inf), 0
        for j in range(len(cloud)):
            dx, dy, dz = x - cloud[j, 0], y - cloud[j, 1], z - cloud[j, 2]
            squared = dx * dx + dy * dy + dz * dz
            if squared < best:
                best, nearest = squared, j
        total += best
        for axis in range(3):
            pull = scale * (queries[i, axis] - cloud[nearest, axis])
            to_queries[i, axis] += pull
            to_cloud[nearest, axis] -= pull
    return total / len(queries)


def _applied(function: type[torch.autograd.Function]) -> PairLoss:
    return lambda x, y: function.apply(x, y)  # pyright: ignore[reportReturnType]


by_cdist, by_two_passes = _applied(_CdistChamfer), _applied(_TwoPassChamfer)


# ---- the step ----------------------------------------------------------------------------------


def dense_sources(store: SourceStore, num_sources: int | None = None) -> list[DenseSource]:
    """The first sources of the store (all by default) as matrices, built once."""
    rows = range(len(store) if num_sources is None else num_sources)
    return [dense_source(store.geometry(np.array([row])), int(store.num_parts[row])) for row in rows]


class PublishedStep:
    """Networks, codes and optimisers, and the two kinds of step that take turns."""

    def __init__(
        self,
        sources: list[DenseSource],
        networks: Networks,
        tables: dict[str, np.ndarray],
        num_parts: np.ndarray,
        chamfer: PairLoss,
    ) -> None:
        self.sources, self.chamfer = sources, chamfer
        self.deformation_encoder = plain_encoder(networks.deformation_encoder)
        self.retrieval_encoder = plain_encoder(networks.retrieval_encoder)
        self.decoder = plain_decoder(networks.deformation)
        self.global_codes = nn.Parameter(torch.tensor(tables["global_code"]))
        part_codes = torch.tensor(tables["part_code"]).split(num_parts.tolist())
        self.part_codes = [nn.Parameter(codes.clone()) for codes in part_codes]
        self.metrics = nn.Parameter(torch.tensor(tables["retrieval_weight"]))
        moved = [*self.deformation_encoder.parameters(), *self.decoder.parameters(), self.global_codes]
        self.optimiser_deformation = _optimiser([*moved, *self.part_codes])
        self.optimiser_retrieval = _optimiser([*self.retrieval_encoder.parameters(), self.metrics])

    def deformation_step(self, targets: Tensor, candidates: np.ndarray, weights: np.ndarray) -> float:
        """Eq. 4 and the symmetry loss; candidates and their weights [B, K] come from a table made some epochs ago."""
        repeated = targets.repeat(candidates.shape[1], 1, 1)
        shapes = self.deformed(targets, candidates.T.reshape(-1))
        fitting = self.chamfer(shapes, repeated).view(candidates.T.shape)
        mirrored = shapes * torch.tensor([-1.0, 1.0, 1.0])
        symmetry = self.chamfer(shapes, mirrored).mean()
        loss = (torch.from_numpy(weights.T) * fitting).sum(0).mean() + symmetry
        return _update(self.optimiser_deformation, loss)

    def retrieval_step(self, targets: Tensor, candidates: np.ndarray) -> float:
        """Eq. 2 on the same K candidates, each of the B K source clouds encoded."""
        rows = candidates.T.reshape(-1)
        with torch.no_grad():
            shapes = self.deformed(targets, rows)
            fitting = self.chamfer(shapes, targets.repeat(candidates.shape[1], 1, 1)).view(candidates.T.shape)
        codes = self.retrieval_encoder(targets).repeat(candidates.shape[1], 1)
        encoded = self.retrieval_encoder(torch.stack([self.sources[row].points for row in rows]))
        weight = torch.sigmoid(self.metrics[rows]) + MINIMUM_WEIGHT
        squared = ((codes - encoded) * weight).square().sum(1).view(candidates.T.shape)
        difference = torch.softmax(-squared / 100, 0) - torch.softmax(-100 * fitting, 0)
        return _update(self.optimiser_retrieval, difference.abs().sum(0).mean())

    def deformed(self, targets: Tensor, rows: np.ndarray) -> Tensor:
        """Points [K B, N, 3] of every pair: pad, decode, project, multiply."""
        codes = self.deformation_encoder(targets)
        matrices, projections, defaults = self.padded(rows)
        widest = defaults.shape[1]
        delta = torch.stack([self.decoded(row, codes[i % len(codes)], widest) for i, row in enumerate(rows.tolist())])
        parameters = torch.bmm(projections, (defaults + ALPHA * delta)[..., None])
        return torch.bmm(matrices, parameters).view(len(rows), -1, 3)

    def decoded(self, row: int, target_code: Tensor, widest: int) -> Tensor:
        """delta of one pair, flat and padded."""
        parts = self.part_codes[row]
        joined = torch.cat(
            [self.global_codes[row].expand(len(parts), -1), target_code.expand(len(parts), -1), parts], 1
        )
        flat = self.decoder(joined).view(-1)
        return nn.functional.pad(flat, (0, widest - len(flat)))

    def padded(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """The matrices of each pair in float32, padded to the source of most parts."""
        widest = max(len(source.default) for source in self.sources)
        matrices, projections, defaults = [], [], []
        for row in rows:
            source = self.sources[row]
            matrix, projection, default = (
                np.zeros((len(source.matrix), widest)),
                np.zeros((widest, widest)),
                np.zeros(widest),
            )
            used = len(source.default)
            matrix[:, :used], projection[:used, :used], default[:used] = (
                source.matrix,
                source.projection,
                source.default,
            )
            matrices.append(matrix.astype(np.float32))
            projections.append(projection.astype(np.float32))
            defaults.append(default.astype(np.float32))
        matrices, projections, defaults = (np.stack(group) for group in (matrices, projections, defaults))
        return torch.from_numpy(matrices), torch.from_numpy(projections), torch.from_numpy(defaults)


def _optimiser(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=5e-4)


def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> float:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()
