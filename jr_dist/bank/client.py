"""What the training step sees of the bank: rows in, tensors out, gradients back, whoever holds the shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jr_dist.bank.desk import Request, ShardDesk
from jr_dist.bank.layout import BankLayout, cut
from jr_dist.bank.optimiser import RowOptimiser
from jr_dist.bank.shard import BankShard, Proposal, Update
from jr_dist.data.transfer import to_device
from jr_dist.locations import AnyPath


class Answer(Protocol):
    """What becomes of a request."""

    def result(self) -> Any:
        """Waits for it; raises what the shard raised, or what says that the shard is gone."""
        ...


class ShardHandle(Protocol):
    """A shard in this process or in another."""

    def send(self, request: Request) -> Answer:
        """Hand the request over; doesn't wait."""
        ...


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

    def gradients(self) -> dict[str, Tensor]:
        """Those of the leaves that a loss reached."""
        return {name: leaf.grad for name, leaf in self.leaves().items() if leaf.grad is not None}

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
    nearest: np.ndarray  # [B] int64, the source that retrieval would return, without sampling; -1 where none was asked
    embedding_version: int = -1  # the step whose encoder made the embeddings that were looked at; -1 where none was


class LocalShard:
    """A shard in this process, for the one rank that there is; every request is served at once."""

    def __init__(self, shard: BankShard, incarnation: int = 0) -> None:
        self.shard = shard
        self._desk = ShardDesk(shard, incarnation)

    def send(self, request: Request) -> Answer:
        """Serve it."""
        answers: list[Any] = []
        failures: list[Exception] = []
        self._desk.submit(request, answers.append, failures.append)
        if failures:
            raise failures[0]
        return _Done(answers[0])


@dataclass(frozen=True)
class _Done:
    value: Any

    def result(self) -> Any:
        return self.value


