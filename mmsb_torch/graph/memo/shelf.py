"""Results in memory, within a budget: what is cheap to compute again for its bytes and age goes first."""

from __future__ import annotations

import threading
import time

from mmsb_torch.graph.memo.results import Result


class Item:
    """A result on the shelf. `result` None says that calls of this key draw random numbers."""

    __slots__ = ("cost_s", "hits", "made_ns", "result", "used_s", "world")

    def __init__(self, result: Result | None, cost_s: float, made_ns: int, world: int = 0) -> None:
        self.result = result
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
        self._budget = budget
        self._items: dict[str, Item] = {}
        self._guard = threading.Lock()
        self.nbytes = 0

    def get(self, key: str) -> Item | None:
        """A result, which is now used."""
        item = self._items.get(key)
        if item is not None:
            item.used_s = time.monotonic()
        return item

    def put(self, key: str, item: Item) -> None:
        """Keep a result, if it is no larger than the budget; others may go for it."""
        with self._guard:
            self._drop(key)
            if item.nbytes > self._budget:
                return
            self._items[key] = item
            self.nbytes += item.nbytes
            if self.nbytes > self._budget:
                self._make_room()

    def resize(self, budget: int) -> None:
        """Another budget; what is too much for it goes now."""
        with self._guard:
            self._budget = budget
            if self.nbytes > budget:
                self._make_room()

    def remove(self, key: str) -> None:
        """Forget a result."""
        with self._guard:
            self._drop(key)

    def clear(self) -> None:
        """Forget all."""
        with self._guard:
            self._items.clear()
            self.nbytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def _drop(self, key: str) -> None:
        item = self._items.pop(key, None)
        if item is not None:
            self.nbytes -= item.nbytes

    def _make_room(self) -> None:
        now = time.monotonic()
        for key, _ in sorted(self._items.items(), key=lambda pair: pair[1].worth(now)):
            if self.nbytes <= self._budget * 0.9:
                return
            self._drop(key)
