"""The log on disk: what it holds in memory is where each transaction is, and whom it touched."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mmsb_torch.errors import (
    CollectedError,
    CorruptLogError,
    HistoryError,
    MMSBError,
    StoreError,
)
from mmsb_torch.runtime.store import payload
from mmsb_torch.runtime.store.background import Background
from mmsb_torch.runtime.store.bodies import Place, drop_body, read_transaction, segment_body
from mmsb_torch.runtime.store.files import FILES, Files, exists
from mmsb_torch.runtime.store.frame import SEGMENT, Kind
from mmsb_torch.runtime.store.log import About, Base, Log
from mmsb_torch.runtime.store.logfile import LogFile
from mmsb_torch.runtime.store.logwriter import LogWriter
from mmsb_torch.runtime.store.sealed import Fields
from mmsb_torch.runtime.store.spans import merged, runs, spelled, without
from mmsb_torch.types import Form, Transaction

INLINE_BYTES = 1 << 20
"""Payloads above this get a file of their own."""
_CACHE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as a base for values: the epochs of its pages, and how to read one."""

    about: About
    epochs: Mapping[int, int]
    read: Callable[[int], Tensor]

    @property
    def tx(self) -> int:
        """Its transaction."""
        return self.about.tx


class Older(NamedTuple):
    """What a store has of the time before the checkpoint that a log goes on from."""

    bases: list[Checkpoint]
    found: list[tuple[Fields, Place]]
    """Transactions, oldest first; there may be gaps, where the collector was."""


