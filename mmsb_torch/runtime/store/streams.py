"""Files written durably, and files read with suspicion: front to back, counted and hashed.

The functions are re-entrant; a `Sink` or `Source` belongs to the thread that opened it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from mmsb_torch.errors import CorruptStoreError, MMSBError
from mmsb_torch.runtime.store.files import (
    FILES,
    Files,
    explained,
    store_error,
    sync_folder,
    temporary_name,
)

# Small enough that a chunk is still in cache when it is hashed, large enough that calls are free.
CHUNK_BYTES = 1 << 20
EARLY_BYTES = 8 << 20
"""Of a file that will be synced, the disk is given this much at a time while the rest is written."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file must be: its name, its size in bytes and its xxh3-128 in lower-case hex.

    The digest tells damage, not forgery.
    """

    name: str
    nbytes: int
    digest: str


class Sink:
    """A new file being written: counts and hashes what goes by, and never holds the whole file.

    Use through `new_file`. Small pieces are collected into one write.
    """

    def __init__(self, fd: int, path: Path, files: Files, *, early: bool) -> None:
        self._fd = fd
        self._early = early
        self._begun = 0
        self._path = path
        self._files = files
        self._pending = bytearray()
        self._hash = xxhash.xxh3_128()
        self.nbytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data` (bytes, or a memoryview of bytes); it is read before this returns."""
        if len(data) < CHUNK_BYTES // 4:
            self._pending += data
            if len(self._pending) >= CHUNK_BYTES:
                self.flush()
            return
        self.flush()
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_BYTES):
            self._emit(view[start : start + CHUNK_BYTES])

    def flush(self) -> None:
        """Hand what was collected to the system."""
        pending, self._pending = self._pending, bytearray()
        self._emit(memoryview(pending))

    def record(self) -> FileRecord:
        """Return name, size and digest of all that was flushed."""
        return FileRecord(self._path.name, self.nbytes, self._hash.hexdigest())

    def _emit(self, chunk: memoryview) -> None:
        self._hash.update(chunk)
        self.nbytes += len(chunk)
        while chunk:
            with explained("write", self._path):
                written = self._files.write(self._fd, chunk)
            if written <= 0:  # no disk should do that; going on would never end
                raise store_error("write", self._path, OSError(errno.EIO, ""))
            chunk = chunk[written:]
        if self._early and self.nbytes - self._begun >= EARLY_BYTES:
            self._files.begin_sync(self._fd, self._begun, self.nbytes - self._begun)
            self._begun = self.nbytes


