"""One log file: read with suspicion, record by record, and told what is wrong with it.

A file is good up to the first record that is not: a *torn tail* if nothing good comes after it (a
writer was killed while it wrote), *damage* if something does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import xxhash

from mmsb_torch.errors import CorruptLogError, UnsupportedError
from mmsb_torch.runtime.store.files import FILES, Files, exists, explained, store_error
from mmsb_torch.runtime.store.frame import (
    ALIGNMENT,
    HEADER_BYTES,
    KNOWN_FLAGS,
    VERSION,
    FileHeader,
    Kind,
    RecordHeader,
    chain_of,
)

LOG = "log"
DELTAS = "deltas"
_NAME = re.compile(r"(\d{20})\.tlog")
_SEARCH_BYTES = 1 << 20


def file_name(first: int) -> str:
    """The name of the log file whose first transaction is `first`."""
    return f"{first:020d}.tlog"


def segment_name(tx: int, attempt: int) -> str:
    """The name of a payload file of transaction `tx`."""
    return f"{tx:020d}-r{attempt:05d}.safetensors"


def list_logs(root: Path, files: Files = FILES) -> list[tuple[int, Path]]:
    """The log files of a store, oldest first, with their first transactions."""
    folder = root / LOG
    if not exists(folder, files):
        return []
    with explained("list", folder):
        names = files.listdir(folder)
    found = ((match, folder / name) for name in names if (match := _NAME.fullmatch(name)))
    return sorted((int(match[1]), path) for match, path in found)


class Record(NamedTuple):
    """A good record: what its header says, where it is, and the chain after it."""

    header: RecordHeader
    offset: int
    """Of the record in its file."""
    chain: int


@dataclass(frozen=True, slots=True)
class Bad:
    """Where a file stops being good, and why."""

    start: int
    stop: int
    why: str
    torn: bool
    """Nothing good comes after it: a write that was cut short, as far as anybody can tell."""


class LogFile:
    """An open log file, for reading. Reads are by position: any thread may read.

    Raises:
        CorruptLogError: it is no regular file, or not of this store; `UnsupportedError`: of a newer
        version.
    """

    def __init__(self, path: Path, uuid: str, files: Files = FILES) -> None:
        self.path = path
        self._files = files
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._fd = files.open(path, flags)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise CorruptLogError(f"{str(path)!r} is no regular file.") from error
            raise store_error("open", path, error) from error
        try:
            with explained("look at", path):
                status = files.stat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise CorruptLogError(f"{str(path)!r} is no regular file.")
            self.nbytes = status.st_size
            self.header = self._header(uuid)
        except BaseException:
            self.close()
            raise

    def _header(self, uuid: str) -> FileHeader | None:
        """The file's header; None if it was never written whole."""
        header = FileHeader.unpack(self.read(0, min(HEADER_BYTES, self.nbytes)))
        if header is None:
            return None
        where = repr(str(self.path))
        if header.version > VERSION or header.features:
            raise UnsupportedError(
                f"{where} has log version {header.version} and features {header.features:#x}; this "
                f"mmsb_torch knows version {VERSION}. Open it with a newer mmsb_torch."
            )
        if header.uuid != uuid:
            raise CorruptLogError(
                f"{where} belongs to the store {header.uuid}, expected {uuid}: it was copied here "
                "from elsewhere. Remove it, or put the right one back."
            )
        return header

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on.

        Raises:
            CorruptLogError: the file ends before.
        """
        buffer = bytearray(count)
        view, done = memoryview(buffer), 0
        while done < count:
            with explained("read", self.path):
                got = self._files.pread(self._fd, view[done:], offset + done)
            if got <= 0:
                raise CorruptLogError(
                    f"{str(self.path)!r} became shorter while it was read: expected "
                    f"{offset + count} bytes."
                )
            done += got
        return bytes(buffer)

    def body(self, record: Record) -> bytes:
        """A record's body, checked.

        Raises:
            CorruptLogError: it is not what it was.
        """
        body = self.read(record.offset + HEADER_BYTES, record.header.length)
        if xxhash.xxh3_128_digest(body) != record.header.digest:
            end = record.offset + record.header.span
            raise CorruptLogError(
                f"{str(self.path)!r}: the record at bytes {record.offset} to {end} (transaction "
                f"{record.header.tx}) is damaged: its digest does not match."
            )
        return body

    def records(self, chain: int | None, start: int = HEADER_BYTES) -> Iterator[Record | Bad]:
        """The good records from `start` on, in order; at last a `Bad` if there is more in the file.

        Args:
            chain: of the record before; None takes the file's own word for it.
            start: offset of a record.
        """
        if self.header is None:
            yield self._bad(0, "its header is not whole")
            return
        chain = self.header.chain if chain is None else chain
        if start == HEADER_BYTES and chain != self.header.chain:
            yield Bad(0, self.nbytes, "it does not follow the file before it", torn=False)
            return
        offset = start
        while offset < self.nbytes:
            found = self._record(offset, chain)
            if isinstance(found, str):
                yield self._bad(offset, found)
                return
            if isinstance(found, Bad):
                yield found
                return
            yield found
            chain = found.chain
            offset += found.header.span

    def _record(self, offset: int, chain: int) -> Record | Bad | str:
        """The record at `offset`, or what is wrong with it."""
        if self.nbytes - offset < HEADER_BYTES:
            return "its header is cut off"
        raw = self.read(offset, HEADER_BYTES)
        header = RecordHeader.unpack(raw)
        if header is None:
            return "its header is damaged"
        if header.span > self.nbytes - offset:
            why = "its body is cut off"
            # a good header in its place: what looks like records after it is in its body
            return Bad(offset, self.nbytes, why, torn=True) if header.before == chain else why
        if header.before != chain:
            return "it does not follow the record before it"
        if header.kind not in set(Kind) or header.flags & ~KNOWN_FLAGS:
            return f"it is of an unknown kind ({header.kind}, flags {header.flags})"
        if xxhash.xxh3_128_digest(self.read(offset + HEADER_BYTES, header.length)) != header.digest:
            return "its body is damaged"
        return Record(header, offset, chain_of(raw))

    def _bad(self, offset: int, why: str) -> Bad:
        good = self.next_good(offset + ALIGNMENT - offset % ALIGNMENT)
        stop = self.nbytes if good is None else good
        return Bad(offset, stop, why, torn=good is None)

    def next_good(self, offset: int) -> int | None:
        """Where, from `offset` (where a record may begin) on, a record is that is good in itself."""
        while offset < self.nbytes:
            chunk = self.read(offset, min(_SEARCH_BYTES, self.nbytes - offset))
            for at in range(0, len(chunk) - HEADER_BYTES + 1, ALIGNMENT):
                header = RecordHeader.unpack(chunk[at : at + HEADER_BYTES])
                if header is None or header.span > self.nbytes - offset - at:
                    continue
                body = self.read(offset + at + HEADER_BYTES, header.length)
                if xxhash.xxh3_128_digest(body) == header.digest:
                    return offset + at
            offset += _SEARCH_BYTES
        return None

    def refresh(self) -> bool:
        """Look how long the file is now; whether that changed since the last look."""
        with explained("look at", self.path):
            nbytes = self._files.stat(self._fd).st_size
        before, self.nbytes = self.nbytes, nbytes
        return nbytes != before

    def close(self) -> None:
        """Close the file; what was read stays valid."""
        with contextlib.suppress(OSError):  # nothing was written through it
            self._files.close(self._fd)
