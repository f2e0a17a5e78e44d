"""Medians of interleaved runs."""

import statistics
import time
from collections.abc import Callable, Mapping

Job = Callable[[], object]


def medians(jobs: Mapping[str, Job], *, calls: int = 200, rounds: int = 15) -> dict[str, float]:
    """Microseconds a call of each job: the median over `rounds`, the jobs taking turns."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            began = time.perf_counter()
            for _ in range(calls):
                job()
            times[name].append((time.perf_counter() - began) / calls * 1e6)
    return {name: statistics.median(found) for name, found in times.items()}
