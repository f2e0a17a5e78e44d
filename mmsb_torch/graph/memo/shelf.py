"""Results in memory, within a budget: what is cheap to compute again for its bytes and age goes first."""

from __future__ import annotations

import threading
import time

from mmsb_torch.graph.memo.results import Result


class Item:
    """A result on the shelf. `result` None says that calls of this key draw random numbers."""

    __slots__ = ("cost_s", "hits", "label", "made_ns", "origin", "result", "used_s", "world")

    def __init__(
        self,
        result: Result | None,
        cost_s: float,
        made_ns: int,
        world: int = 0,
        label: str = "",
        origin: str = "run",
    ) -> None:
        self.result = result
        self.label = label
        """Whose result it is."""
        self.origin = origin
        """How it came here: "run", "disk" (read for a call), "ahead" (read before one asked)."""
        self.cost_s = cost_s
        self.made_ns = made_ns
        self.world = world
        """Of the memory and session that computed it."""
        self.hits = 0
        self.used_s = time.monotonic()

    @property
    def nbytes(self) -> int:
        """Bytes it takes, about."""
        return 256 + (0 if self.result is None else self.result.nbytes)

    def worth(self, now: float) -> float:
        """Seconds saved a byte, less for what was long not used."""
        return (self.cost_s + 1e-6) / self.nbytes / (1.0 + now - self.used_s)


class Shelf:
    """Results by key. Thread-safe."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.version = 0
        """Moves when something is to be forgotten."""
        self._items: dict[str, Item] = {}
        self._guard = threading.Lock()
        self.nbytes = 0

    def get(self, key: str) -> Item | None:
        """A result, which is now used."""
        item = self._items.get(key)
        if item is not None:
            item.used_s = time.monotonic()
        return item

    def put(
        self, key: str, item: Item, *, since: int | None = None, spare: bool = False
    ) -> list[tuple[str, Item]]:
        """Keep a result, if it is no larger than the budget; returns what went for it.

        Args:
            key: what it is found by.
            item: the result.
            since: the version when it was read; it is not kept if something was forgotten since.
            spare: keep it only if nothing must go for it.
        """
        with self._guard:
            if since not in (None, self.version) or (spare and not self.has_room(item.nbytes)):
                return []
            self._drop(key)
            if item.nbytes > self.budget:
                return []
            self._items[key] = item
            self.nbytes += item.nbytes
            return self._make_room() if self.nbytes > self.budget else []

    def items(self) -> list[Item]:
        """The results that are there."""
        return list(self._items.copy().values())

    def has_room(self, nbytes: int) -> bool:
        """Whether so many bytes more are within the budget."""
        return self.nbytes + nbytes <= self.budget

    def resize(self, budget: int) -> None:
        """Another budget; what is too much for it goes now."""
        with self._guard:
            self._budget = budget
            if self.nbytes > budget:
                self._make_room()

    def remove(self, key: str) -> None:
        """Forget a result."""
        with self._guard:
            self.version += 1
            self._drop(key)

    def clear(self) -> None:
        """Forget all."""
        with self._guard:
            self.version += 1
            self._items.clear()
            self.nbytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def _drop(self, key: str) -> None:
        item = self._items.pop(key, None)
        if item is not None:
            self.nbytes -= item.nbytes

    def _make_room(self) -> list[tuple[str, Item]]:
        now, gone = time.monotonic(), []
        for key, item in sorted(self._items.items(), key=lambda pair: pair[1].worth(now)):
            if self.nbytes <= self.budget * 0.9:
                break
            self._drop(key)
            gone.append((key, item))
        return gone

    def __contains__(self, key: str) -> bool:
        return key in self._items
