"""Writing behind the caller: a few transactions on their way to the log, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from mmsb_torch.errors import MMSBError, StoreError
from mmsb_torch.types import Transaction

IN_FLIGHT = 2
"""Transactions that may be on their way; who adds one more waits."""


class Background:
    """One thread that writes what it is given, in order. An error ends it, and is told from then on.

    Args:
        write: writes one transaction; runs on the thread.

    Thread safety: any thread may call anything.
    """

    def __init__(self, write: Callable[[Transaction], None]) -> None:
        self._write = write
        self._waiting: deque[Transaction] = deque()
        self._moved = threading.Condition()
        self._error: MMSBError | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self._running = threading.Lock()
        """Held by the one thread that writes."""

    def put(self, transaction: Transaction) -> None:
        """Have it written; waits while too many are on their way.

        Raises:
            StoreError: an earlier one could not be written; this one is not taken.
        """
        with self._moved:
            self._moved.wait_for(lambda: self._error or len(self._waiting) < IN_FLIGHT)
            self._check()
            self._waiting.append(transaction)
            self._drive()

    def wait(self, tx: int | None = None) -> None:
        """Wait until transaction `tx` (None: everything put so far) is written.

        Raises:
            StoreError: it could not be.
        """
        if (
            not self._waiting and self._error is None
        ):  # in this order: an error is set, then they go
            return
        with self._moved:
            last = self._waiting[-1].tx if self._waiting and tx is None else tx
            if self._waiting:
                self._drive()  # an interrupt may have come between the two lines of `put`
            self._moved.wait_for(
                lambda: self._error or last is None or all(t.tx > last for t in self._waiting)
            )
            self._check()

    @property
    def failed(self) -> bool:
        """Whether something could not be written."""
        return self._error is not None

    def close(self) -> None:
        """Write what is left and end the thread. Raises as `wait`."""
        with self._moved:
            self._closing = True
            if self._waiting and self._error is None:
                self._drive()
            self._moved.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        with self._moved:
            self._check()

    def _drive(self) -> None:
        """See to it that what waits gets written."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="mmsb log", daemon=True)
            self._thread.start()
        self._moved.notify_all()

    def _check(self) -> None:
        if self._error is not None:
            raise StoreError(
                f"a transaction that was committed with wait=False could not be written: "
                f"{self._error.message} It and what came after are in memory only; open the store "
                "again to go on from what was written."
            ) from self._error

    def _run(self) -> None:
        if self._running.acquire(blocking=False):  # else an interrupt hid that one had begun
            try:
                self._write_all()
            finally:
                self._running.release()

    def _write_all(self) -> None:
        while True:
            with self._moved:
                self._moved.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                transaction = self._waiting[0]
            try:
                self._write(transaction)
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                with self._moved:
                    self._error = error if isinstance(error, MMSBError) else StoreError(repr(error))
                    self._waiting.clear()
                    self._moved.notify_all()
                return
            with self._moved:
                self._waiting.popleft()
                self._moved.notify_all()
