"""Between a GPU and the host without a wait more than there must be.

A copy from ordinary memory waits until the GPU has done all that was asked of it before; one from pinned memory does
not. What a step has to say comes in one copy, for which the host waits once. On the CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """The values on `device`: themselves where they are there; from the host without waiting for a GPU."""
    if torch.device(device).type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def read(*groups: Mapping[str, Tensor]) -> list[dict[str, np.ndarray]]:
    """The values of each group as float32 arrays, by name: their own memory on the CPU, else parts of one copy."""
    tensors = [tensor.detach() for group in groups for tensor in group.values()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return _named(groups, [tensor.float().numpy() for tensor in tensors])
    flat = pack(tensors)
    copy = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
    with torch.cuda.device_of(flat):
        copy.copy_(flat, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        done.synchronize()
    return _named(groups, unpack(copy.numpy(), [tuple(tensor.shape) for tensor in tensors]))


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """All values in one row, as float32."""
    return torch.cat([tensor.float().flatten() for tensor in tensors])


def unpack(flat: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """What `pack` has joined, without copying."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(flat, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _named(groups: Sequence[Mapping[str, Tensor]], arrays: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    left = iter(arrays)
    return [{name: next(left) for name in group} for group in groups]
