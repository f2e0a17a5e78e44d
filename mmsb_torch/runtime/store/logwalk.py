"""Everything in a log file, whole or not: the walk goes on where reading would stop.

After a damaged body it goes on at once, for the header said where and how. After a damaged header it
goes on at the next record that is whole, and takes that one's word for the chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import xxhash

from mmsb_torch.runtime.store.frame import (
    ALIGNMENT,
    HEADER_BYTES,
    KNOWN_FLAGS,
    Kind,
    RecordHeader,
    chain_of,
)
from mmsb_torch.runtime.store.logfile import LogFile, Record


class Whole(NamedTuple):
    """A good record, its body, and the bytes after that, which should be zero."""

    record: Record
    body: bytes
    padding: bytes

    @property
    def stop(self) -> int:
        """Where the record ends."""
        return self.record.offset + self.record.header.span

    @property
    def chain(self) -> int:
        """The chain after it."""
        return self.record.chain


class Flaw(NamedTuple):
    """Bytes `[start, stop)` of a file that are not what they were, and why."""

    start: int
    stop: int
    why: str
    chain: int | None = None
    """After it; None if nobody knows."""
    header: RecordHeader | None = None
    """Of the record, if that is whole."""
    hides: bool = False
    """Other records may have been here."""
    torn: bool = False
    """Nothing good follows, in the last file: a write that was cut short, as far as anybody can tell."""


def walk(file: LogFile, start: int, chain: int | None, *, newest: bool) -> Iterator[Whole | Flaw]:
    """What is in a file from offset `start` on, in order and without gaps.

    A torn tail that grows while it is looked at is looked at again: somebody is writing it.

    Args:
        file: the file.
        start: where a record begins.
        chain: before that record; None takes its word.
        newest: whether the file is the last of its log.

    Raises:
        CorruptLogError: the file became shorter meanwhile.
        StoreError: the disk fails.
    """
    at = start
    while at < file.nbytes:
        found = _look(file, at, chain)
        if isinstance(found, Flaw):
            good = file.next_good(found.stop)
            if good is None and newest:
                if file.refresh():
                    continue
                found = found._replace(start=at, stop=file.nbytes, torn=True)
            elif found.hides:
                found = found._replace(stop=file.nbytes if good is None else good)
        yield found
        at, chain = found.stop, found.chain


def _look(file: LogFile, at: int, chain: int | None) -> Whole | Flaw:
    """The record at `at`, or what is wrong with it."""
    raw = file.read(at, min(HEADER_BYTES, file.nbytes - at))
    header = RecordHeader.unpack(raw)
    if header is None:
        why = "a record's header is damaged" if len(raw) == HEADER_BYTES else "it is cut off here"
        return Flaw(at, at + ALIGNMENT, why, hides=True)
    if header.span > file.nbytes - at:
        return Flaw(at, at + ALIGNMENT, "a record's body is cut off", header=header, hides=True)
    stop, after = at + header.span, chain_of(raw)
    rest = file.read(at + HEADER_BYTES, header.span - HEADER_BYTES)
    body, padding = rest[: header.length], rest[header.length :]
    if chain not in (None, header.before):
        return Flaw(at, stop, "a record does not follow the one before it", after, header)
    if header.kind not in set(Kind) or header.flags & ~KNOWN_FLAGS:
        why = f"a record is of unknown kind ({header.kind}, flags {header.flags})"
        return Flaw(at, stop, why, after, header)
    if xxhash.xxh3_128_digest(body) != header.digest:
        return Flaw(at + HEADER_BYTES, stop, "a record's body is damaged", after, header)
    return Whole(Record(header, at, after), body, padding)
