"""Which results are worth keeping: what that costs against what it saves."""

from __future__ import annotations

import functools
import mmap
import statistics
import time

LEAST_SECONDS = 50e-6
"""Operations that are faster than this are not kept: a hit takes about a third of it."""
_TRIED, _STEP = 1 << 20, 1 << 16


def is_worth_keeping(nbytes: int, seconds: float, runs: int) -> bool:
    """Whether to keep the result of an operation that has run `runs` times.

    At first sight nobody knows whether it will be asked for again: then keeping it must not cost
    more than it saves once. What ran twice is expected to run again and again.
    """
    return seconds >= LEAST_SECONDS and (runs > 1 or seconds >= nbytes * touching())


@functools.cache
def touching() -> float:
    """Seconds that a byte of memory costs that is touched for the first time; tried once.

    What is kept cannot be used again by the allocator, so what follows is written to memory like
    that. 0.1 to 2 ns: some hosts give memory to their machines page by page.
    """
    seconds = []
    with mmap.mmap(-1, _TRIED) as memory:
        for start in range(0, _TRIED, _STEP):
            begun = time.perf_counter()
            for place in range(start, start + _STEP, mmap.PAGESIZE):
                memory[place] = 1
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds) / _STEP
