"""Who is told what happened. Costs nothing when nobody listens."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmsb_torch.errors import InvalidSubscriptionError
from mmsb_torch.types import Event, EventType

_logger = logging.getLogger("mmsb_torch")

_BEHIND = 1000
"""So many events may wait for a slow subscriber before those who make them are slowed down."""
_PATIENCE_S = 1.0

Subscriber = Callable[[Event], None]


class _Subscription:
    __slots__ = ("ended", "guard", "owner", "pages", "subscriber", "types", "waiting")

    def __init__(
        self, subscriber: Subscriber, types: frozenset[EventType], pages: frozenset[str] | None
    ) -> None:
        self.subscriber, self.types, self.pages = subscriber, types, pages
        self.waiting: deque[Event] = deque()
        self.guard = threading.Lock()
        """Held while an event is taken, never while the subscriber runs."""
        self.owner: int | None = None
        """The thread that delivers now."""
        self.ended = False

    def wants(self, kind: EventType, page: object) -> bool:
        return kind in self.types and (self.pages is None or page in self.pages)


class EventBus:
    """Delivers events to subscribers under no lock, to each in the order in which they happened.

    An event is delivered on the thread where it happened, before the call that made it returns,
    unless another thread is just delivering to that subscriber: then that one goes on with it. What
    a subscriber itself causes it is told at once, inside of its call. One that raises is removed and
    reported, by logging and as an ERROR event; nothing else is disturbed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[_Subscription, ...] = ()
        self.wanted: frozenset[EventType] = frozenset()
        """The types that somebody wants: emitters skip the work of making other events."""

    def subscribe(
        self,
        subscriber: Subscriber,
        types: Iterable[EventType] | None = None,
        pages: Iterable[str] | None = None,
    ) -> Callable[[], None]:
        """Call `subscriber(event)` for each event, of `types`, of pages of these names.

        Returns what ends it.

        Raises:
            InvalidSubscriptionError: nothing that can be called, or no types of events.
        """
        if not callable(subscriber):
            raise InvalidSubscriptionError(f"a subscriber is a callable, found {subscriber!r:.60}.")
        names = None if pages is None else frozenset(pages)
        subscription = _Subscription(subscriber, _checked(types), names)
        with self._lock:
            self._set((*self._subscribers, subscription))
        return lambda: self._remove(subscription)

    def wants(self, kind: EventType, page: str) -> bool:
        """Whether somebody wants events of this type of this page."""
        return any(item.wants(kind, page) for item in self._subscribers)

    def emit(self, kind: EventType, fields: Mapping[str, Any]) -> None:
        """Tell every subscriber who wants it. No lock may be held by the caller."""
        if kind in self.wanted:
            self.post(kind, fields)
            self.deliver()

    def post(self, kind: EventType, fields: Mapping[str, Any]) -> None:
        """Put an event in order; `deliver` follows. Runs no code of a user's."""
        event, page = None, fields.get("page")
        for subscription in self._subscribers:
            if subscription.wants(kind, page):
                if event is None:
                    event = Event(kind, time.time_ns(), fields)
                subscription.waiting.append(event)

    def deliver(self) -> None:
        """Deliver what was posted. No lock may be held by the caller."""
        for subscription in self._subscribers:
            if subscription.waiting:
                self._deliver_to(subscription)

    def _deliver_to(self, to: _Subscription) -> None:
        me = threading.get_ident()
        while to.waiting:
            with to.guard:
                if to.owner not in (None, me) or not to.waiting:
                    break  # who delivers now looks again when it is done
                outer, to.owner = to.owner, me
                event = to.waiting.popleft()
            try:
                if not to.ended:
                    to.subscriber(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the subscriber's
                self._refuse(to, event, error)
            finally:
                to.owner = outer
        _give_time(to, me)

    def _refuse(self, to: _Subscription, event: Event, error: Exception) -> None:
        """Remove a subscriber that raised, and report it."""
        self._remove(to)
        _logger.error("event subscriber %r raised and was removed", to.subscriber, exc_info=error)
        said = f"{type(error).__name__}: {error}"[:500]
        fields = {"subscriber": f"{to.subscriber!r:.200}", "event": event.type.name, "error": said}
        self.emit(EventType.ERROR, fields)

    def _remove(self, subscription: _Subscription) -> None:
        with self._lock:
            subscription.ended = True
            self._set(tuple(s for s in self._subscribers if s is not subscription))

    def _set(self, subscribers: tuple[_Subscription, ...]) -> None:
        self._subscribers = subscribers
        self.wanted = frozenset().union(*[item.types for item in subscribers])


def _give_time(to: _Subscription, me: int) -> None:
    """Slow down a thread whose events pile up before a subscriber that another thread serves.

    It never waits for good: that subscriber may be waiting for this thread.
    """
    end = time.monotonic() + _PATIENCE_S if len(to.waiting) > _BEHIND else 0.0
    while len(to.waiting) > _BEHIND and to.owner not in (None, me) and time.monotonic() < end:
        time.sleep(0.001)


def _checked(types: Iterable[EventType] | None) -> frozenset[EventType]:
    if types is None:
        return frozenset(EventType)
    found = list(types) if isinstance(types, Iterable) and not isinstance(types, str) else None
    try:
        if found is None:
            raise ValueError(types)
        return frozenset([EventType(kind) for kind in found])
    except ValueError as error:
        known = ", ".join(kind.name for kind in EventType)
        raise InvalidSubscriptionError(
            f"types={types!r:.60}: expected a list of mmsb.EventType, like "
            f"[mmsb.EventType.STALE]; there are {known}."
        ) from error
