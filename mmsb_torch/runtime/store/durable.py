"""The log on disk: what it holds in memory is where each transaction is, and whom it touched."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

from mmsb_torch.errors import (
    CorruptLogError,
    MMSBError,
    StoreError,
)
from mmsb_torch.runtime.store import payload_writer
from mmsb_torch.runtime.store.background import Background
from mmsb_torch.runtime.store.bodies import Place, drop_body, read_transaction, segment_body
from mmsb_torch.runtime.store.files import FILES, Files, exists
from mmsb_torch.runtime.store.frame import SEGMENT, Kind
from mmsb_torch.runtime.store.logfile import LogFile
from mmsb_torch.runtime.store.logwriter import LogWriter
from mmsb_torch.runtime.store.pastlog import Checkpoint, Older, PastLog, collected
from mmsb_torch.runtime.store.spans import without
from mmsb_torch.types import Form, Transaction

INLINE_BYTES = 1 << 20
"""Payloads above this get a file of their own."""
_CACHE_BYTES = 64 << 20


class DurableLog(PastLog):
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
        super().__init__(root, base, older)
        self.writer: LogWriter | None = None
        """Set when this process may write."""
        self._uuid, self._files = uuid, files
        self._names = names
        self._cache: OrderedDict[int, Transaction] = OrderedDict()
        self._behind = Background(self._write_behind)
        self.pending_bytes = 0
        """Of deltas since the newest checkpoint, or since a page was written whole after it."""
        self.pending_commits = 0
        self._pending: dict[int, int] = {}
        self._written: dict[int, Place] = {}
        """Where those are that were written before they were entered."""

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
        parts = payload_writer.encode(transaction, names)
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
            self._transactions.pop(tx, None)
            if self.writer.last == tx:  # else it was never written
                self.writer.append(Kind.ROLLBACK, tx, [])
        except MMSBError as error:
            self.writer.give_up(error)  # or the next transaction would come after this one

    def append(self, transaction: Transaction, kept: object) -> None:
        """Note where the transaction is."""
        with self._guard:
            super().append(transaction, self._written.pop(transaction.tx, kept))

    def _index(self, transaction: Transaction) -> None:
        super()._index(transaction)
        for info in transaction.created:
            self._names[info.id] = info.name
        self.pending_commits += 1
        for delta in transaction.deltas:
            page, before = delta.page_id, self._pending.get(delta.page_id, 0)
            after = 0 if delta.region.form is Form.ALL else before + delta.nbytes
            self._pending[page] = after
            self.pending_bytes += after - before

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

    def places(self) -> Iterable[Place]:
        """Where each transaction is that has been written. The caller lets nobody commit."""
        self._behind.wait()
        return [self._transactions[tx] for span in self._spans() for tx in span]

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
