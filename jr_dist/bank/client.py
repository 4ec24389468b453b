"""What the training step sees of the bank: rows in, tensors out, gradients back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jr_dist.bank.layout import BankLayout
from jr_dist.bank.shard import BankShard, Proposal

# Gives every rank's array for each of ours, in rank order; the shapes are the same on all ranks.
Exchange = Callable[[Sequence[np.ndarray]], list[list[np.ndarray]]]


@dataclass(frozen=True)
class Codes:
    """The codes of U sources as leaf tensors, padded to P parts."""

    rows: np.ndarray  # [U] int64, unique, ascending
    global_code: Tensor  # [U, G]
    part_code: Tensor  # [sum P, C], source after source
    retrieval_weight: Tensor  # [U, D], raw
    fit_scale: Tensor  # [U, 1], log sigma_k
    embedding: Tensor | None  # [U, D] where it is learned
    part_slot: Tensor  # [sum P] int64: where a part lies in the padded [U * P]
    max_parts: int

    def padded_part_code(self) -> Tensor:
        """[U, P, C], zero where there is no part; gradients flow back to `part_code`."""
        width = self.part_code.shape[1]
        padded = self.part_code.new_zeros(len(self.rows) * self.max_parts, width)
        return padded.index_copy(0, self.part_slot, self.part_code).view(len(self.rows), self.max_parts, width)

    def leaves(self) -> dict[str, Tensor]:
        """The tensors that gradients are pushed for."""
        named = {
            "global_code": self.global_code,
            "part_code": self.part_code,
            "retrieval_weight": self.retrieval_weight,
            "fit_scale": self.fit_scale,
        }
        return named | ({} if self.embedding is None else {"embedding": self.embedding})


@dataclass(frozen=True)
class Candidates:
    """K sources drawn for each target."""

    rows: np.ndarray  # [B, K] int64
    effective: np.ndarray  # [B] exp(entropy) of the distribution they were drawn from, over all S sources
    nearest: np.ndarray  # [B] int64, the source that retrieval would return, without sampling


class BankClient:
    """Routes rows to the shards that own them and merges their answers.

    In one process it holds the one shard directly. With several training workers each holds a replica of that shard:
    `exchange` gives every rank the pushes of all, and the replicas apply the same numbers in the same order.
    """

    def __init__(self, layout: BankLayout, shard: BankShard, *, exchange: Exchange | None = None) -> None:
        self.layout, self.shard, self._exchange = layout, shard, exchange
        self.max_parts = max(layout.num_parts)

    def propose(
        self,
        queries: Tensor,
        target_ids: np.ndarray,
        num_candidates: int,
        sigma0: float,
        *,
        seed: int,
        step: int,
    ) -> Candidates:
        """An exact draw of K sources without replacement from Eq. 1 over all S. queries: [B, D], phi(t)."""
        answer = self.shard.propose(
            queries.detach().cpu().numpy(), target_ids, num_candidates, sigma0, seed=seed, step=step
        )
        return merge_proposals([answer], num_candidates)

    def squared_distances(self, queries: Tensor) -> Tensor:
        """d_R^2 of B targets to all S sources, [B, S]."""
        return torch.from_numpy(self.shard.squared_distances(queries.detach().cpu().numpy()))

    def pull(self, rows: np.ndarray, device: torch.device | str = "cpu") -> Codes:
        """The codes of the unique sources `rows` as leaf tensors that require gradients."""
        pulled = {
            name: torch.from_numpy(values).to(device).requires_grad_() for name, values in self.shard.pull(rows).items()
        }
        return Codes(
            rows=rows,
            part_slot=torch.from_numpy(padded_slots(self.layout, rows, self.max_parts)).to(device),
            max_parts=self.max_parts,
            embedding=pulled.get("embedding"),
            **{name: pulled[name] for name in ("global_code", "part_code", "retrieval_weight", "fit_scale")},
        )

    def push_and_apply(self, step: int, codes: Codes, num_targets: int, rate: float, *, most_rows: int) -> None:
        """Send the gradients of a step and apply all ranks'. `most_rows` bounds the unique rows of any rank.

        A leaf that no loss of this step reached has no gradient and does not move.
        """
        gradients = {name: leaf.grad.cpu().numpy() for name, leaf in codes.leaves().items() if leaf.grad is not None}
        if self._exchange is None:
            pushes = [(codes.rows, gradients, num_targets)]
        else:
            pushes = self._all_pushes(self._exchange, codes.rows, gradients, num_targets, most_rows)
        for rank, (rows, grads, count) in enumerate(pushes):
            self.shard.push(step, rank, rows, grads, count)
        self.shard.apply(step, rate)

    def _all_pushes(
        self,
        exchange: Exchange,
        rows: np.ndarray,
        gradients: dict[str, np.ndarray],
        num_targets: int,
        most_rows: int,
    ) -> list[tuple[np.ndarray, dict[str, np.ndarray], int]]:
        # Collective calls need equal shapes, so rows are padded; -1 marks the padding.
        names = sorted(gradients)
        sizes = [most_rows * (self.max_parts if name == "part_code" else 1) for name in names]
        head = _padded(np.append(num_targets, rows)[:, None], most_rows + 1, fill=-1)
        arrays = [head, *(_padded(gradients[n], size) for n, size in zip(names, sizes, strict=True))]
        pushes = []
        for head, *values in exchange(arrays):
            count, row = int(head[0, 0]), head[1:, 0][head[1:, 0] >= 0]
            num_parts = int(np.diff(self.layout.part_offsets)[row].sum())
            lengths = [num_parts if name == "part_code" else len(row) for name in names]
            pushes.append((row, {n: v[:length] for n, v, length in zip(names, values, lengths, strict=True)}, count))
        return pushes


def padded_slots(layout: BankLayout, rows: np.ndarray, max_parts: int) -> np.ndarray:
    """[sum P] int64: the slot, in a padded [U * P], of every part of the sources `rows`."""
    counts = np.diff(layout.part_offsets)[rows]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(np.arange(len(rows)) * max_parts, counts) + within


def merge_proposals(answers: Sequence[Proposal], num_candidates: int) -> Candidates:
    """The K best of the shards' offers, and exp(entropy) of Eq. 1 over the union of their sources.

    H = log Z - E[log weight], with the shards' partial sums Z_i and means joined.
    """
    rows = np.concatenate([answer.rows for answer in answers], axis=1)
    scores = np.concatenate([answer.scores for answer in answers], axis=1)
    best = (-scores).argsort(axis=1, kind="stable")[:, :num_candidates]
    totals = np.stack([answer.log_total for answer in answers], axis=1).astype(np.float64)
    top = totals.max(axis=1, keepdims=True)
    shares = np.exp(totals - top)
    log_total = np.log(shares.sum(1)) + top[:, 0]
    mean = (shares * np.stack([answer.mean_score for answer in answers], axis=1)).sum(1) / shares.sum(1)
    nearest = np.stack([answer.nearest for answer in answers], axis=1)
    winner = np.stack([answer.nearest_score for answer in answers], axis=1).argmax(axis=1)[:, None]
    return Candidates(
        rows=np.take_along_axis(rows, best, 1),
        effective=np.exp(log_total - mean),
        nearest=np.take_along_axis(nearest, winner, 1)[:, 0],
    )


def _padded(values: np.ndarray, length: int, fill: float = 0) -> np.ndarray:
    padded = np.full((length, values.shape[1]), fill, values.dtype)
    padded[: len(values)] = values
    return padded
