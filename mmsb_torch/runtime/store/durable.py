"""The log on disk: what it holds in memory is where each transaction is, and whom it touched."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mmsb_torch.errors import CorruptLogError, CorruptStoreError, HistoryError, MMSBError
from mmsb_torch.runtime.store import payload
from mmsb_torch.runtime.store.background import Background
from mmsb_torch.runtime.store.files import FILES, Files
from mmsb_torch.runtime.store.frame import SEGMENT, Kind
from mmsb_torch.runtime.store.log import About, Base, Log
from mmsb_torch.runtime.store.logfile import DELTAS, LogFile, Record, segment_name
from mmsb_torch.runtime.store.logwriter import LogWriter
from mmsb_torch.runtime.store.sealed import Fields, strict_loads
from mmsb_torch.runtime.store.streams import FileRecord
from mmsb_torch.runtime.store.tensorfile import read_tensors
from mmsb_torch.types import Transaction

INLINE_BYTES = 1 << 20
"""Payloads above this get a file of their own."""
_CACHE_BYTES = 64 << 20


class Place(NamedTuple):
    """Where a transaction is."""

    path: Path
    record: Record
    label: str | None
    step: int | None
    time_ns: int
    segment: FileRecord | None


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


class DurableLog(Log):
    """A log whose transactions are on disk; they are read again when the past is asked for.

    Args:
        root: the store's folder.
        uuid: the store's.
        names: page id -> name; grows with the pages that are created.
        base: the checkpoint that the log goes on from, if there is one.
        older: gives what transactions up to the checkpoint do, and where they are.
        files: the disk.
    """

    keeps = False

    def __init__(
        self,
        root: Path,
        uuid: str,
        names: dict[int, str],
        base: Checkpoint | None = None,
        older: Callable[[], Iterable[tuple[Fields, Place]]] | None = None,
        files: Files = FILES,
    ) -> None:
        super().__init__(1 if base is None else base.tx + 1)
        self.writer: LogWriter | None = None
        """Set when this process may write."""
        self._root, self._uuid, self._files = root, uuid, files
        self._names = names
        self._older = older
        self._bases: list[Checkpoint] = []
        if base is not None:
            self.add_base(base)
        self._cache: OrderedDict[int, Transaction] = OrderedDict()
        self._guard = threading.Lock()
        self._behind = Background(self._write_behind)
        self._written: dict[int, Place] = {}
        """Where those are that were written before they were entered."""

    @property
    def first(self) -> int:
        """Number of the oldest moment at hand."""
        return min(self._first, self._bases[0].tx) if self._bases else self._first

    def find(self, at: Any = None, *, step: int | None = None) -> int:
        """As `Log.find`; what is older than the checkpoint is looked for when it is asked for."""
        try:
            return super().find(at, step=step)
        except HistoryError:
            if not self.reach_back():
                raise
            return super().find(at, step=step)

    def reach_back(self) -> bool:
        """Note where the transactions before the checkpoint are; False if that changes nothing."""
        with self._guard:
            if self._older is None:
                return False
            found = [(ops, place) for ops, place in self._older() if ops.count("tx") < self._first]
            self._older = None  # damage raised before: it is found again the next time
            if [ops.count("tx") for ops, _ in found] != list(range(1, self._first)):
                return False  # the log begins later, or has a gap, and so has the history
            touched: dict[int, tuple[list[int], list[int]]] = {}
            for ops, place in found:
                self._note_older(ops, place, touched)
            for page, (numbers, epochs) in touched.items():
                now = self._touched.get(page, ([], []))
                self._touched[page] = (numbers + now[0], epochs + now[1])
            self._first = 1
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
        if place.label is not None and self._labels.get(place.label, 0) < tx:
            self._labels[place.label] = tx
        if place.step is not None and self._steps.get(place.step, 0) < tx:
            self._steps[place.step] = tx

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
            body = _segment_body(segment, parts)
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
            place = self._transactions[tx]
            found = place if isinstance(place, Transaction) else self._cache.get(tx)
        return self._load(tx) if found is None else found

    def _load(self, tx: int) -> Transaction:
        place: Place = self._transactions[tx]
        file = LogFile(place.path, self._uuid, self._files)
        try:
            body = file.body(place.record)
        finally:
            file.close()
        found = read_transaction(self._root, body, place.record, str(place.path), self._files)
        with self._guard:
            self._cache[tx] = found
            while sum(item.nbytes for item in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
        return found

    def epoch(self, page_id: int, until: int) -> int | None:
        """The epoch of a page as of a transaction, by the log or else by a checkpoint."""
        found = super().epoch(page_id, until)
        if found is not None:
            return found
        bases = (base for base in reversed(self._bases) if base.tx <= until)
        return next((base.epochs[page_id] for base in bases if page_id in base.epochs), None)

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
        if self.writer is not None and not (self.writer.poisoned or self._behind.failed):
            self._behind.wait()
            self.writer.append(Kind.CHECKPOINT, base.tx, [], len(base.epochs))
            if base.tx == self.last:  # else somebody committed since: the file goes on
                self.writer.rotate(base.tx + 1)

    def add_base(self, base: Checkpoint) -> None:
        """A checkpoint was written: values after it need no older delta."""
        tx, label, step, _ = base.about
        if label is not None:
            self._labels.setdefault(label, tx)
        if step is not None:
            self._steps.setdefault(step, tx)
        self._bases = sorted([*self._bases, base], key=lambda item: item.tx)

    def forget_bases(self, before: int) -> None:
        """Checkpoints before this transaction are about to be removed."""
        if self._bases and self._bases[0].tx < before:
            self.reach_back()  # what was found from there is found from the beginning
        self._bases = [base for base in self._bases if base.tx >= before]

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


def _segment_body(segment: FileRecord, parts: list[bytes | memoryview]) -> bytes:
    """The body of a record whose payload is in a file: the file, and what it holds."""
    head = payload.ops_text(parts[0])
    about = {"name": segment.name, "nbytes": segment.nbytes, "xxh3_128": segment.digest}
    return json.dumps({"segment": about, "ops": head}, separators=(",", ":")).encode()


def segment_of(body: bytes, tx: int, where: str) -> tuple[FileRecord, str]:
    """The file that a record's body names, and the text of what it holds."""
    fields = Fields(strict_loads(body, where), where)
    about = Fields(fields.get("segment", dict), f"{where}: 'segment'")
    name = about.get("name", str)
    if name[:20] != f"{tx:020d}" or name != segment_name(tx, _attempt(name)):
        raise CorruptLogError(f"{where}: {name!r:.80} is no payload file of transaction {tx}.")
    record = FileRecord(name, about.count("nbytes"), about.get("xxh3_128", str))
    return record, fields.get("ops", str)


