"""Sets of transactions, as ranges: which ones a log has, which ones were collected."""

from __future__ import annotations

import itertools
from collections.abc import Iterable


def merged(ranges: Iterable[range]) -> list[range]:
    """The same numbers as rising ranges that neither meet nor touch."""
    found: list[range] = []
    for item in sorted((item for item in ranges if item), key=lambda item: item.start):
        if found and item.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, item.stop))
        else:
            found.append(item)
    return found


def without(ranges: Iterable[range], removed: Iterable[range]) -> list[range]:
    """The numbers of `ranges` that are in none of `removed`."""
    left = merged(ranges)
    for gone in removed:
        left = [
            part
            for item in left
            for part in (
                range(item.start, min(item.stop, gone.start)),
                range(max(item.start, gone.stop), item.stop),
            )
            if part
        ]
    return left


def covers(ranges: Iterable[range], numbers: range) -> bool:
    """Whether every one of `numbers` is in one of `ranges`."""
    return not without([numbers], ranges)


def runs(numbers: Iterable[int]) -> list[range]:
    """Rising numbers as ranges without gaps."""
    groups = itertools.groupby(enumerate(numbers), lambda item: item[1] - item[0])
    found = ([number for _, number in group] for _, group in groups)
    return [range(group[0], group[-1] + 1) for group in found]


def spelled(ranges: Iterable[range]) -> str:
    """Ranges for people: "3, 10 to 20"."""
    texts = [
        str(item[0]) if len(item) == 1 else f"{item[0]} to {item[-1]}" for item in merged(ranges)
    ]
    return ", ".join(texts) or "none"