@contextlib.contextmanager
def new_file(path: Path, files: Files = FILES, *, sync: bool = True) -> Iterator[Sink]:
    """Create `path`, which must not exist; leaving the block fsyncs it (unless `sync` is false).

    An exception leaves no file behind (unless even removing it fails). The folder is not synced:
    see `sync_folder`. A failed fsync is never retried: the system may have dropped the pages.

    Raises:
        StoreError: the file exists or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with explained("create", path):
        fd = files.open(path, flags)
    try:
        try:
            sink = Sink(fd, path, files, early=sync)
            yield sink
            sink.flush()
            if sync:
                with explained("fsync", path):
                    files.fsync(fd)
        finally:
            with explained("close", path):
                files.close(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            files.unlink(path)
        raise


def create_file(path: Path, data: bytes, files: Files = FILES) -> FileRecord:
    """Write a new file, fsync it, and return its record; see `new_file`."""
    with new_file(path, files) as sink:
        sink.write(data)
    return sink.record()


def publish_file(path: Path, data: bytes, files: Files = FILES) -> None:
    """Put a file of `data` at `path`, whole or not at all, replacing what was there, durably.

    Raises:
        StoreError: it could not be done; the old file, if there was one, is untouched unless only
            the last step, the fsync of the folder, failed.
    """
    temporary = path.with_name(temporary_name(path.name))
    create_file(temporary, data, files)
    try:
        with explained("publish", path):
            files.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            files.unlink(temporary)
        raise
    sync_folder(path.parent, files)


class Source:
    """A file being read front to back: bounded by its real size, hashed as it goes by.

    Use through `open_file`. `nbytes` is the size when it was opened.
    """

    def __init__(self, fd: int, nbytes: int, path: Path, files: Files) -> None:
        self._fd = fd
        self._files = files
        self._hash = xxhash.xxh3_128()
        self._ahead = memoryview(b"")
        self._consumed = 0
        self.path = path
        self.nbytes = nbytes

    @property
    def fileno(self) -> int:
        """The open descriptor."""
        return self._fd

    @property
    def left(self) -> int:
        """Bytes not yet handed out."""
        return self.nbytes - self._consumed

    def fill(self, into: memoryview) -> None:
        """Fill `into` with the next bytes; the caller has compared its length with `left`.

        Raises:
            CorruptStoreError: the file became shorter meanwhile.
            StoreError: the disk fails.
        """
        assert len(into) <= self.left
        done = 0
        while done < len(into):
            if not self._ahead and len(into) - done >= CHUNK_BYTES // 4:
                self._fetch(into[done : done + CHUNK_BYTES])
                done += min(CHUNK_BYTES, len(into) - done)
                continue
            if not self._ahead:
                buffer = bytearray(min(CHUNK_BYTES, self.nbytes - self._consumed - done))
                self._fetch(memoryview(buffer))
                self._ahead = memoryview(buffer)
            count = min(len(self._ahead), len(into) - done)
            into[done : done + count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
            done += count
        self._consumed += done

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes; see `fill`."""
        buffer = bytearray(count)
        self.fill(memoryview(buffer))
        return bytes(buffer)

    def digest(self) -> str:
        """Read what is left and return the digest of the whole file."""
        scratch = memoryview(bytearray(min(CHUNK_BYTES, self.left)))
        while self.left:
            self.fill(scratch[: self.left])
        return self._hash.hexdigest()

    def _fetch(self, into: memoryview) -> None:
        rest = into
        while rest:
            try:
                count = self._files.read(self._fd, rest)
            except OSError as error:
                raise store_error("read", self.path, error) from error
            if count <= 0:
                raise CorruptStoreError(
                    f"{str(self.path)!r} became shorter while it was read: expected "
                    f"{self.nbytes} bytes. Is something else writing to it?"
                )
            rest = rest[count:]
        self._hash.update(into)


@contextlib.contextmanager
def open_file(
    path: Path, files: Files = FILES, *, missing: type[MMSBError] = CorruptStoreError
) -> Iterator[Source]:
    """Open a regular file for reading. Links are not followed, pipes and devices not read.

    Raises:
        MMSBError: of class `missing` when nothing is there.
        CorruptStoreError: what is there is no regular file.
        StoreError: it cannot be opened or read.
    """
    # O_NONBLOCK: opening a pipe that somebody planted must not wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = files.open(path, flags)
    except FileNotFoundError as error:
        raise missing(f"{str(path)!r} is missing: expected a file, found nothing.") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise CorruptStoreError(
                f"{str(path)!r} is no regular file; links are refused."
            ) from error
        raise store_error("open", path, error) from error
    try:
        with explained("look at", path):
            status = files.stat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptStoreError(f"{str(path)!r} is no regular file.")
        yield Source(fd, status.st_size, path, files)
    finally:
        with explained("close", path):
            files.close(fd)


def read_file(
    path: Path, limit: int, files: Files = FILES, *, missing: type[MMSBError] = CorruptStoreError
) -> bytes:
    """Return a whole file of at most `limit` bytes; see `open_file` for the errors.

    Raises:
        CorruptStoreError: the file is larger than `limit`; nothing was allocated for it.
    """
    with open_file(path, files, missing=missing) as source:
        if source.nbytes > limit:
            raise CorruptStoreError(
                f"{str(path)!r} is too large: expected at most {limit} bytes, found {source.nbytes}."
            )
        return source.take(source.nbytes)
