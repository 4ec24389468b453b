"""The workers of a data-parallel run, as the three things the loop needs of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Group:
    """A rank among `world_size` workers. With one worker every method returns what it was given.

    `waited` counts the seconds in `average` and `any`: the message, and waiting for the slowest.
    """

    rank: int = 0
    world_size: int = 1
    waited: float = 0.0

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, in one flat message; all ranks pass the same shapes."""
        tensors = list(tensors)
        if self.world_size == 1 or not tensors:
            return
        began = time.perf_counter()
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world_size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(mean.view_as(tensor))
        self.waited += time.perf_counter() - began

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any rank; all ranks call it together."""
        if self.world_size == 1:
            return flag
        began = time.perf_counter()
        number = torch.tensor(float(flag))
        dist.all_reduce(number)
        self.waited += time.perf_counter() - began
        return bool(number > 0)

    def barrier(self) -> None:
        """Nobody goes on before all are here."""
        if self.world_size > 1:
            dist.all_reduce(torch.zeros(1))

    def gather(self, arrays: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """Every rank's arrays, in rank order; the shapes are the same on all ranks."""
        if self.world_size == 1:
            return [list(arrays)]
        gathered = []
        for array in arrays:
            own = torch.from_numpy(np.ascontiguousarray(array))
            parts = [torch.empty_like(own) for _ in range(self.world_size)]
            dist.all_gather(parts, own)
            gathered.append([part.numpy() for part in parts])
        return [list(of_rank) for of_rank in zip(*gathered, strict=True)]
