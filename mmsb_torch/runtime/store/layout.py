"""A store: the folder `run.mmsb/` with `MMSB.json`, `LOCK` and `checkpoints/`.

Methods are thread-safe in that they share no mutable state but the lock; the functions they call
are re-entrant. Two checkpoints of the *same* transaction at once: one of them may be refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from torch import Tensor

from mmsb_torch.errors import (
    ClosedError,
    CorruptStoreError,
    HistoryError,
    ReadOnlyError,
    StoreError,
)
from mmsb_torch.runtime.store.catalog import CheckpointRef, list_checkpoints
from mmsb_torch.runtime.store.checkpoint import (
    CheckpointInfo,
    Snapshot,
    checkpoints_folder,
    load_checkpoint,
    load_tensor,
    write_checkpoint,
)
from mmsb_torch.runtime.store.collection import Plan, remove, retain
from mmsb_torch.runtime.store.durable import DurableLog
from mmsb_torch.runtime.store.files import FILES, Files, StrPath, exists, explained, sync_folder
from mmsb_torch.runtime.store.identity import (
    IDENTITY,
    LOCK,
    Identity,
    check_vacant,
    new_identity,
    read_identity,
    sweep_identity,
    write_identity,
)
from mmsb_torch.runtime.store.lock import WriterLock
from mmsb_torch.runtime.store.log import About
from mmsb_torch.runtime.store.log_verification import verify_log
from mmsb_torch.runtime.store.logwriter import Durability, LogWriter
from mmsb_torch.runtime.store.manifest import Manifest
from mmsb_torch.runtime.store.pastlog import Checkpoint, Older, collected
from mmsb_torch.runtime.store.recovery import Scan, Tail, cut_tail, outlines
from mmsb_torch.runtime.store.repairing import Repair, plan_repair, repair
from mmsb_torch.runtime.store.shards import SHARD_BYTES
from mmsb_torch.runtime.store.staging import drop_folder
from mmsb_torch.runtime.store.verification import (
    Checked,
    Damage,
    check_newest,
    checked_manifest,
    verify_checkpoint,
)


class Store:
    """An open store; make one with `create` or `open`, and close it.

    A writable store holds the writer's lock until `close`. In a forked child it is read-only: the
    parent is the writer.

    Attributes:
        path: the folder, absolute.
        identity: its uuid, birth and features.
    """

    def __init__(
        self, path: Path, identity: Identity, lock: WriterLock | None, files: Files
    ) -> None:
        self.path = path
        self.identity = identity
        self._lock = lock
        self._files = files
        self._closed = False

    @classmethod
    def create(cls, path: StrPath, files: Files = FILES) -> Store:
        """Make a store in a new or empty folder, durably, and open it for writing.

        Raises:
            StoreError: it is a store already, holds foreign things (nothing is touched), or the
                disk fails. A creation that failed half-way can be repeated.
            StoreLockedError: somebody else is creating it.
        """
        root = Path(path).absolute()
        with explained("make the folder", root), contextlib.suppress(FileExistsError):
            files.mkdir(root)
        check_vacant(root, files)
        lock = WriterLock(root / LOCK, files)
        try:
            check_vacant(root, files)  # now that nobody else can be at it
            sweep_identity(root, files)
            sync_folder(root.parent, files)
            identity = new_identity()
            write_identity(root, identity, files)
            checkpoints_folder(root, files)
        except BaseException:
            lock.close()
            raise
        return cls(root, identity, lock, files)

    @classmethod
    def open(cls, path: StrPath, *, writable: bool = False, files: Files = FILES) -> Store:
        """Open a store. For reading it takes no lock, makes nothing, and may be on a read-only disk.

        Raises:
            StoreError: there is no store, or it cannot be read, or not be written.
            StoreLockedError: `writable`, and somebody else is writing.
            CorruptStoreError: `MMSB.json` is damaged.
            UnsupportedError: it needs a newer version of this package.
        """
        root = Path(path).absolute()
        identity = read_identity(root, files)
        lock = WriterLock(root / LOCK, files) if writable else None
        return cls(root, identity, lock, files)

    @staticmethod
    def exists(path: StrPath, files: Files = FILES) -> bool:
        """Tell whether a store is at `path`; damaged or not.

        Raises:
            StoreError: the path cannot be looked at.
        """
        return exists(Path(path) / IDENTITY, files)

    @property
    def writable(self) -> bool:
        """Whether this process may write through this object now."""
        return self._lock is not None and self._lock.held

    def write_checkpoint(
        self,
        snapshot: Snapshot,
        *,
        progress: Callable[[int, int], None] | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> CheckpointInfo:
        """Write a checkpoint; see `checkpoint.write_checkpoint`."""
        self._check_writable()
        return write_checkpoint(
            self.path, snapshot, self._files, progress=progress, shard_bytes=shard_bytes
        )

    def load_checkpoint(self, tx: int | None = None, *, mapped: bool = False) -> Snapshot:
        """Read a checkpoint, the newest by default; see `checkpoint.load_checkpoint`."""
        self._check_open()
        return load_checkpoint(self.path, tx, self._files, mapped=mapped)

    def list_checkpoints(self) -> list[CheckpointRef]:
        """Return the checkpoints, oldest first; see `catalog.list_checkpoints`."""
        self._check_open()
        return list_checkpoints(self.path, self._files)

    def open_log(
        self,
        names: dict[int, str],
        base: Checkpoint | None,
        bases: Callable[[], list[Checkpoint]],
    ) -> tuple[DurableLog, Scan]:
        """The log that goes on from a checkpoint (None: from the beginning), and what is in it.

        Args:
            names: page id -> name, of the pages in the checkpoint; the log keeps it.
            base: the checkpoint.
            bases: looks for the older ones, when somebody asks for what was before.
        """
        self._check_open()
        uuid, files = self.identity.uuid, self._files

        def older() -> Older:
            return Older(bases(), outlines(self.path, uuid, files)[0])

        log = DurableLog(self.path, uuid, names, base, None if base is None else older, files)
        return log, Scan(self.path, uuid, log.last, files)

    def base(self, about: About, epochs: Mapping[int, int], names: Mapping[int, str]) -> Checkpoint:
        """A checkpoint as a base for values of the past: epochs and names of its pages, by id."""
        known = dict(names)

        def read(page: int) -> Tensor:
            try:
                return load_tensor(self.path, about.tx, known[page], self._files)
            except (HistoryError, CorruptStoreError, StoreError) as error:
                if any(ref.tx == about.tx for ref in list_checkpoints(self.path, self._files)):
                    raise
                raise collected(f"the checkpoint {about.tx}", self.path) from error

        return Checkpoint(about, dict(epochs), read)

    def begin_writing(self, log: DurableLog, scan: Scan, durability: Durability) -> Tail | None:
        """Let `log` append after a scan that was read to its end; returns the tail that was cut."""
        self._check_writable()
        tail = scan.tail
        if tail is not None:
            tail = cut_tail(tail, self._files)
        log.writer = LogWriter(self.path, self.identity.uuid, scan.end, durability, self._files)
        return tail

    def verify(self) -> list[Damage]:
        """Read every checkpoint and the whole log, and return all damage, and the torn tail.

        See `verification.verify_checkpoint` and `log_verification.verify_log`. Reads only, holds no
        lock, and may run beside a writer.

        Raises:
            UnsupportedError: a newer format or an unknown required feature.
            StoreError: a folder cannot be listed.
        """
        self._check_open()
        root, uuid, files = self.path, self.identity.uuid, self._files
        refs = list_checkpoints(root, files)
        found: list[Damage] = []
        checked: Checked = {}
        for ref in refs:
            damage = verify_checkpoint(ref.path, files, uuid, checked)
            if damage and exists(ref.path, files):  # else a writer removed it meanwhile
                found += damage
        return found + verify_log(root, uuid, [ref.tx for ref in refs], files)

    def repair(self, *, dry_run: bool) -> Repair:
        """Set aside what is damaged; see `repairing`.

        Raises:
            CorruptStoreError: nothing to go on from. StoreError: the disk fails.
        """
        plan = plan_repair(self.path, self.identity.uuid, self._files)
        if not dry_run:
            self._check_writable()
            repair(self.path, plan, self._files)
        return plan

    @property
    def files(self) -> Files:
        """The disk that the store is on."""
        return self._files

    def read_manifests(self, before: int) -> list[Manifest]:
        """The manifests of the checkpoints before transaction `before`, oldest first.

        Raises:
            CorruptStoreError, UnsupportedError, StoreError: one that is there cannot be read.
        """
        found = []
        for ref in self.list_checkpoints():
            if ref.tx >= before:
                break
            try:
                found.append(checked_manifest(ref.path, self._files, self.identity.uuid))
            except (CorruptStoreError, StoreError):
                if exists(ref.path, self._files):  # else its writer removed it meanwhile
                    raise
        return found

    def retain(self, keep: int) -> list[CheckpointRef]:
        """Remove all but the newest `keep` checkpoints; see `collection.retain`."""
        self._check_writable()
        return retain(self.path, keep, self._files)

    def check_newest(self) -> None:
        """Refuse to remove anything while the newest checkpoint is not whole, by names and sizes.

        Raises:
            CorruptStoreError: it is damaged: an older one may be the last that can be read.
        """
        self._check_writable()
        check_newest(self.list_checkpoints()[-1], self.identity.uuid, self._files)

    def remove_checkpoint(self, ref: CheckpointRef) -> None:
        """Remove one checkpoint; killed at any moment, it leaves it whole or gone.

        Raises:
            StoreError: the disk fails.
        """
        self._check_writable()
        drop_folder(ref.path, self._files)

    def remove(self, plan: Plan) -> None:
        """Remove what a plan of the collector names; see `collection.remove`."""
        self._check_writable()
        remove(self.path, plan, self._files)

    def close(self) -> None:
        """Give the lock back; harmless when repeated."""
        self._closed = True
        if self._lock is not None:
            self._lock.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the store {str(self.path)!r} was closed: open it again.")

    def _check_writable(self) -> None:
        self._check_open()
        if self._lock is None:
            raise ReadOnlyError(
                f"the store {str(self.path)!r} was opened for reading: open it with writable=True."
            )
        if not self._lock.held:
            raise ReadOnlyError(
                f"the store {str(self.path)!r} was opened by the process this one was forked from, "
                "which is its writer. Write there, or open it here after it was closed there."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "writable" if self.writable else "read-only"
        return f"<Store {str(self.path)!r} {state}>"
