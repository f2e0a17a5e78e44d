"""How far the reading is: a line on the terminal for what takes longer than two seconds."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from mmsb_torch.runtime.store import FILES, Files

PATIENCE_SECONDS = 2.0


class CountingFiles(Files):
    """The disk, telling `advance` how many bytes were read; any thread may use it."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def read(self, fd: int, into: memoryview) -> int:
        """As `Files.read`."""
        count = super().read(fd, into)
        self._advance(count)
        return count

    def pread(self, fd: int, into: memoryview, offset: int) -> int:
        """As `Files.pread`."""
        count = super().pread(fd, into, offset)
        self._advance(count)
        return count


@contextlib.contextmanager
def reading(title: str, total: int | None = None) -> Iterator[Files]:
    """Give a disk to read from; what is read through it moves a bar on stderr, if that is a terminal.

    Args:
        title: what is being done.
        total: bytes that will be read, if that is known.
    """
    if not sys.stderr.isatty():
        yield FILES
        return
    with _bar(title, total) as (bar, task):
        yield CountingFiles(lambda count: bar.advance(task, count))


@contextlib.contextmanager
def writing(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """Give what to call with (bytes written, bytes in all): it moves a bar, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with _bar(title, None) as (bar, task):
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def _bar(title: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(title, total=total)
    timer = threading.Timer(PATIENCE_SECONDS, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield bar, task
    finally:
        timer.cancel()
        timer.join()  # else it could start what was just stopped
        bar.stop()