def _attempt(name: str) -> int:
    digits = name[22:27]
    return int(digits) if digits.isdigit() and digits.isascii() else 0


def read_transaction(
    root: Path, body: bytes, record: Record, where: str, files: Files = FILES
) -> Transaction:
    """The transaction of a COMMIT record with this body.

    Raises:
        CorruptLogError: it is damaged, or not the one that the record says.
    """
    tx = record.header.tx
    where = f"{where}, transaction {tx}"
    try:
        if record.header.flags & SEGMENT:
            segment, _ = segment_of(body, tx, where)
            tensors, metadata = read_tensors(root / DELTAS / segment.name, segment, files)
            found = payload.transaction_of(tensors, metadata, where)
        else:
            found = payload.decode(memoryview(body), where)
    except CorruptLogError:
        raise
    except CorruptStoreError as error:
        raise CorruptLogError(f"{where}: {error}") from error
    if found.tx != tx or len(found.deltas) != record.header.items:
        raise CorruptLogError(f"{where}: its payload says it is transaction {found.tx}.")
    return found


def outline_of(body: bytes, record: Record, where: str) -> tuple[Fields, FileRecord | None]:
    """What a COMMIT record does, without reading its tensors.

    Raises:
        CorruptLogError: it does not say.
    """
    where = f"{where}, transaction {record.header.tx}"
    try:
        if not record.header.flags & SEGMENT:
            return payload.outline(memoryview(body), where), None
        segment, text = segment_of(body, record.header.tx, where)
        return payload.outline_of_text(text, where), segment
    except CorruptStoreError as error:
        raise CorruptLogError(str(error)) from error


def place_of(path: Path, record: Record, ops: Fields, segment: FileRecord | None) -> Place:
    """Where a transaction is, by what its record says."""
    label, step = ops.optional("label", str), ops.optional("step", int)
    return Place(path, record, label, step, ops.count("time_ns"), segment)
