"""The one door: every change of a page is a delta that passes here.

validate -> order -> log -> apply -> epoch -> journal -> event. Users, restores and recomputations
take the same way; a recomputed value moves its page's epoch and journal but takes no transaction
number and is not logged, because reading must not write history.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from mmsb_torch.errors import (
    ClosedError,
    DerivedPageError,
    EpochConflictError,
    PageMutatedError,
    ReadOnlyError,
)
from mmsb_torch.runtime.state.events import EventBus
from mmsb_torch.runtime.state.history import value_at
from mmsb_torch.runtime.state.staging import next_delta_id
from mmsb_torch.runtime.state.table import Entry, Table
from mmsb_torch.runtime.store.log import Log
from mmsb_torch.types import (
    Delta,
    EventType,
    Form,
    PageInfo,
    Region,
    Spec,
    Transaction,
    apply,
)

_NOTHING: Mapping[str, Any] = {}


class Router:
    """Orders and applies deltas. Lock order: commit, then table.

    Thread safety: all methods may be called from any thread; commits are serialised.
    """

    def __init__(self, log: Log, *, read_only: bool = False) -> None:
        self.log = log
        self.table = Table()
        self.events = EventBus()
        self.tx = log.last
        """The last transaction that is visible to readers."""
        self.closed = False
        self._read_only = read_only
        self._commit = threading.Lock()
        self._inside = threading.local()

    @contextmanager
    def recipe(self) -> Iterator[None]:
        """While a recipe runs on this thread no page may be changed from it."""
        before = getattr(self._inside, "recipe", False)
        self._inside.recipe = True
        try:
            yield
        finally:
            self._inside.recipe = before

    def check_writable(self) -> None:
        """Raise if this memory takes no commits now, from this thread."""
        self.check_open()
        if self._read_only:
            raise ReadOnlyError(
                "this memory was opened with mode='r': expected a memory opened for writing"
            )
        if getattr(self._inside, "recipe", False):
            raise DerivedPageError(
                "a recipe tried to change a page: recipes only read. "
                "Return the value, or make the change outside of the recipe."
            )

    def check_open(self) -> None:
        """Raise ClosedError after close."""
        if self.closed:
            raise ClosedError("the memory is closed: open it again with mmsb.open(...)")

    def create(self, info: PageInfo, values: Tensor) -> Entry:
        """Make a page whose first value is `values` (adopted), as a transaction of its own."""
        self.check_writable()
        region = Region.all(tuple(values.shape))
        delta = Delta(next_delta_id(), info.id, -1, region, values, info.created_ns, "create")
        with self._commit:
            self.check_open()
            record = Transaction(
                self.log.last + 1, info.created_ns, (info,), (delta,), None, None, _NOTHING
            )
            entry = Entry(info)
            with self.table.lock:
                self.table.add(entry)
                self.log.append(record)
                entry.put(values.detach(), shared=True)
                entry.tx = self.tx = record.tx
        self.events.emit(
            EventType.PAGE_CREATED, {"page": info.name, "tx": record.tx, "spec": str(info.spec)}
        )
        return entry

    def commit(
        self,
        deltas: Sequence[Delta],
        *,
        label: str | None = None,
        step: int | None = None,
        metadata: Mapping[str, Any] = _NOTHING,
        epochs: Mapping[int, int] = _NOTHING,  # type: ignore[assignment]
    ) -> Transaction:
        """Commit staged deltas, at most one a page, together; returns the transaction.

        Args:
            deltas: as `staging.stage` or `compose` made them.
            label: a name for this moment.
            step: the caller's step count at this moment.
            metadata: plain data kept with the transaction.
            epochs: page id -> epoch that the caller expects.

        Raises:
            EpochConflictError, PageMutatedError, ClosedError, ReadOnlyError, DerivedPageError:
                nothing was changed.
        """
        self.check_writable()
        find = self.table.find
        entries = [find(delta.page_id) for delta in deltas]
        with self._commit:
            self.check_open()
            for entry in entries:
                self._check(entry, epochs)
            placed = tuple(
                delta._replace(base_epoch=entry.epoch)
                for entry, delta in zip(entries, deltas, strict=True)
            )
            tx = self.log.last + 1
            record = Transaction(tx, time.time_ns(), (), placed, label, step, metadata)
            with self.table.lock:
                # what can fail (memory for copies) comes before the log, what cannot after it
                targets = [
                    None if delta.region.form is Form.ALL else entry.writable()
                    for entry, delta in zip(entries, placed, strict=True)
                ]
                self.log.append(record)
                for entry, delta, target in zip(entries, placed, targets, strict=True):
                    self._apply(entry, delta, target, tx)
                self.tx = tx
        if self.events.listening:
            self._tell(record, entries)
        return record

    def publish(self, entry: Entry, value: Tensor, region: Region) -> Delta:
        """Give a derived page its recomputed value (adopted), as a delta without a transaction.

        `region` is what differs from the value before. Table lock held by the caller.
        """
        delta = Delta(
            next_delta_id(), entry.info.id, entry.epoch, region, value, time.time_ns(), "recompute"
        )
        entry.put(value, shared=False)
        entry.spec = Spec.of(value)
        entry.epoch += 1
        entry.journal.add(entry.epoch, region)
        return delta

    def read(self, entry: Entry) -> Tensor:
        """A detached alias of a page's present value.

        Raises:
            PageMutatedError: an earlier alias was written to; the committed value is back.
        """
        with self.table.lock:
            if entry.tensor is not None and entry.tensor._version == entry.version:  # noqa: SLF001
                return entry.alias()
        self.repair(entry)
        raise PageMutatedError("unreachable")  # pragma: no cover

    def read_many(self, entries: Iterable[Entry]) -> tuple[int, list[Tensor]]:
        """Aliases of several pages at one moment, and that moment's transaction."""
        entries = list(entries)
        with self.table.lock:
            broken = next((e for e in entries if e.tensor._version != e.version), None)  # type: ignore[union-attr] # noqa: SLF001
            if broken is None:
                return self.tx, [entry.alias() for entry in entries]
        self.repair(broken)
        raise PageMutatedError("unreachable")  # pragma: no cover

    def repair(self, entry: Entry) -> None:
        """Put a foreign-written page's committed value back from the log, and raise.

        A derived page loses its value instead: its recipe makes it again.
        """
        with self._commit, self.table.lock:
            try:
                entry.check_unwritten()
            except PageMutatedError:
                if entry.info.derived:
                    entry.tensor = None
                else:
                    entry.put(value_at(self.log, entry.info.id, self.tx), shared=False)
                entry.spare = None
                raise

    def _check(self, entry: Entry, epochs: Mapping[int, int]) -> None:
        if entry.tensor is not None and entry.tensor._version != entry.version:  # noqa: SLF001
            with self.table.lock:
                try:
                    entry.check_unwritten()
                finally:
                    entry.put(value_at(self.log, entry.info.id, self.tx), shared=False)
                    entry.spare = None
        if not epochs:
            return
        wanted = epochs.get(entry.info.id, entry.epoch)
        if wanted != entry.epoch:
            raise EpochConflictError(
                f"page {entry.info.name!r} is at epoch {entry.epoch}, expected {wanted}: somebody "
                "changed it in between. Read it again and redo the change, or leave epoch= out.",
                page_id=entry.info.id,
            )

    def _apply(self, entry: Entry, delta: Delta, target: Tensor | None, tx: int) -> None:
        if target is None:
            entry.put(delta.values.detach(), shared=True)
        else:
            apply(target, delta)
            entry.put(target, shared=False)
        entry.epoch += 1
        entry.tx = tx
        entry.journal.add(entry.epoch, delta.region)

    def _tell(self, record: Transaction, entries: Sequence[Entry]) -> None:
        for entry, delta in zip(entries, record.deltas, strict=True):
            self.events.emit(
                EventType.DELTA_COMMITTED,
                {
                    "page": entry.info.name,
                    "tx": record.tx,
                    "label": record.label,
                    "epoch": delta.base_epoch + 1,
                    "region": str(delta.region),
                    "nbytes": delta.nbytes,
                    "source": delta.source,
                },
            )
