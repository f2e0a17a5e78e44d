"""What was counted of each memoised function."""

from __future__ import annotations

import threading

_MISS, _UNKEPT = "miss: ", "unkept: "
_REASONS = 64  # different ones a function


class Tally:
    """The counts of one function. Thread-safe; numbers are calls, seconds or bytes by their names."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._counts: dict[str, float] = {}
        self._taken: dict[str, float] = {}

    def hit(self, origin: str, cost_s: float, took_s: float) -> None:
        """A call was answered from what is kept.

        Args:
            origin: how the result came into memory: "run", "disk" or "ahead".
            cost_s: what the call took that computed it.
            took_s: what answering took.
        """
        with self._guard:
            self._add("hits")
            self._add(f"hits_{origin}")
            self._add("saved_seconds", cost_s - took_s)

    def miss(self, reason: str, run_s: float, took_s: float) -> None:
        """A call was computed: `run_s` of the `took_s` by the function itself."""
        with self._guard:
            self._add("misses")
            self._count(_MISS, reason)
            self._add("run_seconds", run_s)
            self._add("overhead_seconds", took_s - run_s)

    def unkept(self, reason: str, *, keyless: bool = False) -> None:
        """What a call gave is not kept; `keyless`: nobody looked whether it is, for it had no key."""
        with self._guard:
            self._add("unkept")
            self._add("keyless", keyless)
            self._count(_UNKEPT, reason)

    def evicted(self, nbytes: int) -> None:
        """A result went for others."""
        with self._guard:
            self._add("evicted")
            self._add("evicted_bytes", nbytes)

    def ahead(self, nbytes: int) -> None:
        """A result was read before one asked for it."""
        with self._guard:
            self._add("ahead")
            self._add("ahead_bytes", nbytes)

    def counts(self) -> dict[str, float]:
        """All of them."""
        with self._guard:
            return dict(self._counts)

    def take(self) -> dict[str, float]:
        """Those since the last time this was asked."""
        with self._guard:
            new = {n: v - self._taken.get(n, 0) for n, v in self._counts.items()}
            self._taken = dict(self._counts)
        return {name: number for name, number in new.items() if number}

    def _count(self, kind: str, reason: str) -> None:
        name = f"{kind}{reason}"
        if name not in self._counts and len(self._counts) >= _REASONS:
            name = f"{kind}other reasons"
        self._add(name)

    def _add(self, name: str, number: float = 1) -> None:
        self._counts[name] = self._counts.get(name, 0) + number


class Tallies:
    """The tallies of a memory's functions, by their names. Thread-safe."""

    def __init__(self) -> None:
        self._of: dict[str, Tally] = {}

    def of(self, label: str) -> Tally:
        """That of one function."""
        found = self._of.get(label)
        return found if found is not None else self._of.setdefault(label, Tally())

    def take(self) -> dict[str, dict[str, float]]:
        """Function -> its counts since the last time this was asked."""
        found = {label: tally.take() for label, tally in sorted(self._of.copy().items())}
        return {label: counts for label, counts in found.items() if counts}

    def counts(self) -> dict[str, dict[str, float]]:
        """Function -> its counts, of those that have any."""
        found = {label: tally.counts() for label, tally in sorted(self._of.copy().items())}
        return {label: counts for label, counts in found.items() if counts}


def reasons(counts: dict[str, float], kind: str) -> dict[str, int]:
    """Why there were misses (`kind` "miss") or results that were not kept ("unkept"): how often."""
    prefix = {"miss": _MISS, "unkept": _UNKEPT}[kind]
    found = {n.removeprefix(prefix): int(v) for n, v in counts.items() if n.startswith(prefix)}
    return dict(sorted(found.items(), key=lambda item: -item[1]))
