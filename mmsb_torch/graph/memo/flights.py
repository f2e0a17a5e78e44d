"""One computation a key at a time among the threads of this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Flights:
    """Who computes what now. Thread-safe.

    A thread that computes something never waits for another one: it might be waiting for this one.
    It computes the same a second time instead.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, threading.Event] = {}
        self._guard = threading.Lock()
        self._local = threading.local()

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[bool]:
        """Compute `key`; whether this thread is the only one, others having been waited for."""
        outermost = not getattr(self._local, "depth", 0)
        while True:
            with self._guard:
                other = self._under_way.get(key)
                if other is None:
                    done = self._under_way[key] = threading.Event()
                    break
            if not outermost:
                yield False
                return
            other.wait()
        self._local.depth = getattr(self._local, "depth", 0) + 1
        try:
            yield outermost
        finally:
            self._local.depth -= 1
            with self._guard:
                del self._under_way[key]
            done.set()
