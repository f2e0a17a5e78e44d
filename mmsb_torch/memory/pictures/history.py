"""The history of a page, a moment, and what differs between two."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import torch

from mmsb_torch.instrumentation.capture.mode import unseen
from mmsb_torch.instrumentation.context import plain_torch
from mmsb_torch.pictures.html import card, line, mark, table, unfailing
from mmsb_torch.pictures.strips import strip
from mmsb_torch.pictures.words import count, safe, size
from mmsb_torch.types.heat import heat

if TYPE_CHECKING:
    from mmsb_torch.memory.moment import Diff, Moment
    from mmsb_torch.memory.page import PageHistory

_MOST = 24


@unfailing
def history_html(history: PageHistory) -> str:
    """The newest changes of a page, and which rows each touched."""
    rows = []
    with unseen(), plain_torch(torch.device("cpu")):
        for change in history[: -_MOST - 1 : -1]:
            cells = (
                f"{change.tx:,}",
                f"{change.epoch:,}",
                _time(change.time_ns),
                mark(change.label or "", "mono"),
                safe(change.source),
                safe(change.region),
                size(change.nbytes),
                strip(heat(change.region, 48), 144, 8),
            )
            rows.append(cells)
    titles = ("transaction", "epoch", "time", "label", "by", "what", "bytes", "rows")
    left = len(history) - len(rows)
    more = line(f"and {left:,} before") if left else ""
    head = (
        f"History <span class=soft>of {safe(history.page)}: {count(len(history), 'change')}</span>"
    )
    return card(head, table(titles, rows, numbers=(0, 1, 6)), more)


@unfailing
def moment_html(moment: Moment) -> str:
    """The pages that there were, and their epochs; no value is rebuilt."""
    about = [_time(moment.time_ns)]
    about += [f"label {mark(moment.label, 'mono')}"] if moment.label else []
    about += [f"step {moment.step:,}"] if moment.step is not None else []
    names = list(moment)
    rows = [(mark(name, "mono"), _epoch(moment, name)) for name in names[:_MOST]]
    left = len(names) - len(rows)
    more = line(f"and {left:,} more") if left else ""
    head = f"Moment <span class=soft>transaction {moment.tx:,}</span>"
    return card(head, line(" · ".join(about)), table(("page", "epoch"), rows, numbers=(1,)), more)


def _epoch(moment: Moment, name: str) -> str:
    try:
        return f"{moment.epoch(name):,}"
    except LookupError:
        return "<span class=soft>derived</span>"


@unfailing
def diff_html(diff: Diff) -> str:
    """The pages that differ, and in which rows."""
    rows = []
    with unseen(), plain_torch(torch.device("cpu")):
        for name in list(diff)[:_MOST]:
            page = diff[name]
            there = "created" if page.before is None else "not created yet"
            both = page.before is not None and page.after is not None
            what = page.effect if both else there
            rows.append((mark(name, "mono"), safe(what), strip(heat(page.region, 96), 192, 8)))
    left = len(diff) - len(rows)
    more = line(f"and {left:,} more") if left else ""
    head = f"Diff <span class=soft>of transactions {diff.a:,} and {diff.b:,}</span>"
    body = table(("page", "differs in", "rows"), rows) if rows else line("nothing differs")
    return card(head, body, more)


def _time(time_ns: int) -> str:
    moment = dt.datetime.fromtimestamp(time_ns / 1e9, tz=dt.UTC).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}"
