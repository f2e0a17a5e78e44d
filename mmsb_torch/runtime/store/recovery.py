"""What a log holds after the process that wrote it ended, however it ended.

Readers ignore a torn tail; the writer cuts it off and keeps a copy. Anything else that is not as it
was written is damage: named, and never passed over.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmsb_torch.errors import CorruptLogError
from mmsb_torch.runtime.store import payload
from mmsb_torch.runtime.store.bodies import (
    Place,
    dropped_of,
    outline_of,
    place_of,
    read_transaction,
)
from mmsb_torch.runtime.store.files import FILES, Files, explained, sync_folder
from mmsb_torch.runtime.store.frame import HEADER_BYTES, Kind
from mmsb_torch.runtime.store.logfile import Bad, LogFile, Record, list_logs
from mmsb_torch.runtime.store.logwriter import End
from mmsb_torch.runtime.store.sealed import Fields
from mmsb_torch.runtime.store.spans import covers, spelled
from mmsb_torch.runtime.store.streams import create_file
from mmsb_torch.types import Transaction

_HELD_BYTES = 64 << 20
"""Of record bodies, between the two looks at them."""


class Found(NamedTuple):
    """A record of a log, with its body."""

    path: Path
    record: Record
    body: bytes


@dataclass(frozen=True, slots=True)
class Tail:
    """A tail that was not whole: where, how long, and where a copy of it was put (by a writer)."""

    path: Path
    start: int
    nbytes: int
    why: str
    kept: Path | None = None

    def __str__(self) -> str:
        kept = f"; a copy is in {str(self.kept)!r}" if self.kept is not None else ""
        return f"{str(self.path)!r}: {self.nbytes} bytes from {self.start} on ({self.why}){kept}"


class Scan:
    """One walk over the log files of a store that may hold transactions after `after`.

    Iterate over it once: it gives COMMIT records whose transaction is later, those taken back left
    out. Then `end` and `tail` say how the log ends.

    Raises (while iterating):
        CorruptLogError: damage; the message names the file and the range.
        UnsupportedError: a newer format.
    """

    def __init__(self, root: Path, uuid: str, after: int, files: Files = FILES) -> None:
        self.uuid, self._after, self._files = uuid, after, files
        self._logs = _needed(list_logs(root, files), after, uuid, files)
        self.end = End(None, 0, 0)
        self.tail: Tail | None = None
        self._last = self._logs[0][0] - 1 if self._logs else 0
        """The transaction up to which the files were read."""
        self._gaps: list[range] = []
        """Transactions of files that are not there."""
        self.dropped: list[range] = []
        """Transactions that were collected, as far as was read."""

    def __iter__(self) -> Iterator[Found]:
        waiting: Found | None = None  # it may be taken back by the record after it
        for file, record in self._records():
            kind, tx = record.header.kind, record.header.tx
            self._last = tx - 1 if kind == Kind.ROLLBACK else max(self._last, tx)
            if kind == Kind.DROP:
                self.dropped = dropped_of(file.body(record), repr(str(file.path)))
            if kind not in {Kind.COMMIT, Kind.ROLLBACK}:
                continue
            if waiting is not None and kind == Kind.COMMIT:
                yield waiting
            waiting = None
            if kind == Kind.COMMIT and tx > self._after:
                waiting = Found(file.path, record, file.body(record))
        if waiting is not None:
            yield waiting
        self._check_gaps()

    def _records(self) -> Iterator[tuple[LogFile, Record]]:
        """The good records of all files, with the open file."""
        chain: int | None = None
        for number, (first, path) in enumerate(self._logs):
            file = LogFile(path, self.uuid, self._files)
            try:
                if file.header is not None:
                    self.end = End(path, HEADER_BYTES, file.header.chain)
                    if first > self._last + 1 and chain not in (None, file.header.chain):
                        self._gaps.append(range(self._last + 1, first))
                        chain = None
                for item in file.records(chain):
                    if isinstance(item, Bad):
                        self._stop(path, item, newest=number == len(self._logs) - 1)
                        return
                    self.end = End(path, item.offset + item.header.span, item.chain)
                    yield file, item
                chain = self.end.chain
            finally:
                file.close()

    def _check_gaps(self) -> None:
        missing = [gap for gap in self._gaps if not covers(self.dropped, gap)]
        if missing:
            raise CorruptLogError(
                f"a log file between is missing: transactions {spelled(missing)} are not there, and "
                "no record says that they were collected. `verify` names all damage."
            )

    def _stop(self, path: Path, bad: Bad, *, newest: bool) -> None:
        if not (bad.torn and newest):
            raise CorruptLogError(
                f"the log is damaged: {str(path)!r}, bytes {bad.start} to {bad.stop}: {bad.why}, and "
                "what follows is whole. Nothing was loaded. `verify` names all damage; "
                "`mmsb.repair(path)` goes on from the last state that is whole."
            )
        self.tail = Tail(path, bad.start, bad.stop - bad.start, bad.why)


def _needed(
    logs: list[tuple[int, Path]], after: int, uuid: str, files: Files
) -> list[tuple[int, Path]]:
    """The files that may hold transactions from `after + 1` on."""
    start = max((n for n, (first, _) in enumerate(logs) if first <= after + 1), default=0)
    while start > 0 and not _has_header(logs[start][1], uuid, files):
        start -= 1  # a file that was just begun: the one before says how the log ends
    return logs[start:]


def _has_header(path: Path, uuid: str, files: Files) -> bool:
    file = LogFile(path, uuid, files)
    try:
        return file.header is not None
    finally:
        file.close()


class Replayed(NamedTuple):
    """A transaction to replay, where it is, and the pages that a later one writes whole."""

    transaction: Transaction
    place: Place
    superseded: frozenset[int]


def transactions(root: Path, scan: Scan, after: int, files: Files = FILES) -> Iterator[Replayed]:
    """The transactions after `after` that a scan finds, without gaps.

    What a later transaction replaces as a whole is not read: such a delta is hollow.

    Raises:
        CorruptLogError, UnsupportedError.
    """
    steps, held = list[_Step](), 0
    for number, found in enumerate(scan, start=after + 1):
        where, record = repr(str(found.path)), found.record
        if record.header.tx != number:
            raise CorruptLogError(
                f"{where}: transaction {record.header.tx} at byte {record.offset}, expected "
                f"{number}: a log file between is missing."
            )
        ops, segment = outline_of(found.body, record, where)
        held += len(found.body)
        body = found.body if held <= _HELD_BYTES else None
        touched = frozenset(page for page, _ in payload.touched_by(ops))
        place = place_of(found.path, record, ops, segment)
        steps.append(_Step(place, touched, payload.written_whole(ops), body))
    for step, superseded in zip(steps, _superseded(steps), strict=True):
        yield Replayed(_read(root, step, superseded, scan.uuid, files), step.place, superseded)


class _Step(NamedTuple):
    place: Place
    touched: frozenset[int]
    whole: frozenset[int]
    """Of those, the pages that are written whole."""
    body: bytes | None
    """Of its record; None if it is to be read again: a long log is not held in memory."""


def _superseded(steps: list[_Step]) -> list[frozenset[int]]:
    """Of each transaction, the pages that a later one writes whole."""
    later: set[int] = set()
    found = []
    for step in reversed(steps):
        found.append(step.touched & later)
        later |= step.whole
    return found[::-1]


def _read(
    root: Path, step: _Step, superseded: frozenset[int], uuid: str, files: Files
) -> Transaction:
    path, record, body = step.place.path, step.place.record, step.body
    where = repr(str(path))
    if body is None:
        file = LogFile(path, uuid, files)
        try:
            body = file.body(record)
        finally:
            file.close()
    if step.touched <= superseded:
        return payload.hollow_of(outline_of(body, record, where)[0], where)
    return read_transaction(root, body, record, where, files)


def outlines(
    root: Path, uuid: str, files: Files = FILES
) -> tuple[list[tuple[Fields, Place]], list[range]]:
    """What every transaction in the log does, without its tensors, and where it is.

    Also which transactions were collected.

    Raises:
        CorruptLogError, UnsupportedError.
    """
    scan, found = Scan(root, uuid, 0, files), []
    for item in scan:
        ops, segment = outline_of(item.body, item.record, repr(str(item.path)))
        found.append((ops, place_of(item.path, item.record, ops, segment)))
    return found, scan.dropped


def cut_tail(tail: Tail, files: Files = FILES) -> Tail:
    """Cut off a torn tail, keeping a copy beside the log; the caller is the writer.

    Raises:
        StoreError: the disk fails; the tail is as it was.
    """
    with explained("read", tail.path), tail.path.open("rb") as file:
        file.seek(tail.start)
        raw = file.read(tail.nbytes)
    kept = tail.path.with_name(f"{tail.path.name}.torn-{secrets.token_hex(4)}")
    create_file(kept, raw, files)
    if tail.start == 0:
        with explained("remove", tail.path):
            files.unlink(tail.path)
    else:
        with explained("cut", tail.path):
            fd = files.open(tail.path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                files.truncate(fd, tail.start)
                files.fsync(fd)
            finally:
                with contextlib.suppress(OSError):
                    files.close(fd)
    sync_folder(tail.path.parent, files)
    return Tail(tail.path, tail.start, tail.nbytes, tail.why, kept)
