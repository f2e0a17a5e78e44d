"""Transactions that the log holds already, applied again: after opening, and by followers."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from mmsb_torch.errors import CorruptLogError
from mmsb_torch.runtime.state.table import Entry
from mmsb_torch.types import Delta, Form, Transaction

if TYPE_CHECKING:
    from mmsb_torch.runtime.state.router import Router


def replay(
    router: Router, record: Transaction, kept: object, superseded: AbstractSet[int] = frozenset()
) -> None:
    """Apply a transaction that the log holds already; `kept` is what the log keeps of it.

    Pages in `superseded` only take the epoch: a later transaction writes them whole.

    Raises:
        CorruptLogError: it does not fit the pages.
    """
    with router.committing, router.table.lock:
        for info in record.created:
            if router.table.get(info.name) is not None:
                raise _misfit(record, f"it creates page {info.name!r}, which exists")
            router.table.add(Entry(info))
        for delta in record.deltas:
            entry = router.table.find(delta.page_id)
            hollow = delta.page_id in superseded
            if not _fits(entry, delta, hollow=hollow):
                raise _misfit(record, f"{delta!r} does not fit page {entry.info.name!r}")
            if hollow:
                entry.tx, entry.epoch = record.tx, delta.base_epoch + 1
                if delta.rows_before is not None:
                    entry.resize(delta.region.shape)
            elif delta.base_epoch == -1:
                entry.put(delta.values.detach(), shared=False)
                entry.tx = record.tx
            else:
                router.apply(entry, delta, entry.target(delta), record.tx)
        router.log.append(record, kept)
        router.tx = record.tx


def finish(router: Router, record: Transaction) -> None:
    """Apply a transaction that the log has to pages that may have some of it already.

    Values are absolute: what was applied is applied again. The commit lock is held.
    """
    with router.table.lock:
        router.log.index_again(record)
        for info in record.created:
            router.table.add_again(info)
        for delta in record.deltas:
            entry = router.table.find(delta.page_id)
            entry.merge(delta, entry.target(delta), shared=True)
            entry.tx = record.tx
            if delta.base_epoch >= 0:
                entry.epoch = entry.content = delta.base_epoch + 1
                entry.journal.add(entry.epoch, delta.region)
        router.tx = record.tx


def _fits(entry: Entry, delta: Delta, *, hollow: bool) -> bool:
    """Whether a delta of the log follows from what its page is."""
    spec, region, rows = entry.info.spec, delta.region, delta.rows_before
    if spec is None or delta.values.dtype != spec.dtype:
        return False
    shape = region.shape if rows is None else (rows, *region.shape[1:])
    if shape != spec.shape:
        return False
    whole = hollow or region.form is Form.ALL
    if delta.base_epoch == -1:
        return entry.tx == 0 and entry.tensor is None and whole and rows is None
    return delta.base_epoch == entry.epoch and (whole or entry.tensor is not None)


def _misfit(record: Transaction, what: str) -> CorruptLogError:
    return CorruptLogError(
        f"transaction {record.tx} of the log does not follow from those before it: {what}. "
        "The log or the checkpoint is another store's, or damaged."
    )
