"""What a notebook shows for a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmsb_torch.pictures.html import card, folded, line, mark, meter, table, unfailing
from mmsb_torch.pictures.words import count, safe, size, span

if TYPE_CHECKING:
    from mmsb_torch.graph.calls import Shares
    from mmsb_torch.graph.recording import Recording

_MOST_LINES, _MOST_DRAWN = 10, 60


@unfailing
def recording_html(recording: Recording) -> str:
    """Where time went by module and by function, and the graph of the first calls."""
    head = f"Recording <span class=soft>{safe(repr(recording)[11:-1], 160)}</span>"
    if not recording.calls:
        return card(head)
    drawn = recording.graph.svg(_MOST_DRAWN)
    return card(
        head,
        _table("module", recording.by_module()),
        folded("by function", _table("function", recording.by_function())),
        folded("by operation", _table("operation", recording.by_op())),
        folded(f"graph of {count(len(recording.calls), 'call')}", drawn),
    )


def _table(title: str, shares: Shares) -> str:
    whole = sum(share.total for share in shares) or 1.0
    cells = [
        (
            mark(share.name, "mono"),
            f"{share.calls:,}",
            span(share.total),
            meter(share.total / whole),
            size(share.nbytes),
        )
        for share in shares[:_MOST_LINES]
    ]
    left = len(shares) - len(cells)
    more = line(f"and {left:,} more") if left else ""
    return table((title, "calls", "time", "", "bytes"), cells, numbers=(1, 2, 4)) + more
