"""One writer a store: an flock on the store's `LOCK` file.

The lock belongs to the open file description, so another handle in the same process is refused
like another process, and the kernel gives the lock back when the process dies, however it dies.

Fork: a child shares its parent's open file description. Left alone, a child (a data loader's
worker, say) would keep the store locked after its parent is gone, and could unlock it under its
parent. So the descriptor is closed in every child that `os.fork` makes, before any other code runs
there, and only the process that took a lock ever unlocks it; exec'ed programs do not inherit the
descriptor. A fork made in C past Python is not seen: such a child keeps the lock alive until it
ends, and cannot release it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import threading
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from mmsb_torch.errors import StoreError, StoreLockedError
from mmsb_torch.runtime.store.files import FILES, Files, StrPath, explained, store_error

_CONTENT_BYTES = 4096

# Descriptors of locks this process holds. The guard is held over a fork, so that no child is born
# between the opening of a descriptor and its entry here.
_descriptors: set[int] = set()
_guard = threading.RLock()


def _after_fork_in_child() -> None:
    for fd in _descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)
    _descriptors.clear()
    _guard.release()


os.register_at_fork(
    before=_guard.acquire,
    after_in_parent=_guard.release,
    after_in_child=_after_fork_in_child,
)


class WriterLock:
    """The right to write to a store, taken when made and given back by `close`.

    Thread-safe. In a forked child the object is there but `held` is False, and `close` does nothing.

    Args:
        path: the lock file; made if missing, never removed (two writers could hold two files).
        files: the disk.

    Raises:
        StoreLockedError: somebody else has it; at once, naming them as far as the file tells.
        StoreError: the file cannot be opened for writing, or the file system has no locks.
    """

    def __init__(self, path: StrPath, files: Files = FILES) -> None:
        self._path = Path(path)
        self._files = files
        self._pid = os.getpid()
        self._fd: int | None = None
        with _guard:
            fd = _open(self._path, files)
            try:
                self._acquire(fd)
            except BaseException:
                with contextlib.suppress(OSError):
                    files.close(fd)
                raise
            _descriptors.add(fd)
            self._fd = fd

    @property
    def held(self) -> bool:
        """Whether this process holds the lock through this object."""
        return self._fd is not None and self._pid == os.getpid()

    def close(self) -> None:
        """Give the lock back; harmless when repeated."""
        with _guard:
            if self._fd is None or self._pid != os.getpid():
                self._fd = None
                return
            fd, self._fd = self._fd, None
            _descriptors.discard(fd)
            # The content is for people; closing gives the lock back even if unlocking fails.
            with contextlib.suppress(OSError):
                self._files.truncate(fd, 0)
            with contextlib.suppress(OSError):
                self._files.unlock(fd)
            with contextlib.suppress(OSError):
                self._files.close(fd)

    def _acquire(self, fd: int) -> None:
        try:
            self._files.lock(fd)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise StoreLockedError(_refusal(self._path, fd, self._files)) from error
            raise store_error("lock", self._path, error) from error
        with contextlib.suppress(OSError):
            self._files.truncate(fd, 0)
            self._files.write(fd, memoryview(_signature()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<WriterLock {str(self._path)!r} {'held' if self.held else 'released'}>"

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None and self.held:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()


def _open(path: Path, files: Files) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    with explained("open for writing", path):
        fd = files.open(path, flags)
        try:
            regular = stat.S_ISREG(files.stat(fd).st_mode)
        except BaseException:
            files.close(fd)
            raise
    if not regular:
        files.close(fd)
        raise StoreError(f"{str(path)!r} is no regular file: expected the lock of a store.")
    return fd


def _signature() -> bytes:
    owner = {"pid": os.getpid(), "host": os.uname().nodename, "since_ns": time.time_ns()}
    return json.dumps(owner).encode() + b"\n"


def _refusal(path: Path, fd: int, files: Files) -> str:
    return (
        f"cannot write to the store {str(path.parent)!r}: {_holder(fd, files)} has it open for "
        "writing. Close it there, or open it for reading."
    )


def _holder(fd: int, files: Files) -> str:
    """Say who holds the lock. The text is advice only: it may be torn, or not written yet."""
    buffer = bytearray(_CONTENT_BYTES)
    try:
        count = files.read(fd, memoryview(buffer))
        owner = json.loads(buffer[:count])
        pid, host = int(owner["pid"]), str(owner["host"])
        since = datetime.fromtimestamp(int(owner["since_ns"]) / 1e9, UTC)
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return "another process"
    who = f"process {pid} on host {host[:64]!r}"
    if pid == os.getpid() and host == os.uname().nodename:
        who = f"another handle in this process ({pid})"
    return f"{who}, since {since:%Y-%m-%d %H:%M:%S} UTC,"