class BankClient:
    """Routes rows to the shards that own them and merges their answers, on behalf of one rank.

    `begin_...` sends and returns a function that waits for the answer, so that a step can compute meanwhile; `waited`
    counts the seconds that it did wait, `rows_pulled` and `rows_pushed` sources. `version` is the number of steps whose
    pushes this rank has sent.
    """

    def __init__(
        self, layout: BankLayout, shards: Sequence[ShardHandle], *, rank: int = 0, incarnation: int = 0
    ) -> None:
        self.layout, self.version, self.waited = layout, 0, 0.0
        self.rows_pulled = self.rows_pushed = 0
        self.embedding_version = -1
        self.max_parts = max(layout.num_parts)
        self._shards, self._rank, self._incarnation = list(shards), rank, incarnation
        self._numbers = [0] * len(self._shards)
        runs = cut(layout, len(self._shards))
        self._bounds = np.array([layout.block_rows(blocks[0])[0] for blocks in runs] + [layout.num_sources])
        self._unconfirmed: list[Answer] = []  # what they raise is raised by the next wait

    # ---- soft retrieval -------------------------------------------------------------------------------------------

    def begin_propose(
        self, queries: Tensor, target_ids: np.ndarray, num_candidates: int, sigma0: float, *, seed: int, step: int
    ) -> Callable[[], Candidates]:
        """Ask for an exact draw of K sources without replacement from Eq. 1 over all S. queries: [B, D], phi(t)."""
        arguments = (_numpy(queries), target_ids, num_candidates, sigma0)
        answers = [self._send(i, "propose", *arguments, seed=seed, step=step) for i in range(len(self._shards))]
        return lambda: merge_proposals(self._wait(answers), num_candidates)

    def nearest(self, queries: Tensor) -> np.ndarray:
        """[B] int64: the source with the smallest d_R^2 to each target."""
        answers = self._wait([self._send(i, "nearest", _numpy(queries)) for i in range(len(self._shards))])
        rows, squared = (np.stack(values) for values in zip(*answers, strict=True))
        return rows[squared.argmin(0), np.arange(rows.shape[1])]

    def squared_distances(self, queries: Tensor) -> Tensor:
        """d_R^2 of B targets to all S sources, [B, S]."""
        parts = self._wait([self._send(i, "squared_distances", _numpy(queries)) for i in range(len(self._shards))])
        return torch.from_numpy(np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0])

    def set_embedding(self, rows: np.ndarray, values: Tensor, version: int) -> None:
        """Replace the cached embedding of the sources `rows` [n], ascending, by `values` [n, D]; `settle` waits for it.

        A client says itself, by `embedding_version`, when all ranks have set theirs.
        """
        for i, own in self._split(rows):
            self._unconfirmed.append(self._send(i, "set_embedding", rows[own], _numpy(values[own]), version))

    def settle(self) -> None:
        """Wait until the shards have done all that this rank has sent."""
        self._wait([])

    # ---- pull, push -----------------------------------------------------------------------------------------------

    def begin_pull(self, rows: np.ndarray, device: torch.device | str = "cpu") -> Callable[[], Codes]:
        """Ask for the codes of the unique sources `rows`, ascending, after all steps that this rank has pushed for."""
        answers = [self._send(i, "pull", rows[own]) for i, own in self._split(rows)]
        self.rows_pulled += len(rows)
        return lambda: self._codes(rows, self._wait(answers), device)

    def pull(self, rows: np.ndarray, device: torch.device | str = "cpu") -> Codes:
        """The codes of the unique sources `rows`, ascending, as leaf tensors that require gradients."""
        return self.begin_pull(rows, device)()

    def push(self, rows: np.ndarray, gradients: Mapping[str, np.ndarray], num_targets: int, update: Update) -> None:
        """Send the gradients of this rank's step, of the codes of `rows`, by the names of `Codes.leaves`.

        Each shard applies the step when all ranks have pushed. What has no gradient does not move.
        """
        parts = np.concatenate([[0], np.cumsum(self.layout.parts_of(rows)[0])])
        for i, own in self._split(rows, every=True):
            of_parts = slice(int(parts[own.start]), int(parts[own.stop]))
            of_shard = {name: values[of_parts if name == "part_code" else own] for name, values in gradients.items()}
            arguments = (self.version, self._rank, rows[own], of_shard, num_targets, update)
            self._unconfirmed.append(self._send(i, "push", *arguments))
        self.rows_pushed += len(rows)
        self.version += 1

    # ---- state ----------------------------------------------------------------------------------------------------

    def all_see(self, path: AnyPath) -> bool:
        """Whether there is such a file wherever a shard runs; where it is an object, others can be put beside it.

        Raises `InputError` where a store refuses that.
        """
        return all(self._wait([self._send(i, "sees", path) for i in range(len(self._shards))]))

    def save(self, folder: AnyPath) -> dict[str, str]:
        """Have every shard write its blocks into `folder`; returns the hash of each file."""
        saved = self._wait([self._send(i, "save", folder) for i in range(len(self._shards))])
        return {name: digest for of_shard in saved for name, digest in of_shard.items()}

    def load(self, folder: AnyPath, hashes: Mapping[str, str], *, version: int, embedding_version: int) -> None:
        """Have every shard take up its blocks of a checkpoint; one rank does it, the others call `loaded`."""
        state = {"version": version, "embedding_version": embedding_version}
        self._wait([self._send(i, "load", folder, hashes, **state) for i in range(len(self._shards))])
        self.loaded(**state)

    def take_over(self, folder: AnyPath, hashes: Mapping[str, str], tables: Sequence[str]) -> None:
        """Have every shard set its rows of `tables` to another run's checkpoint; one rank does it."""
        self._wait([self._send(i, "take_over", folder, hashes, tables) for i in range(len(self._shards))])

    def loaded(self, *, version: int, embedding_version: int) -> None:
        """The shards have taken up a checkpoint."""
        self.version, self.embedding_version = version, embedding_version

    # ---- messages -------------------------------------------------------------------------------------------------

    def _send(self, shard: int, work: str, *arguments: Any, **options: Any) -> Answer:
        number = self._numbers[shard]
        self._numbers[shard] += 1
        request = Request(self._incarnation, self._rank, number, self.version, work, arguments, options)
        return self._shards[shard].send(request)

    def _wait(self, answers: Sequence[Answer]) -> list[Any]:
        started = time.perf_counter()
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        for sent in unconfirmed:
            sent.result()
        results = [answer.result() for answer in answers]
        self.waited += time.perf_counter() - started
        return results

    def _split(self, rows: np.ndarray, *, every: bool = False) -> list[tuple[int, slice]]:
        """Which run of the ascending `rows` each shard owns; shards that own none only where `every` is set."""
        assert (np.diff(rows) > 0).all(), "rows are unique and ascending"
        cuts = np.searchsorted(rows, self._bounds).tolist()
        runs = [(i, slice(first, last)) for i, (first, last) in enumerate(pairwise(cuts))]
        return runs if every else [(i, own) for i, own in runs if own.start < own.stop]

    def _codes(self, rows: np.ndarray, answers: list[dict[str, np.ndarray]], device: torch.device | str) -> Codes:
        # Runs of ascending rows, one after another, are the ascending rows. What came by Ray can't be written to.
        joined = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
        pulled = {name: to_device(torch.from_numpy(values), device).requires_grad_() for name, values in joined.items()}
        return Codes(
            rows=rows,
            part_slot=to_device(torch.from_numpy(padded_slots(self.layout, rows, self.max_parts)), device),
            max_parts=self.max_parts,
            embedding=pulled.get("embedding"),
            **{name: pulled[name] for name in ("global_code", "part_code", "retrieval_weight", "fit_scale")},
        )


