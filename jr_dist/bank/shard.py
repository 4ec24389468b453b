"""A shard of the bank: whole blocks of per-source codes as a plain object, with the update rule and the proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jr_dist.bank.layout import BankLayout, initial_block, split_by_block
from jr_dist.bank.noise import gumbel_noise
from jr_dist.bank.optimiser import RowOptimiser

MINIMUM_WEIGHT = 1e-6  # as in models.retrieval.retrieval_weight


@dataclass(frozen=True)
class Proposal:
    """The best k sources a shard offers to each target, with their noisy scores, best first."""

    rows: np.ndarray  # [B, k] int64
    scores: np.ndarray  # [B, k] float32: -d^2 / sigma0^2 + Gumbel noise
    log_total: np.ndarray  # [B] float32: log sum_s exp(-d^2 / sigma0^2) over the shard
    mean_score: np.ndarray  # [B] float32: mean of -d^2 / sigma0^2 under the shard's softmax, for the entropy of Eq. 1
    nearest: np.ndarray  # [B] int64: the source of the smallest d^2, without noise
    nearest_score: np.ndarray  # [B] float32: its -d^2 / sigma0^2


class BankShard:
    """Tables, optimiser slots and the scan's copy for some blocks of sources.

    Rows are named by their number in the whole database. Pushes of a step are collected from all ranks and applied
    once, in rank order: sum_r n_r g_r / sum_r n_r, the mean over all targets of the step.
    """

    def __init__(
        self, layout: BankLayout, blocks: Sequence[int], optimiser: RowOptimiser, *, num_ranks: int = 1
    ) -> None:
        self.layout, self.optimiser, self.num_ranks = layout, optimiser, num_ranks
        self.blocks = sorted(blocks)
        self.rows = np.concatenate([np.arange(a, b) for _, a, b in split_by_block(layout, self.blocks)])
        self._part_offsets = np.concatenate([[0], np.cumsum(np.asarray(layout.num_parts, np.int64)[self.rows])])
        drawn = [initial_block(layout, block) for block in self.blocks]
        self.tables = {name: np.concatenate([block[name] for block in drawn]) for name in drawn[0]}
        self.slots = {name: optimiser.slots(table) for name, table in self.tables.items()}
        self.cached_embedding = None if layout.learned_embedding else np.zeros((len(self.rows), layout.embedding), "f4")
        self.embedding_version = -1
        self._pushed: dict[int, tuple[np.ndarray, Mapping[str, np.ndarray], int]] = {}

    # ---- soft retrieval -------------------------------------------------------------------------------------------

    def propose(
        self, queries: np.ndarray, target_ids: np.ndarray, k: int, sigma0: float, *, seed: int, step: int
    ) -> Proposal:
        """The k largest of -d_R^2 / sigma0^2 + Gumbel(seed, step, target, source) among this shard's sources.

        The k best of the union over all shards are then an exact draw without replacement from Eq. 1 over the whole
        database (the Gumbel-max trick: the order of the noisy logits is that of sequential sampling), and the tables
        never move. queries: [B, D] float32, phi(t).
        """
        logits = -self.squared_distances(queries) / np.float32(sigma0 * sigma0)
        noisy = logits + gumbel_noise(seed, step, target_ids, self.rows)
        k = min(k, len(self.rows))
        best = np.argpartition(-noisy, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(noisy, best, 1).argsort(axis=1, kind="stable")[:, ::-1]
        best = np.take_along_axis(best, order, 1)
        top = logits.max(axis=1, keepdims=True)
        weights = np.exp(logits - top)
        total = weights.sum(1)
        return Proposal(
            rows=self.rows[best],
            scores=np.take_along_axis(noisy, best, 1),
            log_total=np.log(total) + top[:, 0],
            mean_score=(weights * logits).sum(1) / total,
            nearest=self.rows[logits.argmax(1)],
            nearest_score=top[:, 0],
        )

    def squared_distances(self, queries: np.ndarray) -> np.ndarray:
        """d_R^2 of B targets to the shard's sources, [B, S_shard], as two products (see models.retrieval)."""
        embedding = self.tables["embedding"] if self.layout.learned_embedding else self.cached_embedding
        square = self._weights() ** 2
        moved = square * embedding
        distance = (queries**2) @ square.T - 2.0 * (queries @ moved.T) + (moved * embedding).sum(1)
        return np.maximum(distance, 0.0)

    def _weights(self) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-self.tables["retrieval_weight"])) + np.float32(MINIMUM_WEIGHT)

    def set_embedding(self, rows: np.ndarray, values: np.ndarray, version: int) -> None:
        """Replace the cached embedding of `rows`; `version` is the step whose encoder made it."""
        assert self.cached_embedding is not None, "a learned embedding has no cache"
        self.cached_embedding[self._local(rows)] = values
        self.embedding_version = version

    # ---- pull, push, apply ----------------------------------------------------------------------------------------

    def pull(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Copies of the rows of every table; `part_code` holds the parts of the sources one after another."""
        local = self._local(rows)
        pulled = {name: self.tables[name][local] for name in self.layout.row_widths}
        return pulled | {"part_code": self.tables["part_code"][self._local_parts(local)]}

    def push(
        self, step: int, rank: int, rows: np.ndarray, gradients: Mapping[str, np.ndarray], num_targets: int
    ) -> None:
        """Keep a rank's gradients of its mean loss over `num_targets` targets until `apply`. `rows` are unique."""
        assert rank not in self._pushed, f"rank {rank} pushed twice in step {step}"
        assert len(np.unique(rows)) == len(rows), "pushed rows must be unique"
        self._pushed[rank] = (np.asarray(rows), dict(gradients), num_targets)

    def apply(self, step: int, rate: float) -> None:
        """Move the rows that any rank touched by the mean gradient over all targets of the step."""
        assert len(self._pushed) == self.num_ranks, f"step {step}: {len(self._pushed)} of {self.num_ranks} ranks pushed"
        pushes = [self._pushed[rank] for rank in sorted(self._pushed)]
        self._pushed = {}
        total = sum(num_targets for _, _, num_targets in pushes)
        rows = np.unique(np.concatenate([pushed for pushed, _, _ in pushes]))
        if len(rows) == 0:
            return
        local = self._local(rows)
        for name in sorted({name for _, gradients, _ in pushes for name in gradients}):
            index = self._local_parts(local) if name == "part_code" else local
            mean = np.zeros((len(index), self.tables[name].shape[1]), np.float32)
            for pushed, gradients, num_targets in pushes:
                if name in gradients:
                    own = self._local(pushed)
                    own = self._local_parts(own) if name == "part_code" else own
                    mean[np.searchsorted(index, own)] += np.float32(num_targets / total) * gradients[name]
            self.optimiser.update(self.tables[name], self.slots[name], index, mean, rate)

    def fill(self, name: str, value: float) -> None:
        """Set a whole table to one value (the learned sigma_k start from a matched scale)."""
        self.tables[name][:] = value

    def clamp(self, name: str, low: float, high: float) -> None:
        """Keep a table inside bounds."""
        np.clip(self.tables[name], low, high, out=self.tables[name])

    # ---- state ----------------------------------------------------------------------------------------------------

    def block_state(self, block: int) -> dict[str, np.ndarray]:
        """Everything of one block as named arrays: what its file in a checkpoint holds."""
        first, last = self.layout.block_rows(block)
        local = self._local(np.arange(first, last))
        parts = self._local_parts(local)
        state = {}
        for name, table in self.tables.items():
            index = parts if name == "part_code" else local
            state[name] = table[index]
            state |= {f"{name}.{slot}": values[index] for slot, values in self.slots[name].items()}
        if self.cached_embedding is not None:
            state["cached_embedding"] = self.cached_embedding[local]
        return state

    def load_block_state(self, block: int, state: Mapping[str, np.ndarray], embedding_version: int) -> None:
        """Put back what `block_state` gave."""
        first, last = self.layout.block_rows(block)
        local = self._local(np.arange(first, last))
        parts = self._local_parts(local)
        for name, table in self.tables.items():
            index = parts if name == "part_code" else local
            table[index] = state[name]
            for slot, values in self.slots[name].items():
                values[index] = state[f"{name}.{slot}"]
        if self.cached_embedding is not None:
            self.cached_embedding[local] = state["cached_embedding"]
        self.embedding_version = embedding_version

    # ---- indices --------------------------------------------------------------------------------------------------

    def _local(self, rows: np.ndarray) -> np.ndarray:
        local = np.searchsorted(self.rows, rows)
        assert np.array_equal(self.rows[np.minimum(local, len(self.rows) - 1)], rows), "rows of another shard"
        return local

    def _local_parts(self, local: np.ndarray) -> np.ndarray:
        starts, counts = self._part_offsets[local], self._part_offsets[local + 1] - self._part_offsets[local]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(starts, counts) + within
