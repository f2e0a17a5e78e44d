"""Worlds: the history of the code that results depend on. It explains; digests decide.

A world is a number. It moves by one when something that results depend on beside their inputs is
found to be another: a definition (a function's code, a helper, a global, a default, a library's
version), one of torch's settings, or a value that the user registered.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, overload

from mmsb_torch.errors import WorldError

from .definition import Definition
from .encoding import atom, digest, framed

_KEPT = 1024
"""Changes that are remembered; the number counts on."""
_STORED = 256
"""Of those, how many a checkpoint keeps."""
_TEXT = 60


class World(NamedTuple):
    """One change that began a world."""

    number: int
    time_ns: int
    kind: str
    """"code", "setting" (torch's) or "registered"."""
    name: str
    """Of the definition ("scores"), of the registered value, or "torch"."""
    module: str | None
    """The module of the definition."""
    change: str
    """What changed in it: "helper 'normalise' changed"."""
    before: str
    after: str
    """Digests before and after: what came back to an old digest has its old results again."""

    def __str__(self) -> str:
        place = f"{self.name} ({self.module})" if self.module else self.name
        return f"world {self.number}, {_clock(self.time_ns)}, {self.kind} of {place}: {self.change}"


class History(Sequence[World]):
    """The answer of `mem.worlds()`: print it, or go through it; oldest first."""

    def __init__(self, number: int, changes: Iterable[World]) -> None:
        self.number = number
        """The present world's."""
        self._changes = tuple(changes)

    @overload
    def __getitem__(self, index: int) -> World: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[World]: ...
    def __getitem__(self, index: int | slice) -> World | Sequence[World]:
        return self._changes[index]

    def __len__(self) -> int:
        return len(self._changes)

    def __str__(self) -> str:
        lines = [f"world {self.number}"]
        if len(self) < self.number:
            lines[0] += f", the last {len(self)} of its changes"
        rows = [
            (str(w.number), _clock(w.time_ns), w.kind, w.name, w.module or "", w.change)
            for w in self
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(lines)

    __repr__ = __str__


class Worlds:
    """The worlds of one memory, and the values that its user registered. Thread-safe."""

    def __init__(self) -> None:
        self.number = 0
        """The present world; 0 when a memory is made."""
        self._changes: deque[World] = deque(maxlen=_KEPT)
        self._last: dict[str, World] = {}
        """Digest -> the change that last led to it."""
        self._values: dict[str, tuple[str, str]] = {}
        """Registered name -> digest and text of its value, in this session."""
        self._stored: dict[str, tuple[str, str]] = {}
        """The same of an earlier session."""
        self._definitions: weakref.WeakValueDictionary[str, Definition]
        self._definitions = weakref.WeakValueDictionary()
        """Module and name -> what was last declared there."""
        self._guard = threading.Lock()

    def note(
        self, kind: str, name: str, change: str, before: str, after: str, module: str | None = None
    ) -> int:
        """A change was found: the world that it began, perhaps noted before by somebody else."""
        with self._guard:
            there, back = self._last.get(after), self._last.get(before)
            known = there if there is not None and there.before == before else None
            if known is not None and (back is None or back.number < known.number):
                return known.number  # noted by somebody else, who shares the definition
            self.number += 1
            fields = (kind, name, module, change, before, after)
            self._enter(World(self.number, time.time_ns(), *fields))
            return self.number

    def note_code(self, before: Definition, after: Definition, change: str | None = None) -> int:
        """A definition was found to be another; the world that this began."""
        if before.digest == after.digest:
            return self.number
        change = change or before.difference(after) or "changed"
        module, name = after.home
        return self.note("code", name, change, before.digest, after.digest, module)

    def declare(self, definition: Definition) -> None:
        """A function was given to this memory: one of its name with other code is a change."""
        place = definition.place
        if place is None:
            return
        old = self._definitions.get(place)
        self._definitions[place] = definition
        if old is not None:
            self.note_code(old, definition)

    def register(self, name: str, value: object) -> int:
        """Say what something outside of Python is now; the present world.

        Raises:
            WorldError: the name is no name, or the value no plain data.
        """
        if not isinstance(name, str) or not name:
            raise WorldError(f"the name of a world is a non-empty str, found {name!r:.60}")
        data = _plain(value)
        if data is None:
            raise WorldError(
                f"world {name!r}: expected plain data (str, bytes, numbers, None, in tuples, lists "
                f"and dicts), found {type(value).__qualname__}. Pass a version, or the digest of a "
                "file, that changes when it does."
            )
        said = repr(value)
        now = (digest(data).hex(), said if len(said) <= _TEXT else said[:_TEXT] + "...")
        with self._guard:
            old = self._values.get(name) or self._stored.get(name)
            self._values[name] = now
        if old is not None and old[0] != now[0]:
            before, after = (f"{name}={mark}" for mark, _ in (old, now))
            self.note("registered", name, f"{old[1]} -> {now[1]}", before, after)
        return self.number

    def names(self, asked: str | Iterable[str] | None) -> tuple[str, ...]:
        """The registered names that a user names, sorted.

        Raises:
            WorldError: they are no names, or not registered in this session.
        """
        if asked is None:
            return ()
        names = [asked] if isinstance(asked, str) else asked
        if not isinstance(names, Iterable):
            raise WorldError(f"world={asked!r:.60}: expected a registered name, or several")
        found = list(names)
        for name in found:
            if not isinstance(name, str) or name not in self._values:
                known = ", ".join(map(repr, sorted(self._values))) or "none"
                raise WorldError(
                    f"world={name!r:.60} is not registered here (known: {known}). Call "
                    "mem.register_world(name, value) first, in every process."
                )
        return tuple(sorted(set(found)))

    def values(self, names: Iterable[str]) -> tuple[str, ...]:
        """The digests of registered values."""
        return tuple([self._values[name][0] for name in names])

    def since(self, number: int, digests: Iterable[str], names: Iterable[str]) -> tuple[World, ...]:
        """The changes after world `number` of what had these digests then, or these names."""
        followed, named, found = set(digests), set(names), []
        with self._guard:
            for world in self._changes:
                if world.number <= number:
                    continue
                if world.before in followed:
                    followed.add(world.after)
                elif not (world.kind == "registered" and world.name in named):
                    continue
                found.append(world)
        return tuple(found)

    def history(self) -> History:
        """What changed so far, as far as it is remembered."""
        with self._guard:
            return History(self.number, self._changes)

    def as_plain(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        with self._guard:
            values = {**self._stored, **self._values}
            return {
                "number": self.number,
                "changes": [list(world) for world in list(self._changes)[-_STORED:]],
                "registered": {name: list(value) for name, value in values.items()},
            }

    def fill(self, stored: Mapping[str, Any]) -> None:
        """Go on from what `as_plain` gave; from nothing, if it is empty."""
        with self._guard:
            self.number = int(stored.get("number", 0))
            for fields in stored.get("changes", ()):
                self._enter(World(*fields))
            registered = stored.get("registered", {})
            self._stored = {name: (mark, said) for name, (mark, said) in registered.items()}

    def _enter(self, world: World) -> None:
        if len(self._changes) == _KEPT:
            oldest = self._changes[0]
            if self._last.get(oldest.after) is oldest:
                del self._last[oldest.after]
        self._changes.append(world)
        self._last[world.after] = world

    def __iter__(self) -> Iterator[World]:
        return iter(self.history())


def _plain(value: object, depth: int = 16) -> bytes | None:
    """Canonical bytes of plain data, lists and dicts included; None for anything else."""
    if depth == 0:
        return None
    if type(value) is list:
        parts = [_plain(item, depth - 1) for item in value]
    elif type(value) is dict:
        if not all(type(key) is str for key in value):
            return None
        parts = [_plain(part, depth - 1) for item in sorted(value.items()) for part in item]
    else:
        return atom(value)
    whole = [part for part in parts if part is not None]
    return framed(type(value).__name__, whole) if len(whole) == len(parts) else None


def _clock(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S}"
