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


class _Subscription:
    __slots__ = ("subscriber", "types")

    def __init__(self, subscriber: Subscriber, types: frozenset[EventType]) -> None:
        self.subscriber = subscriber
        self.types = types


class EventBus:
    """Delivers events to subscribers, on the thread where they happened, under no lock.

    A subscriber that raises is removed and reported through logging; nothing else is disturbed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[_Subscription, ...] = ()
        self.listening = False
        """Whether anybody subscribed: emitters skip the work of making events otherwise."""

    def subscribe(
        self, subscriber: Subscriber, types: Iterable[EventType] | None = None
    ) -> Callable[[], None]:
        """Call `subscriber(event)` for each event (of `types`); returns what ends it."""
        if not callable(subscriber):
            raise TypeError(f"a subscriber is a callable, found {subscriber!r}")
        wanted = frozenset(EventType(kind) for kind in (EventType if types is None else types))
        subscription = _Subscription(subscriber, wanted)
        with self._lock:
            self._subscribers = (*self._subscribers, subscription)
            self.listening = True
        return lambda: self._remove(subscription)

    def emit(self, kind: EventType, fields: Mapping[str, Any]) -> None:
        """Tell every subscriber of `kind`. No lock may be held by the caller."""
        if not self._subscribers:
            return
        event = Event(kind, time.time_ns(), fields)
        for subscription in self._subscribers:
            if kind not in subscription.types:
                continue
            try:
                subscription.subscriber(event)
            except Exception:
                self._remove(subscription)
                _logger.exception(
                    "event subscriber %r raised and was removed", subscription.subscriber
                )

    def _remove(self, subscription: _Subscription) -> None:
        with self._lock:
            self._subscribers = tuple(s for s in self._subscribers if s is not subscription)
            self.listening = bool(self._subscribers)
