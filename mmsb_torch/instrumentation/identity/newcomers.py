"""Threads that begin: flags are cleared before they run any of the user's code.

Two threads that write for the first time to memory whose flag stands may crash, even in different
rows. The flags are set only while no other thread is about; so it is enough to clear all of them when
one begins. Python's hook for profilers is called in a thread before its own code, while the thread
that started it waits for the interpreter; it is passed on to the profiler that was there before.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

_Hook = Callable[[FrameType, str, Any], object]


class Owner(Protocol):
    """Who set flags."""

    def release(self) -> None:
        """Clear them."""


class Newcomers:
    """Has flags cleared at the beginning of each new thread that may touch tensors.

    Args:
        is_harmless: threads that need no care.
    """

    def __init__(self, is_harmless: Callable[[threading.Thread], bool]) -> None:
        self.owners: weakref.WeakSet[Owner] = weakref.WeakSet()
        self._is_harmless = is_harmless
        self._profiler: _Hook | None = None
        self._hook: _Hook = self._begun  # one object, to be known again

    def watch(self) -> None:
        """Make sure of being called; takes 0.1 us when that is so."""
        found: Any = threading.getprofile()
        if found is not self._hook:
            self._profiler = found
            threading.setprofile(self._hook)

    def _begun(self, frame: FrameType, event: str, arg: Any) -> None:
        sys.setprofile(self._profiler)
        if not self._is_harmless(threading.current_thread()):
            for owner in list(self.owners):
                owner.release()
        if self._profiler is not None:
            self._profiler(frame, event, arg)
