"""A model of a training step: seconds by stage, from the shape of the run, rates that are fitted, and a cluster.

Pure functions; step_measure.py measures steps, fits the rates on some and checks them on others. With W workers of B
targets and K candidates, S sources, N shards of the bank, and what a source's codes weigh (docs/scaling.md):

    compute      (step + B target + B K pair + U source + dense bytes dense) (1 + sharing (workers on its machine - 1)),
                 or what is given
    proposals    N send + W (ask + ceil(B / 16) S / N D scan / shard threads) crowd: a shard serves the ranks in turn
    pull         N send + W (ask + U bytes of a source / N pull) crowd
    push         W (ask + U bytes of a source / N push) crowd, less what the worker does meanwhile: the all-reduce, and
                 encoding the next targets
    all-reduce   reduce + dense bytes 2 (W - 1) / W reduce_byte, and waiting for the slowest: jitter compute E[max of W]
    refresh      S encode / W, every R steps

U, the sources among the candidates, is that of uniform draws: the most. `crowd`: shards that share a processor work in
turn. A network adds to each message its latency and its bytes at the busier end. With lookahead the scan has the
compute's time, the pull is asked for behind the push and has what the push has; what remains is seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import norm

#: in the order of a step; `compute` is what a step is for, the others are what comes on top
STAGES = ("compute", "proposals", "pull", "push", "all-reduce", "refresh")
SCAN_TARGETS = 16  # that one pass over the scan's copy serves
FLOAT, LONG = 4, 8
#: a stage's error counts against this share of the step, where it takes less: what is lost in noise decides nothing
LEAST_SHARE = 0.02
#: how much a rate that no measurement decides is held at where the search begins
PRIOR = 0.003


@dataclass(frozen=True)
class Shape:
    """Of a run, whatever it runs on."""

    workers: int = 1
    shards: int = 1
    batch: int = 16  # targets, a worker
    candidates: int = 10
    sources: int = 1024
    parts: int = 8  # of a source
    global_code: int = 256
    part_code: int = 32
    embedding: int = 256
    dense_bytes: int = 0  # gradients of networks, and batch norm's statistics
    refresh_steps: int = 50
    lookahead: int = 0

    @property
    def pairs(self) -> int:
        """A worker and step."""
        return self.batch * self.candidates

    @property
    def code_bytes(self) -> float:
        """Of the codes that a worker pulls in a step, and of the gradients that it pushes."""
        row = self.global_code + self.embedding + 1 + self.parts * self.part_code
        return FLOAT * row * unique_sources(self.sources, self.batch, self.candidates)

    @property
    def proposal_bytes(self) -> float:
        """Between a worker and all shards for the candidates of a step (`train.dry_run.proposal_bytes`)."""
        query, answer = FLOAT * self.embedding + LONG, (LONG + FLOAT) * self.candidates + LONG + 3 * FLOAT
        return self.shards * self.batch * (query + answer)

    @property
    def scanned(self) -> float:
        """Dimensions of sources that a shard reads for one worker's targets."""
        return math.ceil(self.batch / SCAN_TARGETS) * self.sources / self.shards * self.embedding


@dataclass(frozen=True)
class Rates:
    """What is fitted: one thread of one machine, messages between its processes. Milliseconds; nanoseconds a byte."""

    step_ms: float = 10.0  # whatever the shape
    target_ms: float = 0.5  # a target
    pair_ms: float = 1.0  # a pair: deformed, measured, both backwards
    source_ms: float = 0.5  # a source among the candidates: encoded, backwards
    dense_ns: float = 1.0  # a byte of the dense gradients: moved by the optimiser
    sharing: float = 0.1  # by how much each further worker on its machine slows a worker
    send_ms: float = 0.3  # a worker's request to one shard
    ask_ms: float = 1.0  # a shard's for one request
    scan_ns: float = 0.5  # a dimension of a source, for 16 targets
    pull_ns: float = 3.0  # a byte
    push_ns: float = 10.0  # a byte
    reduce_ms: float = 1.0
    reduce_ns: float = 1.0  # a byte that a ring moves, and its copies
    jitter: float = 0.03  # standard deviation of compute, as a share of it
    encode_ms: float = 0.5  # a source without gradient, and its place in the cache


@dataclass(frozen=True)
class Cluster:
    """What the machines are: the defaults, one worker or shard each, with nothing in between."""

    sharing_workers: int = 1  # on one machine
    shard_processors: float = math.inf  # that all shards have together
    shard_threads: float = 1  # the scan is taken to be as many times faster
    compute_ms: float | None = None  # of a step, where it is known; else by the rates
    encode_ms: float | None = None  # of a source, likewise
    network_mb_s: float = math.inf  # of each machine, each way
    latency_ms: float = 0.0  # of a message, one way


def unique_sources(num_sources: float, batch: float, candidates: float) -> float:
    """How many different sources B uniform draws of K out of S without replacement are expected to hold."""
    return num_sources * (1 - (1 - min(candidates / num_sources, 1.0)) ** batch)


