"""One computation a key at a time among the threads of this process."""

from __future__ import annotations

import threading


class Flights:
    """Who computes what now: a key is under way while its lock is held. Thread-safe.

    A thread that computes something never waits for another one: it might be waiting for this one.
    It computes the same a second time instead. Locks, because `with` gives them back whatever
    interrupts; a key whose lock is free is under way no more, even if nobody said so.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._local = threading.local()

    def take_off(self, key: str, air: threading.Lock) -> bool:
        """Begin to compute `key`, with a new lock that the caller holds until it is done.

        Returns whether this thread is the only one, others having been waited for.
        """
        mine: list[threading.Lock] = [
            held for held in getattr(self._local, "held", ()) if held.locked()
        ]
        while True:
            with self._guard:
                other = self._under_way.get(key)
                if other is None or not other.locked():
                    self._under_way[key] = air
                    break
            if mine:
                return False
            with other:
                pass
        self._local.held = [*mine, air]
        return not mine

    def land(self, key: str, air: threading.Lock) -> None:
        """Forget a key that was computed."""
        with self._guard:
            if self._under_way.get(key) is air:
                del self._under_way[key]
