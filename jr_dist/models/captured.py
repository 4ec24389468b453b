"""A step done again and again on a GPU without the host in between: as a CUDA graph.

A step of IDO is some fifty kernels, most of them small. Launched one by one they may keep the host busy for longer than
the GPU; as a graph they are one launch.
"""

from collections.abc import Callable
from functools import cache
from threading import Lock

import torch
from torch import Tensor

State = tuple[Tensor, ...]
#: whoever captures: threads share the stream and the pool
_alone = Lock()


def replayed(step: Callable[..., State], state: State, times: int) -> State:
    """`state` after `times` times state = step(*state), of CUDA tensors whose shapes stay.

    The step returns new tensors and never waits for the device: what CUDA can't capture raises its error here. The
    first time it runs as it is, which compiles its kernels; then it is captured, writing to the memory it reads, and
    replayed. Capturing costs the host about as much as running it once, so graphs are not kept: one would hold its
    memory and need every input copied in, to save one iteration of twelve.
    """
    if times == 0 or not state[0].numel():
        return state
    with torch.cuda.device(state[0].device):
        stream, pool = _place(state[0].device.index)
        held = tuple(tensor.clone() for tensor in state)

        def once() -> None:
            for tensor, value in zip(held, step(*held), strict=True):
                tensor.copy_(value)

        here = torch.cuda.current_stream()
        with _alone, torch.cuda.stream(stream):
            stream.wait_stream(here)  # alone too: in another thread's capture it would be an error
            try:
                once()
                if times > 1:
                    graph = _captured(once, pool)
                    for _ in range(times - 1):
                        graph.replay()
            finally:
                # Neither the graph nor what it reads may go before it has run, also where something failed.
                stream.synchronize()
    return held


def _captured(once: Callable[[], None], pool: torch.cuda.MemPool) -> torch.cuda.CUDAGraph:
    # Not torch.cuda.graph(), which empties the allocator's cache, and everyone else pays. Only this thread is held to
    # what may be captured: others load data meanwhile.
    graph = torch.cuda.CUDAGraph()
    # By its number: older torch does not take a pool itself.
    graph.capture_begin(pool.id, capture_error_mode="thread_local")  # pyright: ignore[reportArgumentType]
    try:
        once()
    finally:
        graph.capture_end()
    return graph


@cache
def _place(device: int) -> tuple[torch.cuda.Stream, torch.cuda.MemPool]:
    """Where graphs are captured and run. They share memory: on one stream, one after the other."""
    return torch.cuda.Stream(device), torch.cuda.MemPool()
