"""Results on disk: files named by their key and their content, shared by processes without a lock.

`objects/kk/<key>-<digest>-<cost>.safetensors`: the key says what was computed, the digest (xxh3-128 of
every byte) what came out, the cost how many microseconds it took. A file appears by one rename, and is
checked whole when it is read: one that is not what its name says is removed, and counts as not there.
Nothing is fsynced: after a power cut a result that was not whole is computed again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mmsb_torch.errors import CorruptStoreError, StoreError
from mmsb_torch.runtime.store.files import FILES, Files, explained, temporary_name
from mmsb_torch.runtime.store.streams import FileRecord
from mmsb_torch.runtime.store.tensorfile import read_tensors, write_tensors

OBJECTS = "objects"
_NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]{32})-([0-9]{1,15})\.safetensors")


class Stored(NamedTuple):
    """A result in the store."""

    path: Path
    key: str
    digest: str
    cost_us: int
    nbytes: int
    used_ns: int


class Objects:
    """The results of one store. Safe for any number of threads and processes.

    Args:
        root: the store's folder.
        budget: bytes of results that may stay; None: any number.
        writable: whether anything may be written; else this only reads.
        files: the disk.
    """

    def __init__(
        self, root: Path, budget: int | None, files: Files = FILES, *, writable: bool
    ) -> None:
        self._folder = root / OBJECTS
        self._budget, self._files = budget, files
        self.writable = writable
        self._nbytes: int | None = None
        """As far as this process knows; None: it has not looked."""

    def get(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The tensors (new) and texts of a result; None if there is none that is whole.

        Raises:
            StoreError: the disk fails.
        """
        for found in self._list(self._place(key), key):
            record = FileRecord(found.path.name, found.nbytes, found.digest)
            try:
                tensors, texts = read_tensors(found.path, record, self._files)
            except CorruptStoreError:  # damaged, or evicted meanwhile
                self._remove(found.path)
                continue
            if self.writable:
                with contextlib.suppress(OSError):
                    os.utime(found.path)  # what was used lately stays
            return tensors, texts
        return None

    def put(
        self, key: str, tensors: Mapping[str, Tensor], texts: Mapping[str, str], cost_us: int
    ) -> None:
        """Keep a result, if there is room; somebody else's of the same key may be there too.

        Raises:
            StoreError: the disk fails; nothing is half there.
        """
        folder = self._place(key)
        self._make(folder)
        temporary = folder / temporary_name(key)
        try:
            record = write_tensors(temporary, tensors, texts, self._files, sync=False)
            target = folder / f"{key}-{record.digest}-{min(cost_us, 10**15 - 1)}.safetensors"
            with explained("publish", target):
                self._files.rename(temporary, target)
        except BaseException:
            self._remove(temporary)
            raise
        self._make_room(record.nbytes)

    def lease(self, key: str) -> io.FileIO | None:
        """Hold off other processes that would compute the same, until the file is closed.

        One that is killed lets go. None: nothing can be stored.
        """
        if not self.writable:
            return None
        folder = self._place(key)
        self._make(folder)
        path = folder / f".{key}.lease"
        while True:
            with explained("open", path):
                fd = self._files.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
            file = io.FileIO(fd, "r+")
            fcntl.flock(fd, fcntl.LOCK_EX)  # waits for who computes it now
            try:
                if os.fstat(fd).st_ino == os.stat(path).st_ino:  # noqa: PTH116
                    return file
            except FileNotFoundError:
                pass  # who held it has removed it: begin again
            file.close()

    def end_lease(self, key: str) -> None:
        """Remove the file of a lease, before it is closed."""
        if self.writable:
            with contextlib.suppress(OSError):
                self._files.unlink(self._place(key) / f".{key}.lease")

    def remove(self, key: str) -> None:
        """Remove every result of a key."""
        for found in list(self._list(self._place(key), key)):
            self._remove(found.path)

    def clear(self) -> None:
        """Remove every result."""
        for found in self._all():
            self._remove(found.path)
        self._nbytes = None

    def stored(self) -> list[Stored]:
        """Every result that is there, unchecked."""
        return list(self._all())

    def _place(self, key: str) -> Path:
        return self._folder / key[:2]

    def _make(self, folder: Path) -> None:
        for path in (self._folder, folder):
            with explained("make the folder", path), contextlib.suppress(FileExistsError):
                self._files.mkdir(path)

    def _list(self, folder: Path, key: str = "") -> Iterator[Stored]:
        try:
            names = self._files.listdir(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot list {str(folder)!r}: {error.strerror}.") from error
        for name in sorted(names):
            match = _NAME.fullmatch(name)
            if match is None or not name.startswith(key):
                continue
            with contextlib.suppress(OSError):
                status = self._files.lstat(folder / name)
                cost = int(match[3])
                yield Stored(
                    folder / name, match[1], match[2], cost, status.st_size, status.st_mtime_ns
                )

    def _all(self) -> Iterator[Stored]:
        try:
            folders = sorted(self._files.listdir(self._folder))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise StoreError(f"cannot list {str(self._folder)!r}: {error.strerror}.") from error
            return
        for name in folders:
            if re.fullmatch(r"[0-9a-f]{2}", name):
                yield from self._list(self._folder / name)

    def _make_room(self, added: int) -> None:
        """Evict what is cheapest to compute again for its bytes and age, if there is too much."""
        if self._budget is None:
            return
        if self._nbytes is not None:
            self._nbytes += added
        if self._nbytes is not None and self._nbytes <= self._budget:
            return
        there, now = list(self._all()), time.time_ns()
        self._nbytes = sum(item.nbytes for item in there)
        if self._nbytes <= self._budget:
            return
        goal = int(self._budget * 0.9)
        for item in sorted(there, key=lambda item: _worth(item, now)):
            if self._nbytes <= goal:
                break
            self._remove(item.path)
            self._nbytes -= item.nbytes

    def _remove(self, path: Path) -> None:
        if self.writable:
            with contextlib.suppress(OSError):
                self._files.unlink(path)


def _worth(item: Stored, now_ns: int) -> float:
    """Microseconds saved a byte, less for what was long not used."""
    age = max(now_ns - item.used_ns, 0) / 1e9
    return (item.cost_us + 1) / max(item.nbytes, 1) / (1 + age)
