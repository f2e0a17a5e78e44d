"""What of a store's past stays: the rule, and what it means for the checkpoints and files there are."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mmsb_torch.errors import StoreError
from mmsb_torch.runtime.store.spans import merged, without


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which moments of the past stay. The present always does; `Retention()` keeps everything.

    The newest `keep_last` checkpoints stay, and every moment since the oldest of them (while there are
    fewer, all does). Of what is older, `every=k` keeps one checkpoint in each `k` transactions, and `tags` keep the moments whose
    label matches a pattern, with what leads to them. `max_bytes` then removes the oldest of what is
    left, tags and the newest checkpoint excepted, until the store is no larger.

    Attributes:
        keep_last: checkpoints, at least 1; None keeps them all.
        every: transactions, at least 1.
        tags: patterns as of a shell: `("release-*",)`.
        max_bytes: of all files of the store; what checkpoints share counts once.

    Raises:
        StoreError: a number below 1, or `every` or `tags` with nothing to make an exception from.
    """

    keep_last: int | None = None
    every: int | None = None
    tags: tuple[str, ...] = ()
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("keep_last", "every", "max_bytes"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise StoreError(f"{name}={value!r}: expected an integer from 1, or None.")
        if isinstance(self.tags, str) or not all(isinstance(tag, str) for tag in self.tags):
            raise StoreError(f"tags={self.tags!r}: expected patterns, like ('release-*',).")
        object.__setattr__(self, "tags", tuple(self.tags))
        if (self.every or self.tags) and self.keep_last is None and self.max_bytes is None:
            raise StoreError(
                "every= and tags= say what stays although it is old: say also what counts as old, "
                "with keep_last= or max_bytes=."
            )

    def is_tagged(self, label: str | None) -> bool:
        """Whether a moment of this label is to stay."""
        return label is not None and any(fnmatch.fnmatchcase(label, tag) for tag in self.tags)


class Kept(NamedTuple):
    """What stays: checkpoints, by transaction, and the transactions whose deltas are needed."""

    checkpoints: frozenset[int]
    deltas: tuple[range, ...]


class Choice:
    """The choices that a rule leaves, from all that it may keep down to the least.

    Args:
        rule: the rule.
        checkpoints: their transactions, rising.
        tagged: transactions of the moments that are tagged.
        last: the newest transaction.
    """

    def __init__(
        self, rule: Retention, checkpoints: Sequence[int], tagged: Iterable[int], last: int
    ) -> None:
        self._rule, self._checkpoints, self._last = rule, checkpoints, last
        self._tagged = sorted(tagged)

    def fit(self, nbytes: Callable[[Kept], int]) -> Kept:
        """The most that may stay; `nbytes` tells how large the store would be with it."""
        have, budget = self._checkpoints, self._rule.max_bytes
        keep = self._rule.keep_last
        first = -1 if keep is None else len(have) - keep
        start = have[first] if first >= 0 else 0
        spaced = self._spaced([tx for tx in have if tx < start])
        kept = self._kept(start, spaced)
        while budget is not None and have and nbytes(kept) > budget:
            if spaced:
                spaced = spaced[1:]
            elif start < have[-1]:
                start = next(tx for tx in have if tx > start)
            else:
                break
            kept = self._kept(start, spaced)
        return kept

    def _spaced(self, older: Sequence[int]) -> list[int]:
        """One of the older checkpoints in each `every` transactions: the first."""
        every = self._rule.every
        if every is None:
            return []
        first: dict[int, int] = {}
        for tx in older:
            first.setdefault(tx // every, tx)
        return list(first.values())

    def _kept(self, start: int, spaced: list[int]) -> Kept:
        have = self._checkpoints
        checkpoints = {tx for tx in have if tx >= start} | set(spaced)
        deltas = [range(start + 1, self._last + 1)]
        for tx in self._tagged:
            if tx < start:
                base = max((item for item in have if item <= tx), default=0)
                checkpoints |= {base} & set(have)
                deltas.append(range(base + 1, tx + 1))
        return Kept(frozenset(checkpoints), tuple(merged(deltas)))


def doomed(files: Sequence[range], kept: Kept) -> list[range]:
    """Those of the log's files (by the transactions in them) that nothing needs which stays."""
    return [item for item in files if item and without([item], kept.deltas) == [item]]
