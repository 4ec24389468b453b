"""Compiled loops on several threads: blocks of the work, taken one by one by plain threads.

Not numba's `prange`: its workqueue layer aborts the process when two threads call it at once, its OpenMP layer after a
fork. Kernels that release the interpreter's lock need no more than this, next to torch's OpenMP, in Ray's workers and
in a server alike.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

#: blocks a thread: fewer leave threads waiting for the last one, more cost calls
BLOCKS = 8


def run_blocks(block: Callable[[int, int], int], count: int, num_threads: int) -> int:
    """Call block(start, stop) over range(count) on at most `num_threads` threads, the caller's among them.

    Returns the code, of those a block returned, that is not 0 (of several, that of the first block); 0 if all are.
    """
    threads = max(1, min(num_threads, count))
    size = max(1, count // (BLOCKS * threads))
    starts, codes = itertools.count(0, size), []

    def work() -> None:
        for start in starts:  # shared: each start goes to one thread
            if start >= count:
                return
            if code := block(start, min(start + size, count)):
                codes.append((start, code))

    helpers = [_pool().submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        helper.result()
    return min(codes)[1] if codes else 0


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="geometry")


# a forked child has none of its parent's threads
os.register_at_fork(after_in_child=_pool.cache_clear)
