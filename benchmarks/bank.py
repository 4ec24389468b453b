"""The bank of codes: drawing, sending, updating, waiting for it, holding it.

    python benchmarks/bank.py [--quick] [--work propose,files] [--csv FILE] [--json FILE] [--threads T]

Default widths (G = 256, D = 256, C = 32), 8 parts a source, adam; 160 sources a step. Measured:

    bank.propose_vs_naive_100k, bank.propose_vs_blocked_100k   the scan of 100,000 sources for 16 targets, K = 10. Peer:
                           the same in torch (bank_scan.py), over all rows at once and in blocks
    bank.propose_1m_over_100k   its time over a million sources to that, 10 if it is linear
    bank.pull_rows_per_s.N, bank.push_rows_per_s.N   sources a second: codes from N shards in actors; gradients to them
                           until they are applied. Peer: a shard in this process
    bank.wait_share        share of a training step of 2 workers that waits for the bank, with lookahead; without it
                           (.no_lookahead) and with one worker (.1_worker). A shard applies a step when all have pushed,
                           so waiting for the slowest worker is in it
    bank.train_step        what such a step takes
    bank.step_vs_sparse_adam, bank.memory_vs_sparse_adam   rows pulled, gradients pushed and applied in one process.
                           Peer: torch.nn.Embedding(sparse=True) and SparseAdam on equal tables, which keeps no copy for
                           the scan and one count of steps for all rows; that the codes come out equal is asserted
    bank.save, bank.load   blocks of a checkpoint to the file system's cache and back, hashed both ways
    bank.encode            a source through the retrieval encoder (2048 points), for the cached embedding
    bank.memory_1m         resident memory of a process with a shard of a million sources (--quick: 100,000) after a
                           propose, a pull, a push and a refresh of the cached embedding, over what the dry run plans;
    bank.memory_peak_1m    the same at its highest
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import torch
from bank_scan import propose
from bank_wait import wait_share
from harness import Record, compared, finish, interleaved, machine, parser, progress, ratio
from torch import Tensor, nn

from jr_dist.bank.actors import running_shards
from jr_dist.bank.client import BankClient, Codes, local_bank
from jr_dist.bank.layout import BankLayout, shard_bytes
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.bank.shard import BankShard, Update
from jr_dist.cluster import connect
from jr_dist.config import ClusterConfig, load_config
from jr_dist.data.transfer import read
from jr_dist.train.embedding import ENCODER_CHUNK
from jr_dist.train.state import build_networks

NUM_PARTS, NUM_ROWS, BATCH_SIZE, NUM_CANDIDATES = 8, 160, 16, 10
EPSILON = 1e-12  # torch adds it elsewhere in the fraction; as small as this, the results can be compared
ADAM = RowOptimiser("adam", epsilon=EPSILON)
RATE = 1e-3


def layout_of(num_sources: int) -> BankLayout:
    """A database of default widths."""
    return BankLayout((NUM_PARTS,) * num_sources, global_code=256, part_code=32, embedding=256)


def shard_of(num_sources: int) -> BankShard:
    """All of its codes."""
    layout = layout_of(num_sources)
    return BankShard(layout, range(layout.num_blocks), ADAM, num_threads=torch.get_num_threads())


def some_rows(rng: np.random.Generator, num_sources: int) -> np.ndarray:
    """The sources of a step."""
    return np.sort(rng.choice(num_sources, NUM_ROWS, replace=False))


def gradients_of(codes: Codes) -> dict[str, Tensor]:
    """Of all leaves."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(leaf.shape, generator=generator) for name, leaf in codes.leaves().items()}


def give(codes: Codes, gradients: dict[str, Tensor]) -> None:
    """Leave the codes as a backward pass does."""
    for name, leaf in codes.leaves().items():
        leaf.grad = gradients[name]


# ---- actors ----------------------------------------------------------------------------------------


