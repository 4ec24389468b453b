"""A shard of the bank: a run of blocks of per-source codes, with the update rule and the proposals. A plain object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jr_dist.array_files import read_arrays, write_arrays
from jr_dist.bank.layout import BankLayout, initial_block
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.bank.scan import Scan, distances, new_scan_copy, scan, set_scan_rows
from jr_dist.locations import AnyPath, UriPath, check_access
from jr_dist.models.retrieval import MINIMUM_WEIGHT

#: a matrix of more distances than these would count beside the tables
TARGETS_AT_ONCE = 16


@dataclass(frozen=True)
class Proposal:
    """What a shard offers to each target, and which embeddings it looked at."""

    best: Scan
    embedding_version: int  # the step whose encoder made them; -1 where they are learned


@dataclass(frozen=True)
class Update:
    """What all ranks agree on about the update of a step."""

    rate: float
    start: Mapping[str, float] = field(default_factory=dict)  # tables that are set to one value before it
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # where touched rows of a table are kept


def block_file(block: int) -> str:
    """File of a block of the bank in a checkpoint."""
    return f"bank-{block:06d}.safetensors"


class BankShard:
    """Tables, optimiser slots and the scan's copy of the sources of some blocks that follow one another.

    Rows are named by their number in the whole database. `version` is the number of steps applied: the step whose
    pushes are collected next. When all ranks have pushed, they are applied once, in rank order:
    sum_r n_r g_r / sum_r n_r, the mean over all targets of the step. Without an `optimiser` the codes are only read.
    """

    def __init__(
        self,
        layout: BankLayout,
        blocks: range,
        optimiser: RowOptimiser | None,
        *,
        num_ranks: int = 1,
        num_threads: int = 1,
    ) -> None:
        self.layout, self.blocks, self.optimiser = layout, blocks, optimiser
        self.num_ranks, self.num_threads = num_ranks, num_threads
        self.version = 0
        self.first = layout.block_rows(blocks[0])[0]
        self.last = layout.block_rows(blocks[-1])[1]
        self._first_part, last_part = (int(layout.part_offsets[row]) for row in (self.first, self.last))
        num_rows, width = self.last - self.first, layout.embedding
        # Filled block by block: at a million sources a second copy would be gigabytes.
        self.tables = {name: np.empty((num_rows, width), np.float32) for name, width in layout.row_widths.items()}
        self.tables["part_code"] = np.empty((last_part - self._first_part, layout.part_code), np.float32)
        self.slots = {name: optimiser.slots(table) if optimiser else {} for name, table in self.tables.items()}
        self.cached_embedding = None if layout.learned_embedding else np.zeros((num_rows, width), np.float32)
        self._embedding_version = np.full(num_rows, -1)
        self._scan_copy = new_scan_copy(num_rows, width)
        self._source_ids = np.arange(self.first, self.last)
        self._pushed: dict[int, tuple[np.ndarray, Mapping[str, np.ndarray], int, Update]] = {}
        for block in blocks:
            drawn = initial_block(layout, block)
            for name, index in self._places(block).items():
                self.tables[name][index] = drawn[name]
            self._rescan(self._places(block)["global_code"])

    # ---- soft retrieval -------------------------------------------------------------------------------------------

    def propose(
        self, queries: np.ndarray, target_ids: np.ndarray, k: int, sigma0: float, *, seed: int, step: int
    ) -> Proposal:
        """The k largest of -d_R^2 / sigma0^2 + Gumbel(seed, step, target, source) among this shard's sources.

        The k best of the union over all shards are then an exact draw without replacement from Eq. 1 over the whole
        database (the Gumbel-max trick: the order of the noisy logits is that of sequential sampling), and the tables
        never move. queries: [B, D] float32, phi(t).
        """
        found = scan(
            self._scan_copy, self._source_ids, queries, target_ids, k, sigma0,
            seed=seed, step=step, num_threads=self.num_threads,
        )  # fmt: skip
        return Proposal(found, self.embedding_version)

    def squared_distances(self, queries: np.ndarray) -> np.ndarray:
        """d_R^2 of B targets to the shard's sources, [B, S_shard] float32."""
        return distances(self._scan_copy, queries, num_threads=self.num_threads)

    def nearest(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source with the smallest d_R^2 to each target, [B] int64 (of equals the first), and that d_R^2, [B]."""
        rows, least = np.empty(len(queries), np.int64), np.empty(len(queries), np.float32)
        for first in range(0, len(queries), TARGETS_AT_ONCE):
            own = slice(first, first + TARGETS_AT_ONCE)
            squared = self.squared_distances(queries[own])
            best = squared.argmin(1)
            rows[own], least[own] = self._source_ids[best], squared[np.arange(len(best)), best]
        return rows, least

    def sees(self, path: AnyPath) -> bool:
        """Whether there is such a file where this shard runs; where it is an object, others can be put beside it."""
        if isinstance(path, UriPath):
            check_access(path.parent, "run.path")
        return path.is_file()

    @property
    def embedding_version(self) -> int:
        """The step whose encoder made the cached embeddings; -1 before the first and where they are learned."""
        oldest, newest = int(self._embedding_version.min()), int(self._embedding_version.max())
        assert oldest == newest, f"embeddings of steps {oldest} to {newest}: a refresh has not ended"
        return newest

    def set_embedding(self, rows: np.ndarray, values: np.ndarray, version: int) -> None:
        """Replace the cached embedding of `rows`; `version` is the step whose encoder made it."""
        assert self.cached_embedding is not None, "a learned embedding has no cache"
        local = self._local(rows)
        self.cached_embedding[local] = values
        self._embedding_version[local] = version
        self._rescan(local)

    # ---- pull, push -----------------------------------------------------------------------------------------------

    def pull(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Copies of the rows of every table; `part_code` holds the parts of the sources one after another."""
        local = self._local(rows)
        pulled = {name: self.tables[name][local] for name in self.layout.row_widths}
        return pulled | {"part_code": self.tables["part_code"][self._local_parts(local)]}

    def push(
        self,
        step: int,
        rank: int,
        rows: np.ndarray,
        gradients: Mapping[str, np.ndarray],
        num_targets: int,
        update: Update,
    ) -> None:
        """Take a rank's gradients of its mean loss over `num_targets` targets; the last rank's push applies them all.

        `rows` are unique, and may be none.
        """
        assert step == self.version, f"push of step {step} to a shard that collects step {self.version}"
        assert rank not in self._pushed, f"rank {rank} pushed twice in step {step}"
        assert len(np.unique(rows)) == len(rows), "pushed rows must be unique"
        self._pushed[rank] = (np.asarray(rows), dict(gradients), num_targets, update)
        if len(self._pushed) == self.num_ranks:
            self._apply()

    def _apply(self) -> None:
        assert self.optimiser is not None, "these codes are only read"
        pushes = [self._pushed[rank] for rank in sorted(self._pushed)]
        update = pushes[0][3]
        for name, value in update.start.items():
            self.tables[name][:] = value
        total = sum(num_targets for _, _, num_targets, _ in pushes)
        rows = np.unique(np.concatenate([pushed for pushed, *_ in pushes]))
        local = self._local(rows)
        touched = sorted({name for _, gradients, *_ in pushes for name in gradients}) if len(rows) else []
        for name in touched:
            index = self._local_parts(local) if name == "part_code" else local
            mean = np.zeros((len(index), self.tables[name].shape[1]), np.float32)
            for pushed, gradients, num_targets, _ in pushes:
                if name in gradients and len(pushed):
                    own = self._local(pushed)
                    own = self._local_parts(own) if name == "part_code" else own
                    mean[np.searchsorted(index, own)] += np.float32(num_targets / total) * gradients[name]
            self.optimiser.update(self.tables[name], self.slots[name], index, mean, update.rate)
            if name in update.bounds:
                self.tables[name][index] = np.clip(self.tables[name][index], *update.bounds[name])
        if {"retrieval_weight", "embedding"} & set(touched):
            self._rescan(local)
        self._pushed = {}
        self.version += 1

    # ---- state ----------------------------------------------------------------------------------------------------

    def save(self, folder: AnyPath) -> dict[str, str]:
        """Write every block into `folder`, one file each, so that any number of shards can take them up again.

        Returns the hash of each file.
        """
        return {
            block_file(block): write_arrays(folder / block_file(block), self.block_state(block))
            for block in self.blocks
        }

    def load(self, folder: AnyPath, hashes: Mapping[str, str], *, version: int, embedding_version: int) -> None:
        """Take up the blocks of a checkpoint made after `version` steps.

        Raises `InputError` naming the file that is missing or damaged.
        """
        for block in self.blocks:
            state = read_arrays(folder / block_file(block), hashes.get(block_file(block), ""))
            self.load_block_state(block, state, embedding_version)
        self.version = version

    def take_over(self, folder: AnyPath, hashes: Mapping[str, str], tables: Sequence[str]) -> None:
        """Set some tables to what they are in another run's checkpoint, whose blocks are of the same size.

        Raises `InputError` naming the file that is missing or damaged.
        """
        for block in self.blocks:
            state = read_arrays(folder / block_file(block), hashes.get(block_file(block), ""))
            places = self._places(block)
            for name in tables:
                self.tables[name][places[name]] = state[name]

    def block_state(self, block: int) -> dict[str, np.ndarray]:
        """Everything of one block as named arrays: what its file in a checkpoint holds."""
        state = {}
        for name, index in self._places(block).items():
            state[name] = self.tables[name][index]
            state |= {f"{name}.{slot}": values[index] for slot, values in self.slots[name].items()}
            if name == "global_code" and self.cached_embedding is not None:
                state["cached_embedding"] = self.cached_embedding[index]
        return state

    def load_block_state(self, block: int, state: Mapping[str, np.ndarray], embedding_version: int) -> None:
        """Put back what `block_state` gave."""
        places = self._places(block)
        for name, index in places.items():
            self.tables[name][index] = state[name]
            for slot, values in self.slots[name].items():
                values[index] = state[f"{name}.{slot}"]
        rows = places["global_code"]
        if self.cached_embedding is not None:
            self.cached_embedding[rows] = state["cached_embedding"]
        self._embedding_version[rows] = embedding_version
        self._rescan(rows)

    # ---- indices --------------------------------------------------------------------------------------------------

    def _rescan(self, local: np.ndarray | slice) -> None:
        """Bring the scan's copy of some rows up to date."""
        local = np.arange(len(self._source_ids))[local] if isinstance(local, slice) else local
        raw = np.clip(self.tables["retrieval_weight"][local], -80, 80)  # beyond, the sigmoid is 0 or 1 in float32
        weight = 1.0 / (1.0 + np.exp(-raw)) + np.float32(MINIMUM_WEIGHT)
        embedding = self.tables["embedding"] if self.cached_embedding is None else self.cached_embedding
        set_scan_rows(self._scan_copy, local, weight, embedding[local])

    def _places(self, block: int) -> dict[str, slice]:
        """Where a block lies in each table."""
        first, last = self.layout.block_rows(block)
        parts = self.layout.part_offsets[[first, last]] - self._first_part
        of_rows = slice(first - self.first, last - self.first)
        return {name: slice(*parts.tolist()) if name == "part_code" else of_rows for name in self.tables}

    def _local(self, rows: np.ndarray) -> np.ndarray:
        assert len(rows) == 0 or self.first <= rows.min() <= rows.max() < self.last, "rows of another shard"
        return np.asarray(rows, np.int64) - self.first

    def _local_parts(self, local: np.ndarray) -> np.ndarray:
        return self.layout.parts_of(local + self.first)[1] - self._first_part