class DurableLog(Log):
    """A log whose transactions are on disk; they are read again when the past is asked for.

    Args:
        root: the store's folder.
        uuid: the store's.
        names: page id -> name; grows with the pages that are created.
        base: the checkpoint that the log goes on from, if there is one.
        older: looks for what there is from before the checkpoint.
        files: the disk.
    """

    keeps = False

    def __init__(
        self,
        root: Path,
        uuid: str,
        names: dict[int, str],
        base: Checkpoint | None = None,
        older: Callable[[], Older] | None = None,
        files: Files = FILES,
    ) -> None:
        super().__init__(1 if base is None else base.tx + 1)
        self.writer: LogWriter | None = None
        """Set when this process may write."""
        self._root, self._uuid, self._files = root, uuid, files
        self._names = names
        self._older = older
        self._past: list[range] = []
        """Transactions at hand from before the checkpoint."""
        self._bases: list[Checkpoint] = []
        if base is not None:
            self.add_base(base)
        self._cache: OrderedDict[int, Transaction] = OrderedDict()
        self._guard = threading.Lock()
        self._behind = Background(self._write_behind)
        self.pending_bytes = 0
        """What a replay after the newest checkpoint reads: what is replaced later does not count."""
        self.pending_commits = 0
        self._pending: dict[int, int] = {}
        self._written: dict[int, Place] = {}
        """Where those are that were written before they were entered."""

    @property
    def first(self) -> int:
        """Number of the oldest moment at hand."""
        moments = self.moments()
        return moments[0].start if moments else self._first

    def moments(self) -> list[range]:
        """The moments at hand: checkpoints, and what the log leads to from one or from its birth."""
        found = [range(base.tx, base.tx + 1) for base in self._bases]
        for span in self._spans():
            starts = [base.tx for base in self._bases if span.start - 1 <= base.tx < span.stop]
            start = 1 if span.start == 1 else min(starts, default=span.stop)
            found.append(range(start, span.stop))
        return merged(found)

    def _spans(self) -> list[range]:
        """The transactions whose deltas are at hand."""
        return merged([*self._past, range(self._first, self._next)])

    def find(self, at: Any = None, *, step: int | None = None) -> int:
        """As `Log.find`; what is older than the checkpoint is looked for when it is asked for."""
        try:
            return super().find(at, step=step)
        except HistoryError:
            if not self.reach_back():
                raise
            return super().find(at, step=step)

    def check(self, tx: int) -> None:
        """Raise if moment `tx` was collected: what was rebuilt of it may be of an older one."""
        if not self._holds(tx):
            raise collected(f"transaction {tx}", self._root)

    def _holds(self, tx: int) -> bool:
        return any(tx in moments for moments in self.moments())

    def _extent(self) -> str:
        return spelled(self.moments())

    def reach_back(self) -> bool:
        """Note what there is from before the checkpoint; False if that was done."""
        with self._guard:
            if self._older is None:
                return False
            bases, found = self._older()
            found = [(ops, place) for ops, place in found if ops.count("tx") < self._first]
            self._older = None  # damage raised before: it is found again the next time
            touched: dict[int, tuple[list[int], list[int]]] = {}
            for ops, place in found:
                self._note_older(ops, place, touched)
            for page, (numbers, epochs) in touched.items():
                now = self._touched.get(page, ([], []))
                self._touched[page] = (numbers + now[0], epochs + now[1])
            self._past = runs(ops.count("tx") for ops, _ in found)
            for base in bases:
                self.add_base(base)
        return True

    def _note_older(
        self, ops: Fields, place: Place, touched: dict[int, tuple[list[int], list[int]]]
    ) -> None:
        tx = ops.count("tx")
        self._transactions[tx] = place
        for page, base in payload.touched_by(ops):
            numbers, epochs = touched.setdefault(page, ([], []))
            numbers.append(tx)
            epochs.append(base + 1)
        self._name(tx, place.label, place.step)

    def _name(self, tx: int, label: str | None, step: int | None) -> None:
        """Let a label and a step mean `tx`, unless something newer carries them."""
        if label is not None and self._labels.get(label, -1) < tx:
            self._labels[label] = tx
        if step is not None and self._steps.get(step, -1) < tx:
            self._steps[step] = tx

    def write(self, transaction: Transaction) -> object:
        """Write the transaction to the log, as durably as was promised."""
        self._behind.wait()
        return self._write(transaction)

    def write_later(self, transaction: Transaction) -> object:
        """Have the transaction written; until it is, it is kept as it is."""
        assert self.writer is not None
        self.writer.check()
        self._behind.put(transaction)
        return transaction

    def wait(self, tx: int) -> None:
        """Wait until transaction `tx` is written."""
        self._behind.wait(tx)

    def _write_behind(self, transaction: Transaction) -> None:
        tx = transaction.tx
        place = self._write(transaction)
        with self._guard:
            self._written[tx] = place
            if tx in self._transactions:
                self._transactions[tx] = self._written.pop(tx)

    def _write(self, transaction: Transaction) -> Place:
        writer = self.writer
        assert writer is not None
        names = self._names
        if transaction.created:
            names = {**names, **{info.id: info.name for info in transaction.created}}
        parts = payload.encode(transaction, names)
        tx, count = transaction.tx, len(transaction.deltas)
        about = transaction.label, transaction.step, transaction.time_ns
        if sum(map(len, parts)) <= INLINE_BYTES:
            path, record = writer.append(Kind.COMMIT, tx, parts, count)
            return Place(path, record, *about, None)
        segment = writer.segment(tx, parts)
        try:
            body = segment_body(segment, parts)
            path, record = writer.append(Kind.COMMIT, tx, [body], count, SEGMENT)
        except BaseException:
            if writer.last != tx:
                writer.discard(segment)
            raise
        return Place(path, record, *about, segment)

    def take_back(self, tx: int) -> None:
        """Void the transaction that was just written."""
        assert self.writer is not None
        try:
            self._behind.wait()  # it may be on its way
            self._written.pop(tx, None)
            if self.writer.last == tx:  # else it was never written
                self.writer.append(Kind.ROLLBACK, tx, [])
        except MMSBError as error:
            self.writer.give_up(error)  # or the next transaction would come after this one

    def append(self, transaction: Transaction, kept: object) -> None:
        """Note where the transaction is."""
        with self._guard:
            super().append(transaction, self._written.pop(transaction.tx, kept))
        for info in transaction.created:
            self._names[info.id] = info.name
        self.pending_commits += 1
        for delta in transaction.deltas:
            page, before = delta.page_id, self._pending.get(delta.page_id, 0)
            after = delta.nbytes + (0 if delta.region.form is Form.ALL else before)
            self._pending[page] = after
            self.pending_bytes += after - before

    def about(self, tx: int) -> About:
        """Label, step and time of a transaction."""
        place = self._transactions.get(tx)
        if isinstance(place, Transaction):  # on its way
            return About(tx, place.label, place.step, place.time_ns)
        if place is None:  # the checkpoint's own
            return next(base.about for base in self._bases if base.tx == tx)
        return About(tx, place.label, place.step, place.time_ns)

    def __getitem__(self, tx: int) -> Transaction:
        with self._guard:
            place = self._transactions.get(tx)
            found = place if isinstance(place, Transaction) else self._cache.get(tx)
        if place is None:
            raise collected(f"transaction {tx}", self._root)
        return self._load(tx, place) if found is None else found

    def _load(self, tx: int, place: Place) -> Transaction:
        try:
            file = LogFile(place.path, self._uuid, self._files)
            try:
                body = file.body(place.record)
            finally:
                file.close()
            found = read_transaction(self._root, body, place.record, str(place.path), self._files)
        except (StoreError, CorruptLogError) as error:
            if exists(place.path, self._files):
                raise
            raise collected(f"transaction {tx}", self._root) from error
        with self._guard:
            self._cache[tx] = found
            while sum(item.nbytes for item in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
        return found

    def epoch(self, page_id: int, until: int) -> int | None:
        """The epoch of a page as of a transaction, by the log and by checkpoints."""
        base = next((b for b in reversed(self._bases) if b.tx <= until), None)
        held = base.epochs.get(page_id) if base is not None else None
        found = super().epoch(page_id, until)
        return held if found is None else found if held is None else max(held, found)

    def pages_between(self, after: int, until: int) -> set[int]:
        """Pages that transactions `after < tx <= until` touched, collected ones included."""
        known = set(self._touched).union(*(base.epochs for base in self._bases))
        return {page for page in known if self.epoch(page, after) != self.epoch(page, until)}

    def base(self, page_id: int, until: int) -> Base | None:
        """The newest checkpoint up to `until` that holds the page."""
        for base in reversed(self._bases):
            if base.tx <= until and page_id in base.epochs:
                return Base(base.tx, lambda base=base: base.read(page_id))  # type: ignore[misc]
        return None

    def begin_after(self, base: Checkpoint) -> None:
        """A checkpoint was written: later transactions go into a new file, and need no older ones.

        The caller lets nobody commit meanwhile.
        """
        self.add_base(base)
        self.pending_bytes = self.pending_commits = 0
        self._pending = {}
        if self.writer is not None and not (self.writer.poisoned or self._behind.failed):
            self._behind.wait()
            self.writer.append(Kind.CHECKPOINT, base.tx, [], len(base.epochs))
            if base.tx == self.last:  # else somebody committed since: the file goes on
                self.writer.rotate(base.tx + 1)

    def add_base(self, base: Checkpoint) -> None:
        """A checkpoint is there: values after it need no older delta."""
        self._name(base.tx, base.about.label, base.about.step)
        bases = {item.tx: item for item in [*self._bases, base]}
        self._bases = [bases[tx] for tx in sorted(bases)]

    def drop(self, transactions: Iterable[range]) -> None:
        """Record, durably, that these and all that were collected before are gone.

        The caller lets nobody commit.

        Raises:
            StoreError: the disk failed: nothing may be removed.
        """
        assert self.writer is not None
        self._behind.wait()
        left = without(self._spans(), transactions)
        body = drop_body(without([range(1, self._next)], left))
        self.writer.append(Kind.DROP, self.last, [body])
        self.writer.sync()

    def moments_named(self, wanted: Callable[[str], bool]) -> list[int]:
        """The moments at hand whose label is wanted."""
        return [tx for label, tx in self._labels.items() if wanted(label) and self._holds(tx)]

    def places(self) -> Iterable[Place]:
        """Where each transaction is that has been written. The caller lets nobody commit."""
        self._behind.wait()
        return [self._transactions[tx] for span in self._spans() for tx in span]

    def forget(self, bases: Iterable[int], transactions: Iterable[range]) -> None:
        """These checkpoints and deltas are about to be removed; asking for them is an error then."""
        self.reach_back()
        doomed = set(bases)
        with self._guard:
            self._bases = [base for base in self._bases if base.tx not in doomed]
            gone = merged(transactions)
            left = without(self._spans(), gone)
            newest = left[-1].start if left and left[-1].stop == self._next else self._next
            self._past, self._first = [span for span in left if span.start < newest], newest
            for tx in (tx for span in gone for tx in span):
                self._transactions.pop(tx, None)
                self._cache.pop(tx, None)
            self._forget_touched(gone)
            self._labels, self._steps = {}, {}
            for base in self._bases:
                self._name(base.tx, base.about.label, base.about.step)
            for span in self._spans():
                for tx in span:
                    self._name(*self.about(tx)[:3])

    def _forget_touched(self, gone: list[range]) -> None:
        for page, (numbers, epochs) in list(self._touched.items()):
            kept = [n for n, tx in enumerate(numbers) if not any(tx in span for span in gone)]
            self._touched[page] = ([numbers[n] for n in kept], [epochs[n] for n in kept])

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        if self.writer is not None:
            self._behind.wait()
            self.writer.sync()

    def close(self) -> None:
        """Seal the log and let go of its file; harmless when repeated."""
        try:
            self._behind.close()
        finally:
            writer, self.writer = self.writer, None
            if writer is not None:
                writer.close(self.last)


def collected(what: str, root: Path) -> CollectedError:
    """The error of a reader whom the collector has overtaken."""
    return CollectedError(
        f"{what} of {str(root)!r} was collected by its writer since it was opened here. What is kept "
        "is in the store: open it again."
    )
