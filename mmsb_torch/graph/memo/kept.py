"""Where results are: on the shelf in memory, and on disk where they outlive the process."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from mmsb_torch.errors import StoreError, UnsupportedError
from mmsb_torch.graph.memo import randomness
from mmsb_torch.graph.memo.keys import Key
from mmsb_torch.graph.memo.results import Result
from mmsb_torch.graph.memo.shelf import Item, Shelf
from mmsb_torch.graph.memo.tally import Tallies
from mmsb_torch.runtime.state import EventBus
from mmsb_torch.runtime.store.objects import OF, Objects, Stored
from mmsb_torch.types import EventType

_RANDOM = "mmsb.random"
GENERATORS = "random generators"
_EVICTED = 4096
_SUMMED = (
    "run_seconds",
    "saved_seconds",
    "overhead_seconds",
    "evicted",
    "evicted_bytes",
    "ahead",
    "hits_ahead",
)


class Kept:
    """The results of one memory's memoised functions. Thread-safe.

    Args:
        objects: where results outlive the process; None keeps them in memory only.
        budget: bytes of results in memory.
        events: where it is told what went, and what could not be stored.
    """

    def __init__(
        self, objects: Objects | None = None, budget: int = 1 << 30, events: EventBus | None = None
    ) -> None:
        self.objects = objects
        self.shelf = Shelf(budget)
        self.counts: Counter[str] = Counter()
        self.tallies = Tallies()
        self.events = EventBus() if events is None else events
        self.evicted: dict[str, None] = {}
        """Digests of what went lately, for it was over the budget."""
        if objects is not None:
            objects.on_evicted = self._gone_from_disk

    def find(self, key: Key) -> tuple[Key, Item] | None:
        """A result of this key, and the key that it was found under; random ones have another."""
        item = self._look(key.digest)
        if item is not None and item.result is None:
            key = key.with_part(GENERATORS, randomness.torch_part())
            item = self._look(key.digest)
        return None if item is None or item.result is None else (key, item)

    def _look(self, digest: str) -> Item | None:
        item = self.shelf.get(digest)
        if item is None and self.objects is not None:
            since = self.shelf.version
            item = self.read(digest, "disk")
            if item is not None:
                self._gone_from_memory(self.shelf.put(digest, item, since=since))
        return item

    def read(self, digest: str, origin: str, *, used: bool = True) -> Item | None:
        """A result from the disk; None if there is none that can be read: it is computed then.

        `used`: whether that counts as a use when it is judged what goes first.
        """
        assert self.objects is not None
        try:
            found = self.objects.get(digest, used=used)
        except (StoreError, UnsupportedError):
            return None
        if found is None:
            return None
        tensors, texts = found
        result = None if _RANDOM in texts else Result(tensors, texts)
        made = int(texts.get("mmsb.made_ns", "0"))
        world = int(texts.get("mmsb.world", "0"))
        seconds = float(texts.get("mmsb.seconds", "0"))
        return Item(result, seconds, made, world, texts.get(OF, ""), origin)

    def keep(self, key: Key, result: Result | None, seconds: float, label: str, world: int) -> None:
        """Keep a result; None says that calls of this key draw random numbers."""
        item = Item(result, seconds, time.time_ns(), world, label)
        self._gone_from_memory(self.shelf.put(key.digest, item))
        if self.objects is None or not self.objects.writable:
            return
        tensors, texts = ({}, {_RANDOM: "1"}) if result is None else result
        about = {"mmsb.made_ns": str(item.made_ns), "mmsb.seconds": repr(seconds), OF: label}
        about["mmsb.world"] = str(world)
        try:
            self.objects.put(key.digest, tensors, {**texts, **about}, int(seconds * 1e6))
        except StoreError as error:  # a full disk must not fail the call; the result is in memory
            self.counts["not stored"] += 1
            self.events.post(EventType.ERROR, {"memo": label, "error": error.message})

    def forget(self, digest: str) -> None:
        """Forget one result, on disk too."""
        if self.objects is not None:
            self.objects.remove(digest)
        self.shelf.remove(digest)  # last: who reads it from the disk meanwhile must not put it back

    def forget_all(self) -> None:
        """Forget every result, on disk too."""
        if self.objects is not None:
            self.objects.clear()
        self.shelf.clear()

    def save_tallies(self) -> None:
        """Add what was counted since this was last done to what earlier processes counted."""
        counted = self.tallies.take()
        if counted and self.objects is not None and self.objects.writable:
            self.objects.add_tallies(counted)

    def sums(self) -> dict[str, Any]:
        """What the tallies of all functions come to."""
        total: Counter[str] = Counter()
        for counts in self.tallies.counts().values():
            total.update({name: counts.get(name, 0) for name in _SUMMED})
        calls = self.counts["hits"] + self.counts["misses"] + self.counts["refused"]
        return {
            "hit_rate": self.counts["hits"] / calls if calls else None,
            **{name: total[name] for name in _SUMMED},
        }

    def _gone_from_memory(self, gone: list[tuple[str, Item]]) -> None:
        if gone:
            self._gone("memory", [(key, item.label, item.nbytes) for key, item in gone])

    def _gone_from_disk(self, gone: list[tuple[str, Stored]]) -> None:
        if gone:
            self._gone("disk", [(stored.key, label, stored.nbytes) for label, stored in gone])

    def _gone(self, where: str, gone: list[tuple[str, str, int]]) -> None:
        """Results went for others; those that went from memory may be on disk still."""
        nbytes = sum(size for _, _, size in gone)
        if where == "disk" or self.objects is None:
            for key, label, size in gone:
                self.tallies.of(label).evicted(size)
                self.evicted[key] = None
            for key in list(self.evicted)[:-_EVICTED]:
                self.evicted.pop(key, None)
        fields = {"results": len(gone), "bytes": nbytes, "where": where}
        fields["functions"] = sorted({label for _, label, _ in gone})
        self.events.post(EventType.EVICTED, fields)
