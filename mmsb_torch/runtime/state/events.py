"""Who is told what happened. Costs nothing when nobody listens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmsb_torch.types import Event, EventType

_logger = logging.getLogger("mmsb_torch")

Subscriber = Callable[[Event], None]


class EventBus:
    """Delivers events to subscribers, on the thread where they happened, under no lock.

    A subscriber that raises is removed and reported through logging; nothing else is disturbed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[tuple[Subscriber, frozenset[EventType]], ...] = ()

    @property
    def listening(self) -> bool:
        """Whether anybody subscribed: emitters skip the work of making events otherwise."""
        return bool(self._subscribers)

    def subscribe(
        self, subscriber: Subscriber, types: Iterable[EventType] | None = None
    ) -> Callable[[], None]:
        """Call `subscriber(event)` for each event (of `types`); returns what ends it."""
        wanted = frozenset(EventType if types is None else types)
        with self._lock:
            self._subscribers = (*self._subscribers, (subscriber, wanted))
        return lambda: self._remove(subscriber)

    def emit(self, kind: EventType, fields: Mapping[str, Any]) -> None:
        """Tell every subscriber of `kind`. No lock may be held by the caller."""
        if not self._subscribers:
            return
        event = Event(kind, time.time_ns(), fields)
        for subscriber, wanted in self._subscribers:
            if kind not in wanted:
                continue
            try:
                subscriber(event)
            except Exception:
                self._remove(subscriber)
                _logger.exception("event subscriber %r raised and was removed", subscriber)

    def _remove(self, subscriber: Subscriber) -> None:
        with self._lock:
            self._subscribers = tuple(
                item for item in self._subscribers if item[0] is not subscriber
            )