def local_bank(
    layout: BankLayout,
    optimiser: RowOptimiser | None,
    *,
    num_shards: int = 1,
    incarnation: int = 0,
    num_threads: int = 1,
) -> BankClient:
    """A bank whose shards are in this process, for one rank. Raises `InputError` for more shards than blocks."""
    shards = [
        LocalShard(BankShard(layout, blocks, optimiser, num_threads=num_threads), incarnation)
        for blocks in cut(layout, num_shards)
    ]
    return BankClient(layout, shards, incarnation=incarnation)


def padded_slots(layout: BankLayout, rows: np.ndarray, max_parts: int) -> np.ndarray:
    """[sum P] int64: the slot, in a padded [U * P], of every part of the sources `rows`."""
    counts, parts = layout.parts_of(rows)
    within = parts - np.repeat(layout.part_offsets[rows], counts)
    return np.repeat(np.arange(len(rows)) * max_parts, counts) + within


def merge_proposals(answers: Sequence[Proposal], num_candidates: int) -> Candidates:
    """The K best of the shards' offers, and exp(entropy) of Eq. 1 over the union of their sources.

    H = log Z - E[log weight], with the shards' partial sums Z_i and means joined. The shards come in the order of their
    rows, so that of equal scores the smaller row wins, as within a shard.
    """
    versions = {answer.embedding_version for answer in answers}
    assert len(versions) == 1, f"shards looked at embeddings of steps {sorted(versions)}"
    found = [answer.best for answer in answers]
    rows = np.concatenate([answer.rows for answer in found], axis=1)
    scores = np.concatenate([answer.scores for answer in found], axis=1)
    best = (-scores).argsort(axis=1, kind="stable")[:, :num_candidates]
    totals = np.stack([answer.log_total for answer in found], axis=1).astype(np.float64)
    top = totals.max(axis=1, keepdims=True)
    shares = np.exp(totals - top)
    log_total = np.log(shares.sum(1)) + top[:, 0]
    mean = (shares * np.stack([answer.mean_score for answer in found], axis=1)).sum(1) / shares.sum(1)
    nearest = np.stack([answer.nearest for answer in found], axis=1)
    winner = np.stack([answer.nearest_score for answer in found], axis=1).argmax(axis=1)[:, None]
    return Candidates(
        rows=np.take_along_axis(rows, best, 1),
        effective=np.exp(log_total - mean),
        nearest=np.take_along_axis(nearest, winner, 1)[:, 0],
        embedding_version=versions.pop(),
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
