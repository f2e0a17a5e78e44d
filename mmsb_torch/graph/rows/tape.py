"""Parts computed from parts, noted down, so that the next edit of the same kind need not think again.

The analysis of an edit runs on real parts. Whatever it computes from them goes through a tape, which
keeps the functions. For another edit the tape is played on other parts: if each comes out as the same
kind (everything, nothing or something) and parts that were equal are equal again, all that the
analysis concluded holds for that edit, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from .calls import Size


class Slot:
    """Something that depends on the edit: a part, a number, or what was made of those."""

    __slots__ = ("at", "value")

    def __init__(self, at: int, value: Any) -> None:
        self.at = at
        self.value = value

    def __repr__(self) -> str:
        return f"%{self.at}={self.value}"


class Nothing:
    """No index at all."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = Nothing()
Some = Slot | None
"""A part in an analysis: None for everything."""
Boxed = tuple[Some, ...]
"""A box in an analysis."""


class Tape:
    """The slots of one analysis. Slots 0.. are what it begins with."""

    def __init__(self, given: Sequence[Any]) -> None:
        self.slots = [Slot(at, value) for at, value in enumerate(given)]
        self._steps: list[tuple[Callable[..., Any], tuple[Any, ...], int]] = []
        self._known: dict[Any, Any] = {}

    def size(self, size: int | Size, rows: Slot) -> int | Slot:
        """A size, from the slot that has the number of rows."""
        return self.value(_at, size, rows) if isinstance(size, Size) else size

    def value(self, function: Callable[..., Any], *args: Any) -> Slot:
        """What a function of slots and plain values gives, whatever it is.

        Functions are told by identity: use the same one for the same thing.
        """
        key = (function, *(arg.at if isinstance(arg, Slot) else (arg,) for arg in args))
        if key not in self._known:
            self._known[key] = self._add(function, args, self._run(function, args), _ANY)
        found: Slot = self._known[key]
        return found

    def part(self, function: Callable[..., Any], *args: Any) -> Slot | Nothing | None:
        """The same for a part: a slot if it is something, one and the same for equal parts."""
        key = (function, *(arg.at if isinstance(arg, Slot) else (arg,) for arg in args))
        if key in self._known:
            known: Slot | Nothing | None = self._known[key]
            return known
        found = self._run(function, args)
        result: Slot | Nothing | None
        if found is None:
            self._add(function, args, found, _ALL)
            result = None
        elif len(found) == 0:
            self._add(function, args, found, _NONE)
            result = NOTHING
        else:
            equal = next((slot for slot in self.slots if _equal(slot.value, found)), None)
            made = self._add(function, args, found, _SOME if equal is None else equal.at)
            result = equal or made
        self._known[key] = result
        return result

    def play(self, given: Sequence[Any]) -> list[Any] | None:
        """The slots for another edit; None if what was concluded does not hold for it."""
        env = list(given)
        for function, args, expected in self._steps:
            found = function(*[env[arg.at] if isinstance(arg, Slot) else arg for arg in args])
            env.append(found)
            if expected != _ANY:
                if found is None:
                    if expected != _ALL:
                        return None
                elif len(found) == 0:
                    if expected != _NONE:
                        return None
                elif expected in (_ALL, _NONE) or (
                    expected >= 0 and not _equal(env[expected], found)
                ):
                    return None
        return env

    @property
    def env(self) -> list[Any]:
        """The slots of the edit that was analysed."""
        return [slot.value for slot in self.slots]

    def _run(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        return function(*[arg.value if isinstance(arg, Slot) else arg for arg in args])

    def _add(
        self, function: Callable[..., Any], args: tuple[Any, ...], found: Any, expected: int
    ) -> Slot:
        slot = Slot(len(self.slots), found)
        self.slots.append(slot)
        self._steps.append((function, args, expected))
        return slot


_ANY, _ALL, _NONE, _SOME = -4, -3, -2, -1


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, range):
        return isinstance(other, range) and one == other
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one is other or (len(one) == len(other) and bool((one == other).all()))
    return False


def _at(size: Size, rows: int) -> int:
    return size.at(rows)
