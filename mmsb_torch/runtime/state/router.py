"""The one door: every change of a page is a delta that passes here.

validate -> order -> log -> apply -> epoch -> journal -> event. Users, restores and recomputations
take the same way; a recomputed value moves its page's epoch and journal but takes no transaction
number and is not logged, because reading must not write history.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmsb_torch.device import copy_of
from mmsb_torch.errors import (
    ClosedError,
    DerivedPageError,
    EpochConflictError,
    InvalidDeltaError,
    MMSBError,
    ReadOnlyError,
)
from mmsb_torch.runtime.state.batch import Base
from mmsb_torch.runtime.state.events import EventBus
from mmsb_torch.runtime.state.history import value_at
from mmsb_torch.runtime.state.reading import Reading
from mmsb_torch.runtime.state.replay import finish
from mmsb_torch.runtime.state.staging import at_size, next_delta_id
from mmsb_torch.runtime.state.table import Entry
from mmsb_torch.runtime.store.log import Log
from mmsb_torch.types import (
    Delta,
    EventType,
    Form,
    PageInfo,
    Region,
    Spec,
    Transaction,
    after,
    changes_bits,
    make_transaction,
    narrow,
)

_NOTHING: Mapping[str, Any] = {}
_TOLD = (EventType.DELTA_COMMITTED, EventType.PAGE_CREATED)


class Recipes(threading.local):
    """How many recipes this thread is inside of; from there no page may be changed."""

    depth = 0
    peeked = False
    """Somebody looked at the memory itself since this was last cleared."""


class Router(Reading):
    """Orders and applies deltas. Lock order: commit, then table.

    Thread safety: all methods may be called from any thread; commits are serialised.
    """

    def __init__(self, log: Log, *, read_only: bool = False) -> None:
        super().__init__(log)
        self.events = EventBus()
        self.creating = threading.Lock()
        """Held while a page is made, so that two threads cannot make the same."""
        self.closed = False
        self.alert = False
        """Whether `attend` has anything to do: it was closed, or a transaction is under way."""
        self.failure: MMSBError | None = None
        """Why nothing can be read any more, if it was not closed."""
        self._read_only = read_only
        self._begun: Transaction | None = None
        """The transaction under way. Found by who gets the commit lock, it was interrupted."""
        self.recipes = Recipes()

    def check_writable(self) -> None:
        """Raise if this memory takes no commits now, from this thread."""
        recipes = self.recipes
        recipes.peeked = True
        if self.closed:
            self.check_open()
        if self._read_only:
            raise ReadOnlyError(
                "this memory was opened with mode='r': expected a memory opened for writing"
            )
        if recipes.depth:
            raise DerivedPageError(
                "a recipe tried to change a page: recipes only read. "
                "Return the value, or make the change outside of the recipe."
            )

    def check_open(self) -> None:
        """Raise ClosedError after close; in a recipe, note that it looks at more than pages."""
        self.recipes.peeked = True
        if self.alert:
            self.attend()

    def attend(self) -> None:
        """Do what `alert` asks for: finish what was interrupted; raise ClosedError after close."""
        if self._begun is not None and not self.committing.locked():
            with self.committing:
                self._settle()
        if self.closed and not self.recipes.depth:  # a moment's recipes go on reading
            if self.failure is not None:
                raise self.failure
            raise ClosedError("the memory is closed: open it again with mmsb.open(...)")

    def shut(self) -> bool:
        """Take no more commits; False if that was so already."""
        with self.committing:
            self._settle()
            before, self.closed, self.alert = self.closed, True, True
        return not before

    def fail(self, error: MMSBError) -> None:
        """Let every call raise `error` from now on."""
        self.failure, self.closed, self.alert = error, True, True

    def create(self, info: PageInfo, values: Tensor) -> Entry:
        """Make a page whose first value is `values` (adopted), as a transaction of its own.

        The caller holds `creating`, and lets events be delivered when it let go.
        """
        region = Region.all(tuple(values.shape))
        delta = Delta(next_delta_id(), info.id, -1, region, values, info.created_ns, "create")
        self.commit([delta], created=(info,), tell=False)
        return self.table.find(info.id)

    def commit(
        self,
        deltas: Sequence[Delta],
        *,
        created: Sequence[PageInfo] = (),
        label: str | None = None,
        step: int | None = None,
        metadata: Mapping[str, Any] = _NOTHING,
        epochs: Mapping[int, int] | None = None,
        only_at: int | None = None,
        wait: bool = True,
        bases: dict[int, Base] | None = None,
        tell: bool = True,
    ) -> Transaction:
        """Commit staged deltas, at most one a page, together; returns the transaction.

        Args:
            deltas: as `staging.stage` or `compose` made them.
            created: pages that begin here. Among `deltas` are their first values: whole, of base epoch
                -1, adopted. The caller holds `creating`.
            label: a name for this moment.
            step: the caller's step count at this moment.
            metadata: plain data kept with the transaction.
            epochs: page id -> epoch that the caller expects.
            only_at: refuse with EpochConflictError unless this is still the last transaction.
            wait: until it is written to the log; else that happens behind the caller.
            bases: what deltas were compared with, see `Batch`; taken out, so that what is not
                changed elsewhere can be merged in place.
            tell: subscribers, at the end; else the caller does (`events.deliver`), which it has to
                where it holds a lock.

        Raises:
            EpochConflictError, PageMutatedError, ClosedError, ReadOnlyError, DerivedPageError:
                nothing was changed.
        """
        self.check_writable()
        new = {info.id: Entry(info) for info in created}
        with self.committing:
            if self.alert:
                self._settle()
                self.attend()
            if only_at is not None and self.tx != only_at:
                raise EpochConflictError(
                    f"the memory is at transaction {self.tx}, expected {only_at}"
                )
            placed = self._placed(deltas, new, epochs, bases)
            tx = self.tx + 1
            final = tuple([delta for _, delta in placed])
            now = created[0].created_ns if created else time.time_ns()
            record = make_transaction((tx, now, tuple(created), final, label, step, metadata))
            self._begin(record)
            try:
                # may wait for the disk: no lock of readers is held
                kept = self.log.write(record) if wait else self.log.write_later(record)
                shared = self.log.keeps or not wait  # the log reads what pages adopt
                with self.table.lock:
                    # what can fail (memory for copies) comes before anything is changed
                    targets = [entry.target(delta) for entry, delta in placed]
                    self.log.append(record, kept)
                    for (entry, delta), target in zip(placed, targets, strict=True):
                        if delta.page_id in new:
                            self.table.add(entry)
                            entry.put(delta.values.detach(), shared=shared)
                            entry.tx = tx
                        else:
                            self._retire(entry, delta)
                            self.apply(entry, delta, target, tx, shared=shared)
                    self.tx = tx
            except BaseException:
                self._settle()
                raise
            self._end()
        if tell and self.events.wanted:
            self.events.deliver()
        return record

    def _placed(
        self,
        deltas: Sequence[Delta],
        new: Mapping[int, Entry],
        epochs: Mapping[int, int] | None,
        bases: dict[int, Base] | None,
    ) -> list[tuple[Entry, Delta]]:
        """Each delta with its page, checked and as of the page as it is now. Commit lock held."""
        for entry in new.values():
            self.table.check_free(entry.info)
        find, placed = self.table.find, []
        for delta in deltas:
            if new and delta.page_id in new:
                placed.append((new[delta.page_id], delta))
                continue
            entry = find(delta.page_id)
            if epochs or not entry.is_unwritten():
                self._check(entry, epochs)
            base = bases.pop(delta.page_id, None) if bases else None
            placed.append((entry, self._settled(entry, delta, base)))
            del base
        return placed

    def _retire(self, entry: Entry, delta: Delta) -> None:
        if not self.log.keeps:
            entry.retire(delta.region.form)

    def _begin(self, record: Transaction) -> None:
        self._begun, self.alert = record, True

    def _end(self) -> None:
        """The transaction under way is there; who wants to be told is told when the lock is gone."""
        record, self._begun, self.alert = self._begun, None, self.closed
        if record is not None and not self.events.wanted.isdisjoint(_TOLD):
            self._post(record)

    def _settle(self) -> None:
        """Void a transaction that was interrupted, or finish it if the log has it. Commit lock held.

        If this is interrupted, too, whoever touches the memory next does it.
        """
        record = self._begun
        if record is not None:
            if self.log.last < record.tx:
                self.log.take_back(record.tx)
                self._begun = None
            elif self.tx < record.tx:
                finish(self, record)
            self._end()

    def _settled(self, entry: Entry, delta: Delta, base: Base | None) -> Delta:
        """A staged delta of a page as it is now. Commit lock held.

        Raises:
            InvalidDeltaError: it writes rows that are gone.
        """
        if delta.base_epoch == entry.epoch:  # nobody changed what it was compared with
            return delta
        if base is not None:
            if base.is_unwritten():
                value = copy_of(base.value)
            else:
                value = value_at(self.log, entry.info.id, base.tx)
            value, region = after(value, [delta]), Region.all(delta.region.shape)
            delta = delta._replace(region=region, values=value)
        spec = entry.info.spec
        if spec is not None and (delta.rows_before is not None or delta.region.shape != spec.shape):
            delta = at_size(entry, delta, spec.shape[0])
        delta = delta.at(entry.epoch)
        return narrow(delta, entry.value) if delta.region.form is Form.ALL else delta

    def publish(self, entry: Entry, value: Tensor, region: Region) -> Delta:
        """Give a derived page its recomputed value (adopted), as a delta without a transaction.

        `region` is what differs from the value before. Table lock held by the caller.
        """
        delta = Delta(
            next_delta_id(), entry.info.id, entry.epoch, region, value, time.time_ns(), "recompute"
        )
        entry.spec = Spec.of(value)
        entry.journal.add(entry.epoch + 1, region)
        entry.epoch += 1
        entry.content = entry.epoch
        entry.put(value, shared=False)  # last: an interrupt before leaves a page that is recomputed
        return delta

    def publish_rows(self, entry: Entry, values: Tensor, region: Region) -> Delta:
        """As `publish`, of rows: `values` [n, *shape[1:]] are those of `region` (form ROWS).

        They are merged in place unless somebody holds the value. The region may have more rows than
        the value had; all of these are then among them.
        """
        before = entry.value.shape[0]
        number, now = next_delta_id(), time.time_ns()
        grown = None if region.shape[0] == before else before
        delta = Delta(number, entry.info.id, entry.epoch, region, values, now, "recompute", grown)
        target = entry.target(delta)
        # first what makes dependants stale: an interrupt may leave some of the rows merged
        entry.journal.add(entry.epoch + 1, region)
        entry.epoch += 1
        entry.content = entry.epoch
        entry.merge(delta, target, shared=False)
        return delta

    def _check(self, entry: Entry, epochs: Mapping[int, int] | None) -> None:
        if not entry.is_unwritten():
            with self.table.lock:
                raise self.repaired(entry)
        if not epochs:
            return
        wanted = epochs.get(entry.info.id, entry.epoch)
        if type(wanted) is not int:
            raise InvalidDeltaError(
                f"page {entry.info.name!r}: epoch= should be an integer, found {wanted!r}",
                page_id=entry.info.id,
            )
        if wanted != entry.epoch:
            raise EpochConflictError(
                f"page {entry.info.name!r} is at epoch {entry.epoch}, expected {wanted}: somebody "
                "changed it in between. Read it again and redo the change, or leave epoch= out.",
                page_id=entry.info.id,
            )

    def apply(
        self, entry: Entry, delta: Delta, target: Tensor | None, tx: int, *, shared: bool = False
    ) -> None:
        """Apply a checked delta to its page. Table lock held; `target` is written, or swapped for."""
        changed = not entry.watched or changes_bits(entry.value, delta)
        entry.merge(delta, target, shared=shared)
        entry.tx = tx  # before the epochs: see `epoch_at`
        entry.epoch += 1
        if changed:
            entry.content = entry.epoch
        entry.journal.add(entry.epoch, delta.region)

    def tell(self, record: Transaction) -> None:
        """Tell subscribers of a transaction that was replayed."""
        self._post(record)
        self.events.deliver()

    def _post(self, record: Transaction) -> None:
        """Put the events of a transaction in order."""
        events, find = self.events, self.table.find
        for info in record.created:
            fields = {"page": info.name, "tx": record.tx, "spec": str(info.spec)}
            events.post(EventType.PAGE_CREATED, fields)
        made = {info.id for info in record.created}
        for delta in record.deltas:
            name = find(delta.page_id).info.name
            if delta.page_id in made or not events.wants(EventType.DELTA_COMMITTED, name):
                continue
            fields = {"page": name, "tx": record.tx, "label": record.label}
            fields |= {"epoch": delta.base_epoch + 1, "region": delta.effect}
            fields |= {"nbytes": delta.nbytes, "source": delta.source}
            events.post(EventType.DELTA_COMMITTED, fields)
