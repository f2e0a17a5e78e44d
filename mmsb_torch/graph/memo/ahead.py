"""Reading results from disk before somebody asks for them, in the background."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from mmsb_torch.errors import StoreError

if TYPE_CHECKING:
    from mmsb_torch.graph.memo.kept import Kept
    from mmsb_torch.runtime.store.objects import Objects


class Reading:
    """What `mem.memo.prefetch` began. Thread-safe."""

    def __init__(self, label: str, wanted: Callable[[], Iterable[str]], *, used: bool) -> None:
        self.label, self.wanted, self.used = label, wanted, used
        self.read = 0
        """Results read so far."""
        self.nbytes = 0
        """Their bytes."""
        self.full = False
        """It ended for lack of room."""
        self._over = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over, at most `timeout` seconds; whether it is."""
        return self._over.wait(timeout)

    def end(self) -> None:
        """It is over."""
        self._over.set()

    def __repr__(self) -> str:
        state = "over" if self._over.is_set() else "under way"
        full = ", no room for more" if self.full else ""
        return (
            f"<Reading of {self.label}: {self.read} results, {self.nbytes:,} bytes, {state}{full}>"
        )


class Ahead:
    """One thread that reads for a memory, while there is something to read.

    What it reads is put on the shelf as a call would have put it, checked as then, unless it would
    push something off, or something was to be forgotten meanwhile.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._jobs: deque[Reading] = deque()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def read(self, label: str, keys: list[str]) -> Reading:
        """Read the results of these keys, of those that are on disk."""
        return self._begin(Reading(label, lambda: keys, used=True))

    def read_all(self, label: str) -> Reading:
        """Read the results of a function, those used last first."""
        objects = self._kept.objects
        wanted = (lambda: ()) if objects is None else functools.partial(_of, objects, label)
        return self._begin(Reading(label, wanted, used=False))

    def close(self) -> None:
        """End what is under way, and wait for that."""
        self._closed = True
        with self._guard:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _begin(self, job: Reading) -> Reading:
        if self._kept.objects is None:
            job.end()
            return job
        with self._guard:
            self._jobs.append(job)
            if self._thread is None or not self._thread.is_alive():  # a fork has no threads
                self._thread = threading.Thread(target=self._run, name="mmsb ahead", daemon=True)
                self._thread.start()
        return job

    def _run(self) -> None:
        while True:
            with self._guard:
                if not self._jobs:
                    self._thread = None
                    return
                job = self._jobs.popleft()
            try:
                self._do(job)
            except StoreError:
                pass  # what cannot be listed is not read ahead
            finally:
                job.end()

    def _do(self, job: Reading) -> None:
        shelf = self._kept.shelf
        for key in job.wanted():
            if self._closed or job.full:
                return
            if key in shelf:
                continue
            since = shelf.version
            item = self._kept.read(key, "ahead", used=job.used)
            if item is None:
                continue
            job.full = not shelf.has_room(item.nbytes)
            shelf.put(key, item, since=since, spare=True)
            if key in shelf:
                job.read += 1
                job.nbytes += item.nbytes
                self._kept.tallies.of(job.label).ahead(item.nbytes)


def _of(objects: Objects, label: str) -> Iterator[str]:
    stored = sorted(objects.stored(), key=lambda item: -item.used_ns)
    return (item.key for item in stored if objects.label_of(item) == label)
