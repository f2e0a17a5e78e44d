"""What running, looking and reading took, and whether they pay."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

_SHARE, _AT_FIRST, _A_LOOK = 0.25, 16.0, 5.0
"""Looking may take this share of the time of runs, and as long as so many runs; one takes about five."""
_READS = 3
"""Reads that are waited for, before they are compared with a run."""


class Costs:
    """Seconds of one module's calls.

    Attributes:
        run: of the last run of a whole batch.
        executed, looked: of all runs, and of all looks at what rows depend on.
        saved: by what was read, about.
    """

    def __init__(self) -> None:
        self.run = self.executed = self.looked = self.saved = 0.0

    def ran(self, seconds: float) -> None:
        """A whole batch was run."""
        self.run = seconds
        self.executed += seconds

    def may_look(self) -> bool:
        """Whether there was so much to run that looking once more does not matter."""
        return self.looked <= _SHARE * self.executed + (_AT_FIRST - _A_LOOK) * self.run

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """What happens in this block is looking."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.looked += time.perf_counter() - began


class Reads:
    """What reading batches of one kind takes, against running them."""

    def __init__(self) -> None:
        self._least = float("inf")
        self._count = 0
        self.run = float("inf")
        """Seconds of the shortest run."""

    def took(self, seconds: float) -> None:
        """A batch was read."""
        self._least = min(self._least, seconds)
        self._count += 1

    def pay(self) -> bool:
        """Whether reading is the faster of the two, for all that is known."""
        return self._count < _READS or self._least < self.run
