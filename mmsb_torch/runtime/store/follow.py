"""Following a log that somebody writes: each record once, when it is whole."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from mmsb_torch.errors import CorruptLogError, StoreError
from mmsb_torch.runtime.store.files import FILES, Files
from mmsb_torch.runtime.store.frame import HEADER_BYTES, Kind
from mmsb_torch.runtime.store.logfile import Bad, LogFile, Record, list_logs
from mmsb_torch.runtime.store.logwriter import End
from mmsb_torch.runtime.store.pastlog import collected
from mmsb_torch.runtime.store.recovery import Found


class Follower:
    """Reads what a writer appends, checked like everything that is read: digests and the chain.

    For one thread. Takes no lock and writes nothing.

    Args:
        root: the store's folder.
        uuid: the store's.
        after: transactions up to this one are not given.
        end: where the log was read up to; from its beginning if left out.
        files: the disk.
    """

    def __init__(
        self,
        root: Path,
        uuid: str,
        after: int,
        end: End = End(None, 0, 0),  # noqa: B008 - immutable
        files: Files = FILES,
    ) -> None:
        self._root, self._uuid, self._files = root, uuid, files
        self._after = self._seen = after
        self._path = end.path
        self._at = end.nbytes or HEADER_BYTES
        """Where the next record begins."""
        self._chain = None if end.path is None else end.chain

    def poll(self) -> Iterator[Found]:
        """COMMIT records that came since the last time, and ROLLBACK records that void the one before.

        A record that is not whole yet comes next time.

        Raises:
            CollectedError: the writer has removed what was not read here yet.
            CorruptLogError: what came is damaged, or does not follow.
            UnsupportedError, StoreError: it cannot be read.
        """
        # first: no file in it grows once the next one is there
        logs = list_logs(self._root, self._files)
        paths = [path for _, path in logs]
        gone = self._path is not None and self._path not in paths
        if self._path is None:
            begun = [path for first, path in logs if first <= self._after + 1]
            paths = paths[max(len(begun) - 1, 0) :]
        else:
            paths = [path for path in paths if path.name >= self._path.name]
        if gone and not paths:
            raise collected("what followed the last transaction read", self._root)
        for path in paths:
            yield from self._read(path, newest=path == paths[-1])

    def _read(self, path: Path, *, newest: bool) -> Iterator[Found]:
        try:
            file = LogFile(path, self._uuid, self._files)
        except StoreError as error:
            if error.errno == errno.ENOENT:
                raise collected("what was about to be read", self._root) from error
            raise
        try:
            if file.header is None and newest:
                return  # it is being begun
            if path != self._path:
                self._begin(file)
                self._path, self._at = path, HEADER_BYTES
            if file.nbytes < self._at:
                raise CorruptLogError(
                    f"{str(path)!r} became shorter: expected {self._at} bytes or more, found "
                    f"{file.nbytes}. Was the store replaced?"
                )
            for item in self._items(file):
                if isinstance(item, Bad):
                    self._stop(path, item, newest=newest)
                    return
                self._at, self._chain = item.offset + item.header.span, item.chain
                self._seen = max(self._seen, item.header.tx)
                if (
                    item.header.kind in {Kind.COMMIT, Kind.ROLLBACK}
                    and item.header.tx > self._after
                ):
                    yield Found(path, item, file.body(item))
        finally:
            file.close()

    def _begin(self, file: LogFile) -> None:
        """Check that nothing between the last file and this one was collected."""
        header = file.header
        if header is not None and header.first > self._seen + 1 and header.chain != self._chain:
            raise collected(f"transaction {self._seen + 1}", self._root)

    def _items(self, file: LogFile) -> Iterator[Record | Bad]:
        try:
            yield from file.records(self._chain, self._at)
        except CorruptLogError:  # its tail was cut while it was read: the next time tells
            return

    def _stop(self, path: Path, bad: Bad, *, newest: bool) -> None:
        if not (bad.torn and newest):
            raise CorruptLogError(
                f"the log is damaged: {str(path)!r}, bytes {bad.start} to {bad.stop}: {bad.why}. "
                "`verify` names all damage."
            )
