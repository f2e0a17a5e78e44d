"""Why a call is a hit or a miss: what it has in common with the calls before it, and what not."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from mmsb_torch.graph.memo.keys import Key, difference
from mmsb_torch.graph.memo.shelf import Item
from mmsb_torch.instrumentation.code import World, Worlds

_REMEMBERED = 16


class Explanation(NamedTuple):
    """What a call would do, and why. Print it."""

    hit: bool
    reason: str
    world: int | None = None
    """The world of the result, or of the call that is nearest to this one."""
    since: tuple[World, ...] = ()
    """What changed since then in the function's code and in the registered worlds that it names."""

    def __str__(self) -> str:
        told = f"{'hit' if self.hit else 'miss'}: {self.reason}"
        if len(self.since) == 1 and self.since[0].change in self.reason:
            return f"{told}, in world {self.since[0].number}; computed in world {self.world}"
        changes = "; ".join(f"{w.change} in world {w.number}" for w in self.since[-3:])
        return f"{told}; computed in world {self.world}, since then {changes}" if changes else told


class Call(NamedTuple):
    """A call that was answered."""

    key: Key
    world: int
    definition: str
    """The digest of the function's definition."""


class Calls:
    """The last calls of one function, and why some of them are not kept. Thread-safe."""

    def __init__(self) -> None:
        self._recent: deque[Call] = deque(maxlen=_REMEMBERED)
        self._refusals: dict[str, str] = {}

    def note(self, key: Key, world: int, definition: str) -> None:
        """A call was answered."""
        self._recent.append(Call(key, world, definition))

    def refuse(self, key: Key, reason: str) -> None:
        """A call was executed, and its result could not be kept."""
        if len(self._refusals) >= 1024:
            self._refusals.clear()
        self._refusals[key.digest] = reason

    def miss(
        self, key: Key, reasons: dict[str, str], worlds: Worlds, names: tuple[str, ...]
    ) -> Explanation:
        """Why there is no result of this key.

        Args:
            key: of the call.
            reasons: part of a key -> what changed in it when it last did.
            worlds: of the memory.
            names: the registered worlds that the function names.
        """
        refusal = self._refusals.get(key.digest)
        if refusal is not None:
            return Explanation(False, f"executed and not kept: {refusal}")
        recent = list(self._recent)
        if not recent:
            return Explanation(False, "never computed in this process")
        nearest = min(reversed(recent), key=lambda old: len(difference(old.key, key)))
        parts = difference(nearest.key, key)
        since = worlds.since(nearest.world, [nearest.definition], names)
        if not parts:
            return Explanation(False, "it was forgotten", nearest.world, since)
        reason = reasons.get(parts[0])
        if reason is None and parts[0] == "code" and since:
            reason = since[-1].change
        said = f"{parts[0]} changed" + (f" ({reason})" if reason else "")
        return Explanation(False, said, nearest.world, since)


def hit(item: Item) -> Explanation:
    """What there is to say of a result that is kept."""
    world = f" in world {item.world}" if item.world else ""
    reason = f"kept, {item.cost_s * 1e3:.1f} ms to compute{world}, {item.hits} hits"
    return Explanation(True, reason, item.world)
