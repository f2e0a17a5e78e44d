"""Audits: a share of what is answered without computing is computed all the same, and compared."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmsb_torch.errors import UnsupportedError, WrongHitError

_KEPT = 100


class Finding(NamedTuple):
    """Something that was not what it was taken for."""

    kind: str
    """"tensor", "page", "derived page", "memo" or "operation"."""
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.what}"


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of `mem.audit()`: print it, or look at `wrong`; true if nothing was found."""

    checked: dict[str, int]
    """How many of each kind were compared."""
    wrong: tuple[Finding, ...]
    seconds: float

    def __bool__(self) -> bool:
        return not self.wrong

    def __str__(self) -> str:
        looked = ", ".join(f"{count} {kind}s" for kind, count in self.checked.items() if count)
        found = f"{len(self.wrong)} wrong" if self.wrong else "all as they should be"
        lines = [f"audit of {looked or 'nothing'} in {self.seconds:.2f} s: {found}"]
        return "\n".join([*lines, *(f"  {finding}" for finding in self.wrong)])

    __repr__ = __str__


class Audit:
    """The checks of one memory. Thread-safe.

    Args:
        share: of the hits (0 to 1) that are checked as they come.
        tell: gets a plain description of whatever is found.
    """

    def __init__(
        self, share: float = 0.0, tell: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> None:
        self.share = check_share("audit", share)
        self.counts: Counter[str] = Counter()
        self.findings: deque[Finding] = deque(maxlen=_KEPT)
        self._tell = tell
        self._dice = random.Random()  # noqa: S311 - a sample; the user's generator stays as it is

    def due(self, share: float) -> bool:
        """Whether this hit is one of the sample."""
        return self._dice.random() < share

    def compared(self, kind: str) -> None:
        """Something was compared, and equal."""
        self.counts[kind] += 1

    def found(self, kind: str, name: str, what: str) -> Finding:
        """Something was compared, and is not equal."""
        finding = Finding(kind, name, what)
        self.counts[kind] += 1
        self.counts["wrong"] += 1
        self.findings.append(finding)
        self._tell({"audit": kind, "name": name, "error": what})
        return finding

    def wrong(self, kind: str, name: str, what: str) -> WrongHitError:
        """As `found`, as an error to be raised."""
        self.found(kind, name, what)
        return WrongHitError(f"{name}: {what}")

    def stats(self) -> dict[str, int]:
        """How many things were compared, and how many of them were wrong."""
        wrong = self.counts["wrong"]
        return {"checked": sum(self.counts.values()) - wrong, "wrong": wrong}


def check_share(name: str, share: object) -> float:
    """A share from 0 to 1.

    Raises:
        UnsupportedError: it is none.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise UnsupportedError(f"{name}={share!r:.60}: expected a share of the hits, from 0 to 1.")
    return float(share)
