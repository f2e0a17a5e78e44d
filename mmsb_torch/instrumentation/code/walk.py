"""The traversal of everything a definition depends on, as a list of labelled entries.

Objects with an identity get a number when they are first referred to and are visited in that
order, so the entries are a canonical form of the whole graph: cycles end, and two graphs have
equal entries exactly if they are the same up to addresses. The first entry that differs between
two walks of one definition is therefore the first thing that changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .encoding import atom, digest, frame, framed, text
from .guards import Guards
from .identity import Serials, token
from .layout import Layout, layout_of
from .libraries import name_of

ROOT = "code of"


class Label(NamedTuple):
    """What a person calls a thing: "global 'SCALE'", "module 'drop' training flag"."""

    kind: str
    name: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'{self.note}"

    @property
    def is_root(self) -> bool:
        """Whether this is the definition's own function, module or object."""
        return self.kind == ROOT

    def of(self, kind: str, name: str, note: str = "") -> Label:
        """The label of a part: `name` below this one's name, or alone below the root."""
        return Label(kind, name if self.is_root else f"{self.name}.{name}", note)

    def attribute(self, name: str) -> Label:
        """The label of an attribute."""
        kind = "attribute" if self.is_root else self.kind
        return self.of(kind, name, self.note)


Visitor = Callable[["Walk", object, Label], None]


class Walk:
    """One traversal; made, run and read by one thread.

    Attributes:
        entries: the labelled pieces of the canonical form.
        guards: checks that hold as long as a new walk would give the same entries.
        opaque: what could be compared by identity only, or not be seen at all.
        starters: what user code begins threads with.
        attributes: names of attributes that user code takes anywhere.
    """

    def __init__(self, visit: Visitor, serials: Serials) -> None:
        self.entries: list[tuple[Label, bytes]] = []
        self.guards = Guards()
        self.opaque: dict[str, None] = {}
        self.starters: dict[str, None] = {}
        self.attributes: set[str] = set()
        self._visit = visit
        self._serials = serials
        self._numbers: dict[int, int] = {}
        # Holds what was numbered: an address must not be used again during the walk.
        self._seen: list[tuple[object, Label]] = []
        self._queue: deque[tuple[object, Label]] = deque()
        self._nesting: tuple[int, ...] = ()
        self._once: set[int] = set()
        self._layouts: dict[type, Layout] = {}

    def layout(self, cls: type) -> Layout:
        """`layout_of`, computed once a class."""
        found = self._layouts.get(cls)
        if found is None:
            found = self._layouts[cls] = layout_of(cls)
        return found

    def first(self, value: object) -> bool:
        """Whether this is the first call with this object, which must outlive the walk."""
        if id(value) in self._once:
            return False
        self._once.add(id(value))
        return True

    @property
    def seen(self) -> tuple[tuple[object, Label], ...]:
        """Everything with an identity that was met, in order, with its label."""
        return tuple(self._seen)

    def write(self, label: Label, data: bytes) -> None:
        """Adds an entry."""
        self.entries.append((label, data))

    def refer(self, value: object, label: Label) -> bytes:
        """What to write where `value` is referred to; it is visited later if it is no plain data."""
        data = atom(value)
        if data is not None:
            return data
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._seen)
            self._seen.append((value, label))
            self._queue.append((value, label))
        return b"@%d" % number

    def enter(self, label: Label, tag: str, value: object) -> None:
        """An entry that is nothing but a reference."""
        self.write(label, frame(tag, self.refer(value, label)))

    def identify(self, value: object, label: Label, why: str = "") -> None:
        """Records that `value` can be told from others only within this process."""
        kind = type(value)
        self.opaque[f"{label} ({why or f'{kind.__module__}.{kind.__qualname__}'})"] = None
        number = self._serials.number(value)
        self.write(label, frame("identity", token(), b"%d" % number))

    def hide(self, label: Label, why: str) -> None:
        """Records that something depends on what cannot be seen."""
        self.opaque[f"{label} ({why})"] = None
        self.write(label, frame("hidden", token(), text(why)))

    def run(self) -> None:
        """Visits what was referred to, and what that refers to, until nothing is left."""
        while self._queue:
            value, label = self._queue.popleft()
            try:
                self._visit(self, value, label)
            except Exception as error:  # noqa: BLE001 - whatever a strange object raises when read
                self.identify(value, label, f"{type(value).__qualname__}: {error!r} when read")

    def unordered(self, container: object, elements: Iterable[object], label: Label) -> bytes:
        """Canonical bytes of elements in no order: each is walked on its own, then sorted.

        Sets in sets of objects are compared by identity: walking each element on its own takes
        exponential time where objects hold sets of each other.
        """
        if id(container) in self._nesting:
            return b"cycle"
        parts = [(element, _outright(element)) for element in elements]
        if self._nesting and any(data is None for _, data in parts):
            self.identify(container, label, "a set of objects in a set of objects")
            return b"nested"
        return framed(
            "unordered",
            sorted(data or self._alone(container, element, label) for element, data in parts),
        )

    def _alone(self, container: object, element: object, label: Label) -> bytes:
        inner = Walk(self._visit, self._serials)
        inner.guards, inner.opaque, inner.attributes = self.guards, self.opaque, self.attributes
        inner.starters = self.starters
        inner._nesting, inner._once = (*self._nesting, id(container)), self._once
        inner.refer(element, label)
        inner.run()
        # What this walk knows by number must stay alive as long as what it sees by itself.
        self._seen.extend(inner.seen)
        return inner.digest

    @property
    def digest(self) -> bytes:
        """The 16 bytes that stand for all entries."""
        return digest(framed("entries", (data for _, data in self.entries)))


def _outright(element: object) -> bytes | None:
    """Canonical bytes of what needs no walk: plain data, and classes of libraries."""
    return name_of(element) if isinstance(element, type) else atom(element)
