"""The line below a cell: what ran, what was reused, why, and the time saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmsb_torch.notebook.witness import Group
from mmsb_torch.pictures.html import folded, frame, mark, table, unfailing
from mmsb_torch.pictures.words import count, safe, span

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Summary:
    """What an incremental cell did. `str()` is the line; in a notebook it opens to a table."""

    number: int
    """Of the tracked cell: `%mmsb checkout` takes it. 0 if it was not kept."""
    groups: tuple[Group, ...]
    """By function of the user's and line of the cell, in the order of their first operation."""
    total: Group
    causes: tuple[str, ...]
    """Why operations ran that were known; empty at the first run."""
    first: bool
    """Whether it did not run before."""
    error: str = ""
    """What it raised."""
    pages: int = 0
    """Derived pages that were recomputed."""
    notes: tuple[str, ...] = ()

    @property
    def ran(self) -> str:
        """What ran, in a few words."""
        whole, names = self.total, [group.label for group in self.groups if group.ran]
        if not whole.ran and not self.pages:
            known = whole.reused or whole.again
            return "nothing to run" if known else "nothing large enough to keep"
        parts = [f"ran {count(whole.ran, 'call')} in {span(whole.ran_s)}"] if whole.ran else []
        parts += [f"recomputed {count(self.pages, 'page')}"] if self.pages else []
        where = f": {_list(names)}" if names else ""
        return f"{', '.join(parts)}{where}"

    @property
    def why(self) -> str:
        """Why, in a few words; nothing if nothing ran."""
        if not self.total.ran:
            return ""
        if self.causes:
            return f"because {_list(self.causes, '; ')}"
        return "first run" if self.first else ""

    @property
    def again(self) -> str:
        """What ran though nothing changed, in a few words."""
        whole = self.total
        if not whole.again:
            return ""
        return f"{count(whole.again, 'call')} again in {span(whole.again_s)}, not kept before"

    @property
    def reused(self) -> str:
        """What was reused, in a few words."""
        whole = self.total
        return (
            f"reused {count(whole.reused, 'call')}, {span(whole.saved_s)} saved"
            if whole.reused
            else ""
        )

    def __str__(self) -> str:
        cell = f"[{self.number}] " if self.number else ""
        error = f"stopped by {self.error}, what was completed is kept" if self.error else ""
        parts = [self.ran, self.why, self.again, self.reused, error, *self.notes]
        return f"mmsb {cell}{' · '.join(part for part in parts if part)}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _html(self)


@unfailing
def _html(summary: Summary) -> str:
    ran = summary.total.ran or summary.pages
    parts = [
        mark(f"[{summary.number}]" if summary.number else "mmsb", "mono soft"),
        mark(summary.ran, "warm" if ran else "fresh"),
        mark(summary.why, "") if summary.why else "",
        mark(summary.again, "soft") if summary.again else "",
        mark(summary.reused, "fresh") if summary.reused else "",
        mark(f"stopped by {summary.error}, what was completed is kept", "error")
        if summary.error
        else "",
        *(mark(note, "stale") for note in summary.notes),
    ]
    line = " · ".join(part for part in parts if part)
    if not summary.groups:
        return frame(line)
    rows = [
        (
            mark(group.label, "mono"),
            f"{group.ran:,}" if group.ran else "",
            span(group.ran_s) if group.ran else "",
            f"{group.reused:,}" if group.reused else "",
            span(group.saved_s) if group.reused else "",
            f"{group.again:,}" if group.again else "",
            f"{group.quick:,}" if group.quick else "",
        )
        for group in summary.groups[:30]
    ]
    titles = ("", "ran", "took", "reused", "saved", "again", "quick ones")
    causes = "".join(f"<div>because {safe(cause, 200)}</div>" for cause in summary.causes)
    return frame(folded(line, causes + table(titles, rows, numbers=(1, 2, 3, 4, 5, 6))))


def _list(names: Sequence[str], joint: str = ", ") -> str:
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return joint.join([*names[:_NAMED], *more])