def ring_bytes(num_bytes: float, workers: int) -> float:
    """What each of W workers sends in an all-reduce by a ring."""
    return num_bytes * 2 * (workers - 1) / workers


def expected_maximum(count: int) -> float:
    """E of the largest of so many standard normal numbers, by quadrature."""
    x = np.linspace(-8, 8, 3201)
    return float(np.trapezoid(x * count * norm.pdf(x) * norm.cdf(x) ** (count - 1), x))


def stages(shape: Shape, rates: Rates, cluster: Cluster) -> dict[str, float]:
    """Seconds that a step shows of each of `STAGES`; their sum is the step, the refresh spread over its R steps."""
    workers, shards = shape.workers, shape.shards
    crowd = max(1.0, shards / cluster.shard_processors)
    slower = 1 + rates.sharing * (min(cluster.sharing_workers, workers) - 1)

    def moved(num_bytes: float) -> float:
        at_an_end = num_bytes * max(1.0, workers / shards)  # a shard has the messages of all workers
        return 2 * cluster.latency_ms + 1e3 * at_an_end / (cluster.network_mb_s * 1e6)

    compute = cluster.compute_ms
    if compute is None:
        unique = unique_sources(shape.sources, shape.batch, shape.candidates)
        compute = rates.step_ms + shape.batch * rates.target_ms + shape.pairs * rates.pair_ms + unique * rates.source_ms
        compute = slower * (compute + 1e-6 * shape.dense_bytes * rates.dense_ns)
    encode = slower * rates.encode_ms if cluster.encode_ms is None else cluster.encode_ms

    def served(size: float, nanoseconds: float) -> float:
        return crowd * workers * (rates.ask_ms + 1e-6 * size * nanoseconds)  # by a shard, one rank after the other

    send, a_shard = shards * rates.send_ms, shape.code_bytes / shards
    proposals = send + served(shape.scanned / cluster.shard_threads, rates.scan_ns) + moved(shape.proposal_bytes)
    pull = send + served(a_shard, rates.pull_ns) + moved(shape.code_bytes)
    push = served(a_shard, rates.push_ns) + moved(shape.code_bytes)
    reduce = 0.0
    if workers > 1:
        sent = ring_bytes(shape.dense_bytes, workers)
        reduce = rates.reduce_ms + 1e-6 * sent * rates.reduce_ns
        reduce += 2 * (workers - 1) * cluster.latency_ms + 1e3 * sent / (cluster.network_mb_s * 1e6)
        reduce += rates.jitter * compute * expected_maximum(workers)
    meanwhile = reduce + shape.batch * encode  # what a worker does behind its push, before it asks again
    if shape.lookahead:
        proposals, pull, push = max(0.0, proposals - compute), max(0.0, push + pull - meanwhile), 0.0
    else:
        push = max(0.0, push - meanwhile)
    refresh = shape.sources * encode / workers / shape.refresh_steps
    return {name: ms / 1e3 for name, ms in zip(STAGES, (compute, proposals, pull, push, reduce, refresh), strict=True)}


def step_seconds(shape: Shape, rates: Rates, cluster: Cluster) -> float:
    """A step of every worker."""
    return sum(stages(shape, rates, cluster).values())


def bottleneck(seconds: Mapping[str, float]) -> str:
    """Which stage adds most to the compute."""
    return max((name for name in STAGES if name != "compute"), key=lambda name: seconds[name])


@dataclass(frozen=True)
class Observed:
    """A run that was measured: seconds of each of `STAGES`, and of the whole step."""

    shape: Shape
    stages: Mapping[str, float]
    step: float


def fit(observations: Sequence[Observed], cluster: Cluster, start: Rates | None = None) -> Rates:
    """The rates whose stages are nearest to those observed: least squares of relative errors, over logarithms of rates.

    A stage's error is relative to itself, or to `LEAST_SHARE` of its step where it takes less.
    """
    start = start or Rates()
    names = [field.name for field in fields(Rates)]
    first = np.log(np.array(astuple(start)))

    def rates(logarithms: np.ndarray) -> Rates:
        return replace(start, **dict(zip(names, np.exp(logarithms).tolist(), strict=True)))

    def residuals(logarithms: np.ndarray) -> np.ndarray:
        of = [(each, stages(each.shape, rates(logarithms), cluster)) for each in observations]
        errors = [
            (found[name] - each.stages[name]) / max(each.stages[name], LEAST_SHARE * each.step)
            for each, found in of
            for name in STAGES
        ]
        return np.array([*errors, *(PRIOR * (logarithms - first))])

    # Noise is not normal: a process that was held up once must not pull at everything.
    return rates(least_squares(residuals, first, loss="soft_l1", f_scale=0.1, x_scale=1.0, max_nfev=2000).x)


def errors(observations: Sequence[Observed], rates: Rates, cluster: Cluster) -> np.ndarray:
    """Of each run, the model's step over the measured one, less 1."""
    return np.array([step_seconds(each.shape, rates, cluster) / each.step - 1 for each in observations])
