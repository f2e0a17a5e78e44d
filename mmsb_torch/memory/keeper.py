"""The half of the facade that keeps a memory on disk: checkpoints, collecting, syncing, closing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from weakref import WeakSet

    from mmsb_torch.graph import Engine
    from mmsb_torch.graph.memo import Memo
    from mmsb_torch.graph.recording import Recording
    from mmsb_torch.memory.compaction import Compactor
    from mmsb_torch.runtime.state import Router
    from mmsb_torch.runtime.store import CheckpointInfo, Damage, Plan, Retention, Store, Tail
    from mmsb_torch.runtime.store.objects import Objects


class Keeper:
    """What `Memory` does with its store; harmless for one without."""

    _router: Router
    _engine: Engine
    _recordings: WeakSet[Recording]
    recording: Recording | None

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._checkpointing = threading.Lock()
        self._checkpointed = (0, 0, 0, 0)
        self._end: Callable[[], object] = lambda: None
        self._retention: Retention | None = None
        self._objects: Objects | None = None
        """Where memoised results outlive the process."""
        self._memo: Memo | None = None
        self._compactor: Compactor | None = None
        self.tail: Tail | None = None
        """What was not whole at the end of the log when it was opened: a write that was cut."""

    def checkpoint(
        self, *, keep: int | None = None, progress: Callable[[int, int], None] | None = None
    ) -> CheckpointInfo:
        """Write every page and the registry to the store, durably and atomically.

        Args:
            keep: remove all but the newest `keep` checkpoints afterwards. The log stays, so the past
                stays as far as the log alone can rebuild it; `collect` removes history, too.
            progress: called with (bytes written, bytes in all).

        Raises:
            StoreError: the memory has no path, or the disk fails; earlier checkpoints are intact.
        """
        from mmsb_torch.memory import keeping  # noqa: PLC0415 - files load when there is a path

        self._router.check_writable()
        return keeping.checkpoint(self, keep, progress)

    def collect(self, retention: Retention | None = None, *, dry_run: bool = False) -> Plan:
        """Remove what need not stay of the past, and what killed writers left; returns what went.

        Print the plan to see it. Moments that went raise HistoryError from then on; a reader who
        was about to read one gets CollectedError and opens the store again. What `every` and `tags`
        keep is kept by checkpoints that are there: nothing is written but a record of what went.

        Args:
            retention: what stays; the one that the memory was opened with if left out, else all.
            dry_run: only plan. Works on a memory that is open for reading, too.

        Raises:
            StoreError: the memory has no path, or the disk fails; what is left is whole.
            CorruptStoreError: the newest checkpoint is damaged: nothing was removed.
        """
        from mmsb_torch.memory import collecting  # noqa: PLC0415 - as above

        if dry_run:
            self._router.check_open()
        else:
            self._router.check_writable()
        return collecting.collect(self, retention, dry_run=dry_run)

    def sync(self) -> None:
        """Wait until everything committed so far is on the disk; nothing to do without a path.

        Raises:
            StoreError: the disk failed. What was committed since the last sync may be lost, and
                nothing more is acknowledged; open the store again.
        """
        self._router.check_open()
        self._router.log.sync()

    def verify(self) -> list[Damage]:
        """Read everything in the store and return all damage, by file and range; [] if it is whole.

        A torn tail (a write that a kill cut short) is in the list too, marked as such.
        """
        self._router.check_open()
        return [] if self._store is None else self._store.verify()

    def close(self) -> None:
        """Close the memory; a memory with a path is checkpointed first if anything changed.

        Every operation afterwards raises ClosedError; tensors and moments taken before stay valid.
        Harmless when repeated.
        """
        was_open = self._router.shut()
        if self._recordings:
            from mmsb_torch.memory import recording  # noqa: PLC0415 - it loads when it is used

            recording.end_all(self)
        if self._memo is not None:
            self._memo.close()
        if not was_open or self._store is None:
            return
        self._end()
        if self._compactor is not None:
            self._compactor.wait()
        from mmsb_torch.memory import keeping  # noqa: PLC0415 - as above

        try:
            keeping.checkpoint_if_changed(self)
        except BaseException:
            self._router.closed = False  # nothing is lost: free the disk, and close again
            raise
        try:
            self._router.log.close()
        finally:
            self._store.close()

    def __enter__(self) -> Self:
        self._router.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
