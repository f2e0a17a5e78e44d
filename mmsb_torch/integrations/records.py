"""A memory's pages and history as plain records, for tools that keep tables or graphs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from mmsb_torch.runtime.state import Entry
from mmsb_torch.types import Transaction

if TYPE_CHECKING:
    from mmsb_torch.graph import Node
    from mmsb_torch.memory import Memory


class PageRow(NamedTuple):
    """One page as it is; nothing is computed for it."""

    page: int
    name: str
    derived: bool
    dtype: str | None
    """None, as shape and device: a derived page that was not computed yet."""
    shape: tuple[int, ...] | None
    device: str | None
    nbytes: int | None
    epoch: int
    tx: int
    """The last transaction that changed it; 0 of a derived page."""
    created_ns: int
    metadata: str
    """JSON."""
    recipe: str | None
    inputs: tuple[int, ...]
    """Pages that a derived page was declared over or was seen to read."""
    seen: tuple[int, ...]
    """Epochs of the first of `inputs` that the value at hand was computed from."""
    as_of: int | None
    """The transaction for which the value was last known to be right; None if there is no value."""
    world: int
    """In which world the value was computed."""


class DeltaRow(NamedTuple):
    """What one transaction did to one page; `page` is None if it touched none."""

    tx: int
    time_ns: int
    label: str | None
    step: int | None
    metadata: str
    page: int | None
    epoch: int | None
    """The page's epoch afterwards."""
    form: str | None
    changed: int | None
    """Elements in the delta's region."""
    nbytes: int | None
    source: str | None
    rows_before: int | None
    """Rows that the page had before, if it has another number of them afterwards."""


def page_rows(memory: Memory) -> list[PageRow]:
    """Every page, in the order of their ids, at one moment.

    Raises:
        ClosedError: the memory is closed.
    """
    router, nodes = memory._router, memory._engine.topology.nodes  # noqa: SLF001 - reads the facade
    router.check_open()
    with router.table.lock:
        return [_page(entry, nodes.get(entry.info.id)) for entry in router.table]


def delta_rows(memory: Memory, after: int = 0) -> Iterator[DeltaRow]:
    """The history at hand, oldest first, from behind transaction `after`; one payload in memory at a time.

    Raises:
        ClosedError, CollectedError, CorruptLogError: as `page.history()`.
    """
    router = memory._router  # noqa: SLF001 - reads the facade
    router.check_open()
    log = router.log
    log.reach_back()
    for tx in log.numbers():  # it may have gaps
        if tx > after:
            yield from _deltas(log[tx])


def _page(entry: Entry, node: Node | None) -> PageRow:
    info, spec = entry.info, entry.spec
    has_value = entry.tensor is not None
    return PageRow(
        info.id,
        info.name,
        info.derived,
        spec.dtype_name if spec else None,
        spec.shape if spec else None,
        str(spec.device) if spec else None,
        spec.nbytes if spec else None,
        entry.epoch,
        entry.tx,
        info.created_ns,
        json.dumps(dict(info.metadata), sort_keys=True),
        node.label if node else None,
        tuple(item.info.id for item in node.inputs) if node else (),
        node.seen if node and has_value and node.seen_of == node.inputs else (),
        node.as_of if node and has_value else None,
        node.world if node else 0,
    )


def _deltas(found: Transaction) -> Iterator[DeltaRow]:
    about = (found.tx, found.time_ns, found.label, found.step)
    metadata = json.dumps(dict(found.metadata), sort_keys=True)
    for delta in found.deltas:
        yield DeltaRow(
            *about,
            metadata,
            delta.page_id,
            delta.base_epoch + 1,
            delta.region.form.name.lower(),
            delta.region.count,
            delta.nbytes,
            delta.source,
            delta.rows_before,
        )
    if not found.deltas:
        yield DeltaRow(*about, metadata, None, None, None, None, None, None, None)
