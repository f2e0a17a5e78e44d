"""One thread computes a page; others wait for it, and never for each other in a ring."""

from __future__ import annotations

import threading

from mmsb_torch.errors import CycleDetectedError
from mmsb_torch.graph.failures import Restart
from mmsb_torch.graph.node import Flight, Node


class Flights:
    """The computations under way. Takes `lock` for moments only, never while one flies."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._waiting: dict[int, Flight] = {}
        """Thread -> the flight it waits for."""

    def take_off(self, node: Node, mine: Flight) -> None:
        """Become the one thread that computes `node`; the caller holds `mine.air` until it is done.

        If another is: wait until it has landed, then raise Restart. If that one waits for us, give
        way at once.

        Raises:
            CycleDetectedError: this thread is computing the page already.
        """
        me = threading.get_ident()
        try:
            with self._lock:
                flight = node.flight
                if flight is None or not flight.air.locked():
                    node.flight = mine
                    return
                if flight.thread == me:
                    raise CycleDetectedError(
                        f"the recipe of page {node.name!r} reads the page itself", page_id=node.id
                    )
                ahead: Flight | None = flight
                while ahead is not None:
                    if ahead.thread == me:
                        raise Restart
                    ahead = self._waiting.get(ahead.thread)
                self._waiting[me] = flight
            flight.wait()
        finally:
            self._waiting.pop(me, None)
        raise Restart
