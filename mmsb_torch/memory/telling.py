"""Telling others what happens in a memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mmsb_torch.errors import InvalidSubscriptionError
from mmsb_torch.memory.page import Page
from mmsb_torch.types import Event, EventType

if TYPE_CHECKING:
    from mmsb_torch.memory.memory import Memory


def subscribe(
    memory: Memory,
    subscriber: Callable[[Event], None],
    types: Iterable[EventType] | None = None,
    pages: Page | str | Iterable[Page | str] | None = None,
) -> Callable[[], None]:
    """Call `subscriber(event)` when something happens; returns what ends that.

    It is called under no lock, with each event once, in the order in which they happened, before
    the call that caused it returns (unless another thread is just telling this subscriber: then
    that one goes on with it). It may use the memory, and end its own subscription; what it causes
    it is told at once, inside of its own call. If it raises, it is removed, which is logged and
    told to others as an ERROR event.

    Args:
        memory: this one.
        subscriber: gets an `Event`: type, time, and fields as plain data (docs/monitoring.md).
        types: the types of events that it wants; all if left out.
        pages: the pages whose events it wants, or their names; if given, it is not told of what
            concerns no page (checkpoints, collecting, eviction).

    Raises:
        InvalidSubscriptionError: it cannot be called, or a filter that names nothing.
        PageNotFoundError: no such page.
    """
    memory._router.check_open()  # noqa: SLF001 - one facade
    names = None
    if pages is not None:
        listed = [pages] if isinstance(pages, (Page, str)) else pages
        if not isinstance(listed, Iterable):
            raise InvalidSubscriptionError(f"pages={pages!r:.60}: expected pages, or their names.")
        names = [memory._handles.entry(page).info.name for page in listed]  # noqa: SLF001
    return memory._router.events.subscribe(subscriber, types, names)  # noqa: SLF001
