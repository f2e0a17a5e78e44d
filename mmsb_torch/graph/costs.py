"""What it costs to make a value again, in full or by rows: measured, and nothing else decides."""

from __future__ import annotations

from collections import deque

_OVERHEAD = 100e-6
"""Seconds that making some rows takes beside the rows: gathering, comparing, merging."""
_DEARER = 1.25
"""A row among few takes longer than one among many."""
_AGAIN = 32
"""Refusals after which a way that was measured to be slower is tried once more."""


class Costs:
    """Seconds that a value took in full, and by rows for each power of two of rows.

    The least of the last three counts: other threads' work makes a run longer, never shorter.
    """

    __slots__ = ("_full", "_refused", "_rows")

    def __init__(self) -> None:
        self._full: deque[float] = deque(maxlen=3)
        self._rows: dict[int, deque[float]] = {}
        self._refused = 0

    @property
    def full(self) -> float | None:
        """Seconds of a run in full, if one was seen."""
        return min(self._full) if self._full else None

    @property
    def may_pay(self) -> bool:
        """Whether a run in full takes longer than finding out which rows to make."""
        full = self.full
        return full is None or full > _OVERHEAD

    def ran_in_full(self, seconds: float) -> None:
        """Note a run in full."""
        self._full.append(seconds)

    def ran_rows(self, rows: int, seconds: float) -> None:
        """Note a run of some rows."""
        self._rows.setdefault(rows.bit_length(), deque(maxlen=3)).append(seconds)

    def is_dear(self, rows: int, of: int) -> bool:
        """Whether so many rows take longer than what is done beside them."""
        return (self.full or 0.0) * rows / of > _OVERHEAD

    def promise(self, rows: int, of: int) -> float:
        """Seconds that running `rows` rows of `of` is expected to save."""
        return max((self.full or 0.0) * (1 - _DEARER * rows / of) - _OVERHEAD, 0.0) if of else 0.0

    def saved(self, seconds: float) -> float:
        """What a run that took `seconds` saved against one in full; never less than nothing."""
        return max((self.full or 0.0) - seconds, 0.0)

    def favour_rows(self, rows: int, of: int, *, slack: float = 1.0) -> bool:
        """Whether running `rows` rows of `of` is expected to take less than all of them.

        `slack`: how much longer than that it may take.
        """
        full = self.full
        if full is None:
            return 2 * rows <= of
        seen = self._rows.get(rows.bit_length())
        if seen is None:
            return _OVERHEAD + full * _DEARER * rows / of < full * slack
        if min(seen) < full * slack:
            return True
        self._refused += 1
        if self._refused >= _AGAIN:
            self._refused = 0
            del self._rows[rows.bit_length()]
        return False
