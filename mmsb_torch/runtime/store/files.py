"""Durable files: the few system calls the store makes, and the sequences it makes them in.

Every system call goes through one `Files` object that is passed down, so that a test can put a
faulty disk in its place. `Files` raises plain `OSError`; the functions around it turn that into
`StoreError`, which names the path and what to do, with `errno` kept.

Everything here is re-entrant: no function keeps state between calls, and a `Sink` or `Source`
belongs to the thread that opened it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import xxhash

from mmsb_torch.errors import CorruptStoreError, MMSBError, StoreError

StrPath: TypeAlias = str | os.PathLike[str]

# Small enough that a chunk is still in cache when it is hashed, large enough that calls are free.
CHUNK_BYTES = 1 << 20

_ADVICE = {
    errno.ENOSPC: "Free some space there (retain() removes old checkpoints) and try again",
    errno.EDQUOT: "The quota is used up: free some space and try again",
    errno.EACCES: "Check owner and mode of the path, or open the store for reading only",
    errno.EPERM: "Check owner and attributes of the path, or open the store for reading only",
    errno.EROFS: "The file system is read-only: open the store for reading only",
    errno.EIO: "The device failed: what was not acknowledged is not safe; look at the kernel's log",
    errno.EMFILE: "Too many open files: close some or raise `ulimit -n`",
    errno.ENFILE: "Too many open files on this machine: close some",
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "A part of the path is a file: check the path",
    errno.ENAMETOOLONG: "Choose a shorter path",
    errno.EEXIST: "Something is there already: choose another path",
    errno.ENOLCK: "The file system has no locks to give: put the store on a local disk",
    errno.EOPNOTSUPP: "The file system cannot do that: put the store on a local disk",
}
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})


class Files:
    """The store's system calls, one method each; a faulty disk overrides some of them."""

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        """Open `path` and return a descriptor that no exec'ed program inherits."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        """Close the descriptor."""
        os.close(fd)

    def read(self, fd: int, into: memoryview) -> int:
        """Read at most `len(into)` bytes, return how many; 0 is the end of the file."""
        return os.readv(fd, [into])

    def write(self, fd: int, data: memoryview) -> int:
        """Write some of `data`, return how many bytes."""
        return os.write(fd, data)

    def truncate(self, fd: int, nbytes: int) -> None:
        """Cut the file to `nbytes`."""
        os.ftruncate(fd, nbytes)

    def fsync(self, fd: int) -> None:
        """Wait until the file or folder is on the disk."""
        os.fsync(fd)

    def lock(self, fd: int) -> None:
        """Take the file's exclusive lock now, or raise BlockingIOError."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock(self, fd: int) -> None:
        """Give the file's lock back, whoever else shares the descriptor."""
        fcntl.flock(fd, fcntl.LOCK_UN)

    def stat(self, fd: int) -> os.stat_result:
        """Describe an open file."""
        return os.fstat(fd)

    def lstat(self, path: Path) -> os.stat_result:
        """Describe what is at `path`, not what a link there points to."""
        return os.lstat(path)

    def rename(self, source: Path, target: Path) -> None:
        """Rename within one file system, atomically, replacing a file or an empty folder."""
        os.replace(source, target)  # noqa: PTH105  # the name of the system call

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)  # noqa: PTH108

    def mkdir(self, path: Path) -> None:
        """Make a folder."""
        os.mkdir(path)  # noqa: PTH102

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""
        os.rmdir(path)  # noqa: PTH106

    def listdir(self, path: Path) -> list[str]:
        """List the names in a folder, in any order."""
        return os.listdir(path)  # noqa: PTH208


FILES = Files()
"""The real disk: the default everywhere."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file must be: its name, its size in bytes and its xxh3-128 in lower-case hex.

    The digest tells damage, not forgery.
    """

    name: str
    nbytes: int
    digest: str


def store_error(action: str, path: Path, error: OSError) -> StoreError:
    """Return the StoreError for `error`: what failed, where, why, and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = _ADVICE.get(error.errno or 0, "Check the path and the disk")
    wrapped = StoreError(f"cannot {action} {str(path)!r}: {reason}. {advice}.")
    wrapped.errno = error.errno
    wrapped.filename = str(path)
    return wrapped


@contextlib.contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Turn a plain OSError of the block into the StoreError for doing `action` at `path`."""
    try:
        yield
    except MMSBError:
        raise
    except OSError as error:
        raise store_error(action, path, error) from error


class Sink:
    """A new file being written: counts and hashes what goes by, and never holds the whole file.

    Use through `new_file`. Small pieces are collected into one write.
    """

    def __init__(self, fd: int, path: Path, files: Files) -> None:
        self._fd = fd
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
        with memoryview(data) as view:
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
        try:
            while chunk:
                written = self._files.write(self._fd, chunk)
                if written <= 0:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                chunk = chunk[written:]
        except OSError as error:
            raise store_error("write", self._path, error) from error


@contextlib.contextmanager
def new_file(path: Path, files: Files = FILES) -> Iterator[Sink]:
    """Create `path`, which must not exist; leaving the block fsyncs it.

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
            sink = Sink(fd, path, files)
            yield sink
            sink.flush()
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


def temporary_name(name: str, kind: str = "tmp") -> str:
    """Return a hidden name beside `name` that nobody else uses."""
    return f".{name}.{kind}-{secrets.token_hex(8)}"


def sync_folder(path: Path, files: Files = FILES) -> None:
    """Make the names in a folder durable. A file system that knows no such thing is left alone.

    Raises:
        StoreError: the folder cannot be opened or synced.
    """
    with explained("fsync the folder", path):
        fd = files.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            files.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise
        finally:
            files.close(fd)


def exists(path: Path, files: Files = FILES) -> bool:
    """Tell whether anything, even a dangling link, is at `path`."""
    with explained("look at", path):
        try:
            files.lstat(path)
        except FileNotFoundError:
            return False
        return True


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
    def left(self) -> int:
        """Bytes not yet handed out."""
        return self.nbytes - self._consumed

    def fill(self, into: memoryview) -> None:
        """Fill `into` with the next bytes; the caller has compared its length with `left`.

        Raises:
            CorruptStoreError: the file became shorter meanwhile.
            StoreError: the disk fails.
        """
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
            raise CorruptStoreError(f"{str(path)!r} is no regular file; links are refused.") from error
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
