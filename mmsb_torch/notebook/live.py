"""The line while a cell runs, in the place where its summary will be.

For what takes longer than a moment, and from the notebook's own thread: no timer, no widget, nothing to
install. It knows how far a cell is where it ran before: by its operations.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from IPython.display import display

from mmsb_torch.pictures.html import frame, meter, unfailing
from mmsb_torch.pictures.words import safe, span

PATIENCE_S = 1.0
_EVERY_S = 0.25
T = TypeVar("T")


class Line:
    """One line, to be seen after a second and then four times a second.

    Args:
        title: what is being done.
        total: how many steps there are, if that is known.
    """

    def __init__(self, title: str, total: int | None = None) -> None:
        self.title, self.total, self.done = title, total, 0
        self._begun = time.perf_counter()
        self._due = self._begun + PATIENCE_S
        self._handle: Any = None

    @property
    def due(self) -> bool:
        """Whether a step would draw something now."""
        return time.perf_counter() >= self._due

    def step(self, done: int | None = None, detail: str = "") -> None:
        """Tell how far it is; one step further, if not said. Cheap where nothing is to be drawn."""
        self.done = self.done + 1 if done is None else done
        now = time.perf_counter()
        if now >= self._due:
            self._due = now + _EVERY_S
            self._show(_Drawn(self.title, self.done, self.total, now - self._begun, detail))

    def end(self, last: Any = None) -> None:
        """Put something in its place, or let it stand as done."""
        if last is not None:
            self._show(last)
        elif self._handle is not None:
            elapsed = time.perf_counter() - self._begun
            self._show(_Drawn(self.title, self.done, self.done, elapsed, "done"))

    def _show(self, thing: Any) -> None:
        if self._handle is None:
            if isinstance(thing, _Drawn) and not _is_rich():
                return  # a terminal shows what it is told once, below each other
            self._handle = display(thing, display_id=True)
        else:
            self._handle.update(thing)


class _Drawn:
    def __init__(
        self, title: str, done: int, total: int | None, elapsed: float, detail: str
    ) -> None:
        share = min(done / total, 1.0) if total else None
        self.percent = "" if share is None else f"{share:.0%}"
        self.share, self.elapsed = share, span(elapsed)
        self.title, self.detail, self.done = title, detail, done

    def __repr__(self) -> str:
        parts = (self.title, self.percent or f"{self.done:,}", self.detail, self.elapsed)
        return " · ".join(part for part in parts if part)

    def _repr_html_(self) -> str:
        return _html(self)


@unfailing
def _html(drawn: _Drawn) -> str:
    bar = "" if drawn.share is None else f" {meter(drawn.share)}"
    words = [drawn.percent or f"{drawn.done:,}", drawn.detail, drawn.elapsed]
    text = " · ".join(safe(word) for word in words if word)
    return frame(f"<span class=soft>{safe(drawn.title)}{bar} {text}</span>")


def progress(items: Iterable[T], title: str = "", total: int | None = None) -> Iterator[T]:
    """Go through items with a line that tells how far it is; nothing is shown of what is quick.

    Args:
        items: anything to iterate over.
        title: what is being done.
        total: how many there are, if `len` does not say.
    """
    size = len(items) if total is None and isinstance(items, Sized) else total
    line = Line(title or "working", size)
    try:
        for item in items:
            yield item
            line.step()
    finally:
        line.end()


def _is_rich() -> bool:
    """Whether the front end can change what it shows: not a terminal, nor a plain file."""
    from IPython import get_ipython  # noqa: PLC0415 - asked of the session at hand

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel") and not sys.flags.interactive
