"""Which rows and tables the bank has, and which block of rows each belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from jr_dist.errors import InputError

BLOCK_SIZE = 256


@dataclass(frozen=True)
class BankLayout:
    """The shape of the tables of S sources.

    Row tables have one row a source: `global_code` [S, G], `retrieval_weight` [S, D] (raw, before the sigmoid),
    `fit_scale` [S, 1] (log sigma_k) and, where the source embedding is learned, `embedding` [S, D].
    `part_code` has one row a part, [sum P, C]. Blocks are fixed runs of `block_size` sources, so where a row lives, how
    it starts and which file keeps it do not depend on the number of shards.
    """

    num_parts: tuple[int, ...]
    global_code: int
    part_code: int
    embedding: int
    learned_embedding: bool = False
    block_size: int = BLOCK_SIZE
    seed: int = field(default=0)

    @property
    def num_sources(self) -> int:
        """S."""
        return len(self.num_parts)

    @property
    def num_blocks(self) -> int:
        """Blocks needed for S sources."""
        return -(-self.num_sources // self.block_size)

    @cached_property
    def part_offsets(self) -> np.ndarray:
        """[S + 1] int64: the parts of source s are the rows part_offsets[s] .. part_offsets[s + 1] of `part_code`."""
        return np.concatenate([[0], np.cumsum(np.asarray(self.num_parts, np.int64))])

    def parts_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the sources `rows` [n]: how many parts each has, and the rows of `part_code` of all of them in turn."""
        starts = self.part_offsets[rows]
        counts = self.part_offsets[rows + 1] - starts
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return counts, np.repeat(starts, counts) + within

    @property
    def row_widths(self) -> dict[str, int]:
        """Name and width of the tables with one row a source."""
        widths = {"global_code": self.global_code, "retrieval_weight": self.embedding, "fit_scale": 1}
        return widths | ({"embedding": self.embedding} if self.learned_embedding else {})

    def block_rows(self, block: int) -> tuple[int, int]:
        """First source of a block and the one behind its last."""
        return block * self.block_size, min((block + 1) * self.block_size, self.num_sources)


def initial_block(layout: BankLayout, block: int) -> dict[str, np.ndarray]:
    """The first values of a block's tables: a function of (seed, block) alone.

    Codes are unit normal, as an auto-decoder's; weights start equal; fit scales at zero until they are matched.
    """
    first, last = layout.block_rows(block)
    num_parts = int(layout.part_offsets[last] - layout.part_offsets[first])

    def normal(table: int, rows: int, width: int) -> np.ndarray:
        return np.random.default_rng([layout.seed, table, block]).standard_normal((rows, width), dtype=np.float32)

    rows = last - first
    tables = {
        "global_code": normal(0, rows, layout.global_code),
        "part_code": normal(1, num_parts, layout.part_code),
        "retrieval_weight": np.zeros((rows, layout.embedding), np.float32),
        "fit_scale": np.zeros((rows, 1), np.float32),
    }
    return tables | ({"embedding": normal(2, rows, layout.embedding)} if layout.learned_embedding else {})


def cut(layout: BankLayout, num_shards: int) -> list[range]:
    """The blocks of each shard: runs of blocks that follow one another, as equal as they can be.

    Raises `InputError` where a shard would have none.
    """
    if num_shards > layout.num_blocks:
        raise InputError(
            f"bank.num_shards is {num_shards}, but {layout.num_sources} sources in blocks of {layout.block_size} are "
            f"{layout.num_blocks} block(s); allowed is at most one shard a block; lower it or bank.block_size"
        )
    ends = [shard * layout.num_blocks // num_shards for shard in range(num_shards + 1)]
    return [range(first, last) for first, last in pairwise(ends)]


def shard_bytes(layout: BankLayout, blocks: range, num_slots: int) -> int:
    """What a shard holds: tables, `num_slots` optimiser slots of equal size, the cached embedding and the scan copy."""
    first, last = layout.block_rows(blocks[0])[0], layout.block_rows(blocks[-1])[1]
    num_rows, num_parts = last - first, int(layout.part_offsets[last] - layout.part_offsets[first])
    tables = num_rows * sum(layout.row_widths.values()) + num_parts * layout.part_code
    scan = num_rows * layout.embedding * (2 if layout.learned_embedding else 3)
    return 4 * (tables * (1 + num_slots) + scan)


def largest_shard_bytes(layout: BankLayout, num_shards: int, num_slots: int) -> int:
    """What the largest of the shards holds. Raises `InputError` as `cut` does."""
    return max(shard_bytes(layout, blocks, num_slots) for blocks in cut(layout, num_shards))