def transfer(quick: bool) -> list[Record]:
    """Rows from and to 1, 2 and 4 shards in actors, and a shard in this process."""
    layout, rng = layout_of(4096), np.random.default_rng(0)
    with ExitStack() as stack:
        banks = {0: local_bank(layout, ADAM)}
        for number in (1, 2, 4):
            shards = running_shards(
                layout, number, ADAM, num_ranks=1, num_threads=1, incarnation=0, run=f"bank benchmark {number}"
            )
            banks[number] = BankClient(layout, stack.enter_context(shards))
        seconds: dict[int, list[tuple[float, float]]] = {number: [] for number in banks}
        for step in range(60 if quick else 400):
            rows = some_rows(rng, layout.num_sources)
            for number, bank in banks.items():
                times = _pull_and_push(bank, rows)
                if step >= 10:
                    seconds[number].append(times)
    local = seconds.pop(0)
    return [
        Record(
            f"bank.{name}_rows_per_s.{number}",
            NUM_ROWS / median(times[place] for times in of_bank),
            "1/s",
            "a shard in this process",
            ratio([times[place] for times in of_bank], [times[place] for times in local]),
        )
        for place, name in enumerate(("pull", "push"))
        for number, of_bank in seconds.items()
    ]


def _pull_and_push(bank: BankClient, rows: np.ndarray) -> tuple[float, float]:
    start = time.perf_counter()
    codes = bank.pull(rows)
    pulled = time.perf_counter() - start
    give(codes, gradients_of(codes))
    start = time.perf_counter()
    [gradients] = read(codes.gradients())
    bank.push(codes.rows, gradients, BATCH_SIZE, Update(RATE))
    bank.settle()
    return pulled, time.perf_counter() - start


# ---- one process -----------------------------------------------------------------------------------


class SparseTables:
    """The same tables with torch's sparse gradients, as one would keep them in one process."""

    def __init__(self, shard: BankShard) -> None:
        self.offsets = shard.layout.part_offsets
        self.tables = {
            name: nn.Embedding.from_pretrained(torch.from_numpy(values.copy()), freeze=False, sparse=True)
            for name, values in shard.tables.items()
        }
        self.optimiser = torch.optim.SparseAdam([table.weight for table in self.tables.values()], lr=RATE, eps=EPSILON)

    def step(self, rows: np.ndarray, gradients: dict[str, Tensor]) -> None:
        """Look the rows up, send gradients back, move them."""
        of_rows = torch.from_numpy(rows)
        starts = self.offsets[rows]
        parts = torch.from_numpy((starts[:, None] + np.arange(NUM_PARTS)).reshape(-1))
        pulled = {name: table(parts if name == "part_code" else of_rows) for name, table in self.tables.items()}
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(list(pulled.values()), [gradients[name] for name in pulled])
        self.optimiser.step()

    @property
    def nbytes(self) -> int:
        """Of tables and optimiser state."""
        state = [value for slots in self.optimiser.state.values() for value in slots.values()]
        slots = sum(value.nbytes for value in state if isinstance(value, Tensor))
        return slots + sum(table.weight.nbytes for table in self.tables.values())


def against_sparse_adam(quick: bool) -> list[Record]:
    """A step's rows out, gradients in and applied, by ours without Ray and by SparseAdam."""
    num_sources, num_steps, rounds = (10_000, 20, 5) if quick else (100_000, 100, 10)
    layout, rng = layout_of(num_sources), np.random.default_rng(0)
    bank = local_bank(layout, ADAM)
    shard = bank._shards[0].shard  # pyright: ignore[reportAttributeAccessIssue] - a LocalShard
    theirs = SparseTables(shard)
    gradients = gradients_of(bank.pull(some_rows(rng, num_sources)))

    def our_step(rows: np.ndarray) -> None:
        codes = bank.pull(rows)
        give(codes, gradients)
        [found] = read(codes.gradients())
        bank.push(codes.rows, found, BATCH_SIZE, Update(RATE))

    same = some_rows(rng, num_sources)  # rows that every step touches: the two counts of steps agree
    for _ in range(5):
        our_step(same)
        theirs.step(same, gradients)
    for name, table in shard.tables.items():
        error = np.abs(table - theirs.tables[name].weight.detach().numpy()).max()
        assert error < 1e-6, f"{name} differs from SparseAdam's by {error}"
    steps = [some_rows(rng, num_sources) for _ in range(num_steps)]
    seconds = interleaved(
        {
            "ours": lambda: [our_step(rows) for rows in steps],
            "theirs": lambda: [theirs.step(rows, gradients) for rows in steps],
        },
        rounds,
    )
    ours_bytes = shard_bytes(layout, range(layout.num_blocks), ADAM.num_slots)
    times = [[1e3 * s / num_steps for s in seconds[name]] for name in ("ours", "theirs")]
    return [
        compared("bank.step_vs_sparse_adam", "ms", "SparseAdam", *times),
        Record("bank.memory_vs_sparse_adam", ours_bytes / 1e9, "GB", "SparseAdam", theirs.nbytes / ours_bytes),
    ]


