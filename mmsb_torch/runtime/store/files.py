"""The disk: the few system calls the store makes, and what their failures mean.

Every system call goes through one `Files` object that is passed down, so that a test can put a
faulty disk in its place. `Files` raises plain `OSError`; the functions around it turn that into
`StoreError`, which names the path and what to do, with `errno` kept. Everything is re-entrant.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from mmsb_torch.errors import MMSBError, StoreError

StrPath: TypeAlias = str | os.PathLike[str]

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


def _find() -> Callable[[int, int, int, int], int] | None:
    """Linux's `sync_file_range`, if this is Linux."""
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError, TypeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


_sync_file_range = _find()
_BEGIN_ONLY = 2  # SYNC_FILE_RANGE_WRITE: begins, waits for nothing, and takes no error away


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

    def pread(self, fd: int, into: memoryview, offset: int) -> int:
        """Read at most `len(into)` bytes from `offset` on, return how many; 0 is the end."""
        return os.preadv(fd, [into], offset)

    def write(self, fd: int, data: memoryview) -> int:
        """Write some of `data`, return how many bytes."""
        return os.write(fd, data)

    def begin_sync(self, fd: int, offset: int, nbytes: int) -> None:
        """Let the system begin to bring these bytes to the disk; no promise: `fsync` follows."""
        if _sync_file_range is not None:
            _sync_file_range(fd, offset, nbytes, _BEGIN_ONLY)

    def truncate(self, fd: int, nbytes: int) -> None:
        """Cut the file to `nbytes`."""
        os.ftruncate(fd, nbytes)

    def fsync(self, fd: int) -> None:
        """Wait until the file or folder is on the disk."""
        os.fsync(fd)

    def datasync(self, fd: int) -> None:
        """Wait until the file's content and size are on the disk."""
        os.fdatasync(fd)

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

    def link(self, source: Path, target: Path) -> None:
        """Give a file another name on the same file system."""
        os.link(source, target, follow_symlinks=False)

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


def store_error(action: str, path: Path, error: OSError) -> StoreError:
    """Return the StoreError for `error`: what failed, where, why, and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = _ADVICE.get(error.errno or 0, "Check the path and the disk")
    wrapped = StoreError(f"cannot {action} {str(path)!r}: {reason}. {advice}.")
    wrapped.errno = error.errno
    wrapped.filename = str(path)
    return wrapped


class explained:  # noqa: N801 - used like a function; `contextmanager` takes three times as long
    """Turn a plain OSError of the block into the StoreError for doing `action` at `path`."""

    __slots__ = ("_action", "_path")

    def __init__(self, action: str, path: Path) -> None:
        self._action, self._path = action, path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, MMSBError):
            raise store_error(self._action, self._path, error) from error


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


def sync_file(path: Path, files: Files = FILES) -> None:
    """Make the content of a file durable that was written before.

    Raises:
        StoreError: it cannot be opened or synced.
    """
    with explained("fsync", path):
        fd = files.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            files.fsync(fd)
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
