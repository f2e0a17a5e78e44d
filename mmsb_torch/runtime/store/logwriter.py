"""Appending to the log: a record is written whole or taken back, and synced as was promised.

Durability: "process" (default) hands each record to the system before it is acknowledged, which
survives `kill -9`, and syncs within a second; "full" also waits for the disk, which survives a power
cut; "none" leaves the syncing to the system. A file whose fsync failed is poisoned: the system may
have dropped the pages, so nothing is retried and nothing more is acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Literal, NamedTuple

from mmsb_torch.errors import MMSBError, ReadOnlyError, StoreError
from mmsb_torch.runtime.store.files import (
    FILES,
    Files,
    exists,
    explained,
    store_error,
    sync_file,
    sync_folder,
)
from mmsb_torch.runtime.store.frame import (
    HEADER_BYTES,
    VERSION,
    FileHeader,
    Kind,
    RecordHeader,
    chain_of,
    digest_of,
    padding,
)
from mmsb_torch.runtime.store.logfile import DELTAS, LOG, Record, file_name, segment_name
from mmsb_torch.runtime.store.streams import FileRecord, new_file

Durability = Literal["process", "full", "none"]
DURABILITIES = ("process", "full", "none")
SYNC_SECONDS = 1.0
_COMMITS = (Kind.COMMIT, Kind.ROLLBACK)


class End(NamedTuple):
    """Where a log ends: the file to go on with (None: begin one), its size, and the chain."""

    path: Path | None
    nbytes: int
    chain: int


class LogWriter:
    """The one writer of a store's log. The caller serialises appends; `sync` may come from any thread.

    Args:
        root: the store's folder.
        uuid: the store's.
        end: where the log ends.
        durability: what an append waits for.
        files: the disk.
    """

    def __init__(
        self,
        root: Path,
        uuid: str,
        end: End,
        durability: Durability = "process",
        files: Files = FILES,
    ) -> None:
        self.durability = durability
        self._folder = root / LOG
        self._deltas = root / DELTAS
        self._uuid = uuid
        self._files = files
        self._end = end
        self.last = 0
        """The transaction of the last COMMIT that this writer wrote and did not take back."""
        self._fd: int | None = None
        self._poison: MMSBError | None = None
        self._guard = threading.Lock()
        """Held while the descriptor is used: a sync must not meet a close."""
        self._unsynced = False
        self._segments: list[Path] = []
        """Payload files that were not synced yet."""
        self._pid = os.getpid()
        self._syncer: threading.Thread | None = None

    def append(
        self, kind: Kind, tx: int, parts: list[bytes | memoryview], items: int = 0, flags: int = 0
    ) -> tuple[Path, Record]:
        """Write one record; when this returns it is as durable as was promised.

        Raises:
            StoreError: the disk failed; the record is not in the log.
        """
        self.check()
        if self._fd is None:
            self._open(tx)
        before = self._end, self.last
        length, (path, offset, chain) = sum(map(len, parts)), self._end
        assert path is not None
        fields = RecordHeader(length, tx, kind, flags, items, chain, digest_of(parts))
        header = fields.pack()
        record = Record(fields, offset, chain_of(header))
        data = b"".join([header, *parts, bytes(padding(length))])
        try:
            self._emit(self._fd, path, data)
            if self.durability == "full":
                self._sync()
            self._end = End(path, offset + len(data), record.chain)
            if kind in _COMMITS:
                self.last = tx - (kind == Kind.ROLLBACK)
        except BaseException as error:  # an interrupt too, wherever it comes
            self._end, self.last = before
            self._take_back(offset, error)
            raise
        if self.durability != "full":
            self._unsynced = True
            if self._syncer is None and self.durability == "process":
                self._syncer = _begin_syncing(self)
        return path, record

    def rotate(self, tx: int) -> None:
        """Begin a new file for transaction `tx` and later ones, unless one has begun there.

        Raises:
            StoreError: the disk failed; the log goes on in the file it was in.
        """
        self.check()
        path = self._end.path
        if path is None or path.name != file_name(tx):
            if self._unsynced:
                self._sync()
            self._begin(tx)

    def sync(self) -> None:
        """Wait until everything appended is on the disk.

        Raises:
            StoreError: the disk failed; nothing more is acknowledged by this writer.
        """
        self.check()
        if self._unsynced:
            self._sync()

    def close(self, tx: int) -> None:
        """Seal the log after transaction `tx`, sync, and close the file; harmless when repeated."""
        try:
            if self._poison is None and self._fd is not None and self._pid == os.getpid():
                self.append(Kind.SEAL, tx, [])
                self.sync()
        finally:
            with self._guard:
                fd, self._fd = self._fd, None
                if fd is not None:
                    with explained("close", self._folder):
                        self._files.close(fd)
                self._poison = self._poison or StoreError("the log was closed")

    def give_up(self, error: MMSBError) -> None:
        """Take no more records, because of `error`."""
        self._poison = self._poison or error

    @property
    def poisoned(self) -> bool:
        """Whether this writer takes no more records."""
        return self._poison is not None

    def segment(self, tx: int, parts: list[bytes | memoryview]) -> FileRecord:
        """Write a payload of transaction `tx` into a file of its own; a record will name it.

        Raises:
            StoreError: the disk failed; no file is left.
        """
        self.check()
        self._make_folder(self._deltas)
        attempt = 0
        while exists(path := self._deltas / segment_name(tx, attempt), self._files):
            attempt += 1  # what a commit that was taken back left
        now = self.durability == "full"
        with new_file(path, self._files, sync=now) as sink:
            for part in parts:
                sink.write(part)
        if now:
            sync_folder(self._deltas, self._files)
        elif self.durability == "process":
            with self._guard:
                self._segments.append(path)
        return sink.record()

    def discard(self, segment: FileRecord) -> None:
        """Remove a payload that no record names; it stays if one may."""
        if self.poisoned:
            return
        path = self._deltas / segment.name
        with self._guard:
            if path in self._segments:
                self._segments.remove(path)
        with contextlib.suppress(OSError):
            self._files.unlink(path)

    def check(self) -> None:
        """Raise unless this writer takes records.

        Raises:
            StoreError: it gave up. ReadOnlyError: this is a forked child.
        """
        if self._pid != os.getpid():
            raise ReadOnlyError(
                "this memory was opened by the process that this one was forked from, which is its "
                "writer. Write there, or open it here after it was closed there."
            )
        if self._poison is not None:
            raise StoreError(
                f"the log takes no more records: {self._poison.message} "
                "Open the store again: it holds everything that was acknowledged as durable."
            )

    def _open(self, tx: int) -> None:
        """Go on with the file the log ends in, or begin one for transaction `tx`."""
        path, nbytes, _ = self._end
        if path is None:
            self._begin(tx)
            return
        with explained("open for writing", path):
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW
            self._use(self._files.open(path, flags), path, nbytes)

    def _begin(self, tx: int) -> None:
        fresh = self._folder / file_name(tx)
        self._make_folder(self._folder)
        header = FileHeader(VERSION, 0, self._uuid, tx, self._end.chain, time.time_ns()).pack()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW
        with explained("create", fresh):
            fd = self._files.open(fresh, flags)
        try:
            self._emit(fd, fresh, header)
            if self.durability == "full":
                with explained("fsync", fresh):
                    self._files.fsync(fd)
            if self.durability != "none":
                sync_folder(self._folder, self._files)
        except BaseException as error:
            self._forget(fd, fresh, error)
            raise
        self._use(fd, fresh, HEADER_BYTES)

    def _forget(self, fd: int, path: Path, error: BaseException) -> None:
        """Remove a file that could not be begun, surely: who opens the store would go on there."""
        with contextlib.suppress(OSError):
            self._files.close(fd)
        try:
            self._files.unlink(path)
            sync_folder(path.parent, self._files)
        except (OSError, MMSBError):
            self.give_up(error if isinstance(error, MMSBError) else StoreError(str(error)))

    def _make_folder(self, path: Path) -> None:
        if not exists(path, self._files):
            with explained("make the folder", path):
                self._files.mkdir(path)
            sync_folder(path.parent, self._files)

    def _use(self, fd: int, path: Path, nbytes: int) -> None:
        with self._guard:
            old, self._fd = self._fd, fd
            self._end = End(path, nbytes, self._end.chain)
        if old is not None:
            with contextlib.suppress(OSError):  # what it held is synced already
                self._files.close(old)

    def _emit(self, fd: int | None, path: Path, data: bytes) -> None:
        assert fd is not None
        view = memoryview(data)
        while view:
            with explained("write", path):
                written = self._files.write(fd, view)
            if written <= 0:
                raise store_error("write", path, OSError(errno.EIO, ""))
            view = view[written:]

    def _sync(self) -> None:
        with self._guard:
            if self._fd is None or self._end.path is None:
                return
            self._unsynced = False  # before: what is appended meanwhile is synced again
            segments, self._segments = self._segments, []
            try:
                for path in segments:
                    sync_file(path, self._files)
                if segments:
                    sync_folder(self._deltas, self._files)
                with explained("fsync", self._end.path):
                    self._files.datasync(self._fd)
                    there = self._files.stat(self._fd).st_nlink
                if there == 0:
                    raise StoreError(
                        f"{str(self._end.path)!r} was removed while it was written: what is in it "
                        "will be gone. The pages are in memory: save them elsewhere."
                    )
            except BaseException as error:
                self._unsynced, self._segments = True, segments + self._segments
                if isinstance(error, MMSBError):
                    self._poison = error
                raise

    def _take_back(self, nbytes: int, error: BaseException) -> None:
        """Cut off what a failed append may have left; if even that fails, write no more."""
        assert self._fd is not None
        assert self._end.path is not None
        try:
            with explained("cut", self._end.path):
                self._files.truncate(self._fd, nbytes)
        except BaseException as worse:
            self.give_up(worse if isinstance(worse, MMSBError) else StoreError(repr(error)))
            if not isinstance(worse, MMSBError):
                raise


def _begin_syncing(writer: LogWriter) -> threading.Thread:
    thread = threading.Thread(
        target=_keep_synced, args=(weakref.ref(writer),), name="mmsb sync", daemon=True
    )
    thread.start()
    return thread


def _keep_synced(reference: weakref.ref[LogWriter]) -> None:
    """Sync a writer's file within a second of each append, until it is closed or gone."""
    while True:
        time.sleep(SYNC_SECONDS)
        writer = reference()
        if writer is None or writer.poisoned:
            return
        with contextlib.suppress(MMSBError):  # it is poisoned, and the next append says so
            writer.sync()
        del writer
