"""The candidates of a step and their codes, asked for and perhaps still on their way."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from jr_dist.bank.client import BankClient, Candidates, Codes


class Draw:
    """`ask` waits for the candidates; they and their codes can be sent for before they are needed."""

    def __init__(self, ask: Callable[[], Candidates]) -> None:
        self._ask = ask
        self._candidates: Candidates | None = None
        self._codes: Callable[[], Codes] | None = None

    @classmethod
    def of(cls, candidates: Candidates) -> Draw:
        """Candidates that are there."""
        return cls(lambda: candidates)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Draw:
        """What `arrays` gave, or the part of it that belongs to some targets."""
        version = int(arrays["embedding_version"][0])
        return cls.of(Candidates(arrays["rows"], arrays["effective"], arrays["nearest"], version))

    def arrays(self) -> dict[str, np.ndarray]:
        """The candidates as arrays with a row a target; waits for them."""
        drawn = self.candidates()
        version = np.full(len(drawn.rows), drawn.embedding_version)
        return {
            "rows": drawn.rows, "effective": drawn.effective, "nearest": drawn.nearest, "embedding_version": version,
        }  # fmt: skip

    def candidates(self) -> Candidates:
        """Waits for them."""
        if self._candidates is None:
            self._candidates = self._ask()
        return self._candidates

    def begin_pull(self, bank: BankClient, device: torch.device | str) -> None:
        """Ask for the codes of the candidates after all steps that this rank has pushed for."""
        self._codes = bank.begin_pull(np.unique(self.candidates().rows), device)

    def codes(self, bank: BankClient, device: torch.device | str) -> Codes:
        """The codes of the unique candidates; waits for them."""
        if self._codes is None:
            self.begin_pull(bank, device)
        assert self._codes is not None
        return self._codes()
