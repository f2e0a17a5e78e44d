"""A memory and a page, as they stand; nothing is computed for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmsb_torch.graph import Look, status
from mmsb_torch.instrumentation.capture.mode import unseen
from mmsb_torch.instrumentation.context import plain_torch
from mmsb_torch.pictures.html import card, line, mark, side_by_side, table, unfailing
from mmsb_torch.pictures.samples import Sample, sample
from mmsb_torch.pictures.strips import histogram, strip
from mmsb_torch.pictures.words import count, percentage, safe, size
from mmsb_torch.runtime.state import Entry
from mmsb_torch.types.heat import heat

if TYPE_CHECKING:
    from mmsb_torch.memory.memory import Memory
    from mmsb_torch.memory.page import Page

_MOST_PAGES = 24
_MOST_BYTES, _MOST_PARTS = 16 << 20, 8
"""Of a larger page the newest so many changes are drawn one upon the other."""
_STYLES = {"failed": "error"}


@unfailing
def page_html(page: Page) -> str:
    """A page: what it looks like, which rows changed since the checkpoint, how its values lie."""
    memory, entry = page.memory, page._entry  # noqa: SLF001 - one facade
    head = f"{safe(page.name)} <span class=soft>page {page.id}</span>"
    if memory.closed:
        return card(head, line("its memory is closed", "stale"))
    with unseen(), plain_torch(torch.device("cpu")):
        return card(head, line(_state(memory, entry)), _looks(memory, entry))


@unfailing
def memory_html(memory: Memory) -> str:
    """A memory: where it is, and its newest pages with what changed since the checkpoint."""
    store = memory._store  # noqa: SLF001 - as above
    where = "in memory" if store is None else mark(store.path, "mono")
    head = f"Memory <span class=soft>{where}</span>"
    if memory.closed:
        return card(head, line("closed", "stale"))
    with unseen(), plain_torch(torch.device("cpu")):
        numbers = memory.stats()
        held = ", ".join(f"{size(nbytes)} on {safe(at)}" for at, nbytes in numbers["bytes"].items())
        about = [
            count(numbers["pages"], "page"),
            f"{numbers['derived']:,} derived",
            held,
            f"transaction {numbers['transaction']:,}",
            f"{size(numbers['history_bytes'])} of history",
        ]
        entries = list(memory._router.table)  # noqa: SLF001 - as above
        rows = [_row(memory, entry) for entry in entries[:_MOST_PAGES]]
        titles = ("page", "shape", "epoch", "state", "changed since the checkpoint")
        parts = [line(" · ".join(filter(None, about)))]
        parts += [table(titles, rows, numbers=(2,))] if rows else []
        left = len(entries) - len(rows)
        parts += [line(f"and {left:,} more: mem.pages(), mem.graph")] if left else []
        return card(head, *parts)


def _row(memory: Memory, entry: Entry) -> tuple[str, ...]:
    spec = entry.info.spec or entry.spec
    look = "not computed yet" if spec is None else f"{spec.dtype_name}{list(spec.shape)}"
    with memory._router.table.lock:  # noqa: SLF001 - as above
        share, shares = _changed(entry, parts=48)
    text = f"<span class=warm>{percentage(share)}</span>" if share else ""
    changed = f'<div class="side"><div>{strip(shares, 144, 8)}</div><div>{text}</div></div>'
    name = mark(entry.info.name, "mono")
    return name, mark(look, "mono soft"), f"{entry.epoch:,}", _status(memory, entry), changed


def _changed(entry: Entry, parts: int) -> tuple[float, list[float]]:
    """The share of a page that changed since the last checkpoint, and by parts of its rows.

    Of a large page both are at least so much: joining what changed would take long. The caller holds
    the table's lock.
    """
    spec = entry.info.spec or entry.spec
    if spec is None:
        return 0.0, []
    journal, shape = entry.journal, spec.shape
    newest = journal.parts(journal.checkpoint)[-_MOST_PARTS:]
    like_it = len(newest) > 1 and all(region.shape == shape for region in newest)
    if spec.nbytes <= _MOST_BYTES or not like_it:
        region = journal.since(journal.checkpoint, shape)
        return region.share, heat(region, parts)
    found = [heat(region, parts) for region in newest]
    return max(region.share for region in newest), [*map(max, zip(*found, strict=True))]


def _status(memory: Memory, entry: Entry) -> str:
    engine = memory._engine  # noqa: SLF001 - as above
    node = engine.topology.nodes.get(entry.info.id)
    state = "root" if node is None else status(Look(engine), node)
    return mark("yours" if node is None else state, _STYLES.get(state, state))


def _state(memory: Memory, entry: Entry) -> str:
    spec = entry.info.spec or entry.spec
    parts = [_status(memory, entry), f"epoch {entry.epoch:,}"]
    if spec is None:
        return " · ".join([*parts, "not computed yet"])
    look = mark(f"{spec.dtype_name}{list(spec.shape)}", "mono")
    return " · ".join([look, size(spec.nbytes), safe(spec.device), *parts])


def _looks(memory: Memory, entry: Entry) -> str:
    with memory._router.table.lock:  # noqa: SLF001 - as above: nobody writes or closes meanwhile
        tensor = entry.tensor if not memory.closed else None
        if tensor is None:
            return ""
        share, shares = _changed(entry, parts=96)
        numbers = sample(tensor)
    what = f"{percentage(share)} changed" if share else "nothing changed"
    rows = count(tensor.shape[0], "row") if tensor.dim() else "one value"
    changed = f"<span class={'warm' if share else 'soft'}>{what}</span>"
    left = strip(shares) + line(f"{changed} since the last checkpoint, over {rows}")
    return side_by_side(left, values_html(numbers))


def values_html(numbers: Sample) -> str:
    """A histogram with its range below it."""
    bars = histogram(numbers.counts) if len(numbers.counts) > 1 else ""
    words = "no finite values"
    if numbers.counts:
        words = f"{numbers.low:.4g} to {numbers.high:.4g}, mean {numbers.mean:.4g}"
    if not numbers.total:
        words = "no elements"
    if numbers.strange:
        words += f", <span class=error>{numbers.strange:,} nan or infinite</span>"
    if numbers.read < numbers.total:
        words += f" (every {-(-numbers.total // numbers.read):,}th read)"
    return bars + line(words)