def files(quick: bool) -> list[Record]:
    """MB a second of a checkpoint's blocks."""
    shard = shard_of(2048 if quick else 20480)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hashes = shard.save(folder)
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        seconds = interleaved(
            {
                "save": lambda: shard.save(folder),
                "load": lambda: shard.load(folder, hashes, version=0, embedding_version=0),
            },
            3,
        )
    return [Record(f"bank.{name}", megabytes / median(times), "MB/s") for name, times in seconds.items()]


def encoding(quick: bool) -> list[Record]:
    """Milliseconds a source, of chunks as the refresh of the cached embedding makes them."""
    encoder = build_networks(load_config(None, {"data.path": "-", "run.path": "-"})).retrieval_encoder.eval()
    points = torch.randn(ENCODER_CHUNK // (8 if quick else 1), 2048, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seconds = interleaved({"encode": lambda: encoder(points)}, 3)
    return [Record("bank.encode", median(seconds["encode"]) / len(points) * 1e3, "ms")]


# ---- memory ----------------------------------------------------------------------------------------


def memory(quick: bool) -> list[Record]:
    """Of a process of its own, so that what others leave behind is not counted."""
    num_sources, size = (100_000, "100k") if quick else (1_000_000, "1m")
    progress(f"a shard of {num_sources} sources")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        measured = pool.submit(resident_memory, num_sources).result()
    layout = layout_of(num_sources)
    planned = shard_bytes(layout, range(layout.num_blocks), ADAM.num_slots)
    print(f"{num_sources} sources: planned {planned / 1e9:.3f} GB; resident", *(f"{b / 1e9:.3f}" for b in measured))
    names = (f"bank.memory_{size}", f"bank.memory_peak_{size}")
    return [Record(name, used / planned, "x") for name, used in zip(names, measured, strict=True)]


def resident_memory(num_sources: int) -> tuple[int, int]:
    """Bytes that a shard of so many sources makes resident in this process: after work, and at most."""
    torch.set_num_threads(1)
    _work(shard_of(256))  # what is imported and compiled is not the bank's
    before = _resident("VmRSS")
    shard = shard_of(num_sources)
    _work(shard)
    return _resident("VmRSS") - before, _resident("VmHWM") - before


def _work(shard: BankShard) -> None:
    rng = np.random.default_rng(0)
    for first in range(0, shard.last, ENCODER_CHUNK):
        rows = np.arange(first, min(first + ENCODER_CHUNK, shard.last))
        shard.set_embedding(rows, rng.standard_normal((len(rows), shard.layout.embedding), dtype=np.float32), 0)
    queries = rng.standard_normal((BATCH_SIZE, shard.layout.embedding), dtype=np.float32)
    shard.propose(queries, np.arange(BATCH_SIZE), NUM_CANDIDATES, 10.0, seed=0, step=0)
    rows = some_rows(rng, shard.last)
    shard.push(0, 0, rows, shard.pull(rows), BATCH_SIZE, Update(RATE))


def _resident(name: str) -> int:
    """VmRSS, or VmHWM, its highest so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Measure, print, write."""
    here = [propose, against_sparse_adam, files, encoding]
    here += [memory] if sys.platform == "linux" else []  # it is read from /proc
    by_actors = [transfer, wait_share]
    arguments = parser(__doc__)
    names = [measure.__name__ for measure in (*here, *by_actors)]
    arguments.add_argument("--work", default=",".join(names), metavar="A,B", help=f"of {', '.join(names)} [all]")
    options = arguments.parse_args()
    chosen = options.work.split(",")
    if unknown := set(chosen) - set(names):
        arguments.error(f"--work {', '.join(sorted(unknown))}: allowed are {', '.join(names)}")
    torch.set_num_threads(options.threads)
    print(machine(options.threads) + "; wall time where several processes work")
    records = []
    for measure in here:
        records += measure(options.quick) if measure.__name__ in chosen else []
    if actors := [measure for measure in by_actors if measure.__name__ in chosen]:
        with connect(ClusterConfig(num_cpus=16, object_store_mb=256), log_to_driver=False):
            for measure in actors:
                records += measure(options.quick)
    finish(records, options.json, options.csv)


if __name__ == "__main__":
    main()
