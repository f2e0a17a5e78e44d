"""What only this process can tell apart: a random token, and a serial number for an object."""

from __future__ import annotations

import itertools
import os
import weakref
from typing import Final

MISSING: Final = object()


class _Process:
    """The token of this process; a forked child draws its own."""

    def __init__(self) -> None:
        self.token = os.urandom(16)
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.token = os.urandom(16)


_PROCESS = _Process()
_SERIALS = itertools.count(1)
_KNOWN: dict[int, tuple[weakref.ref[object], int]] = {}
_FIRST: dict[str, object] = {}


def token() -> bytes:
    """16 random bytes of this process: what they are mixed into equals nothing elsewhere."""
    return _PROCESS.token


class Serials:
    """Serial numbers of objects that can be compared by identity only.

    An object that allows weak references has one number in the whole process. Any other has one
    number in one instance of this class, which keeps the object alive: an address that is used
    again must not pass for the object that had it before.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[object, int]] = {}

    def number(self, value: object) -> int:
        """The number of `value`. Thread-safe."""
        held = self._held.get(id(value))
        if held is not None:
            return held[1]
        key = id(value)
        known = _KNOWN.get(key)
        if known is not None and known[0]() is value:
            return known[1]
        try:
            reference = weakref.ref(value, lambda gone: _forget(key, gone))
        except TypeError:
            return self._held.setdefault(key, (value, next(_SERIALS)))[1]
        # The loser of a race keeps the winner's number.
        _, number = _KNOWN.setdefault(key, (reference, next(_SERIALS)))
        return number


def _forget(key: int, gone: weakref.ref[object]) -> None:
    known = _KNOWN.get(key)
    if known is not None and known[0] is gone:
        del _KNOWN[key]


def pristine(place: str, value: object) -> bool:
    """Whether `value` is what this process first saw at `place` (a dotted name in a library)."""
    return _FIRST.setdefault(place, value) is value
