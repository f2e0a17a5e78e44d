"""Compaction: a checkpoint by itself, when replaying the log would take longer than reading the state.

Measured here, replaying costs about as much as reading its bytes and 100 kB more for each commit. So a
state of 100 MB is compacted after at most 1,000 commits, one of 100 GB after 100 GB of deltas or a
million commits. What a whole write replaces is not replayed, and a whole write is no more to read than
the state, so neither counts. Opening then reads a checkpoint, and at most as much again of rows and
elements, and as much again of pages that were written whole.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from mmsb_torch.errors import MMSBError
from mmsb_torch.runtime.store import CheckpointInfo, DurableLog
from mmsb_torch.types import EventType

if TYPE_CHECKING:
    from mmsb_torch.memory.keeper import Keeper

COMMIT_BYTES = 100_000
"""What replaying a commit costs beside its bytes, in bytes read."""
LEAST_BYTES = 64 << 20
"""A log that is cheaper than this is left alone."""


class Compactor:
    """Watches a memory's log, and has a checkpoint written behind the caller when it is due.

    Of its own checkpoints it keeps the newest, and those that a log at least as large leads up to:
    all of them together are no larger than the log. A checkpoint that fails is reported as an event
    and tried again when the log has doubled. Thread safety: any thread may call anything.
    """

    def __init__(self, memory: Keeper) -> None:
        self._memory = weakref.ref(memory)
        self._limit = LEAST_BYTES
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._passing: int | None = None
        """The checkpoint that goes when there is a newer one."""
        self._counted = 0
        """Bytes that the log had taken at the last checkpoint."""

    def look(self) -> None:
        """Begin a checkpoint if one is due; takes a microsecond if none is."""
        memory = self._memory()
        if memory is None or self._cost(memory) <= self._limit:
            return
        state = sum(
            entry.spec.nbytes
            for entry in memory._router.table  # noqa: SLF001 - one facade
            if entry.spec is not None and not entry.info.derived
        )
        with self._guard:
            self._limit = max(state, self._limit)
            if self._cost(memory) <= self._limit or (self._thread and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="mmsb compact", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until no checkpoint is being written."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _cost(self, memory: Keeper) -> int:
        log = memory._router.log  # noqa: SLF001
        assert isinstance(log, DurableLog)
        return log.pending_bytes + COMMIT_BYTES * log.pending_commits

    def _run(self) -> None:
        from mmsb_torch.memory import keeping  # noqa: PLC0415 - it calls what this is made by

        memory = self._memory()
        if memory is None:
            return
        try:
            written = memory._router.log.nbytes  # noqa: SLF001
            info = keeping.checkpoint(memory, None, None)
            self._limit = LEAST_BYTES
            self._thin(memory, info, written)
        except MMSBError as error:
            self._limit = 2 * self._cost(memory)
            memory._router.events.emit(EventType.ERROR, {"error": error.message})  # noqa: SLF001

    def _thin(self, memory: Keeper, info: CheckpointInfo, written: int) -> None:
        from mmsb_torch.memory import keeping  # noqa: PLC0415 - as above

        if self._passing is not None and self._passing != info.tx:
            keeping.remove_checkpoint(memory, self._passing)
        self._passing = info.tx if written - self._counted < info.nbytes else None
        self._counted = written
