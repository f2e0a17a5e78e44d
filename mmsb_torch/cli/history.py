"""The transactions of a log, without their tensors: rows to print."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmsb_torch.errors import CorruptStoreError
from mmsb_torch.runtime.store import Files, Scan, Store, list_checkpoints
from mmsb_torch.runtime.store.bodies import outline_of
from mmsb_torch.runtime.store.logfile import list_logs
from mmsb_torch.runtime.store.manifest import Manifest, read_manifest
from mmsb_torch.runtime.store.recovery import Found
from mmsb_torch.runtime.store.sealed import Fields


class Rows:
    """Makes rows of transactions. Knows the pages of the newest checkpoint, and learns newer ones.

    Args:
        store: open for reading.
        files: the disk.

    Raises:
        CorruptStoreError, UnsupportedError, StoreError: the newest checkpoint cannot be read.
    """

    def __init__(self, store: Store, files: Files) -> None:
        self._store, self._files = store, files
        self._names: dict[int, str] = {}
        self._after = 0
        manifest = newest_manifest(store.path, files)
        if manifest is not None:
            self._after = manifest.tx
            self._learn(
                Fields(manifest.registry, f"the registry of checkpoint {manifest.tx}"), "pages"
            )

    def catch_up(self) -> int:
        """Learn the pages made since the newest checkpoint; returns the last transaction there is.

        Raises:
            as `transactions`.
        """
        last = self._after
        for found in Scan(self._store.path, self._store.identity.uuid, last, self._files):
            last = self.of(found)["tx"]
        return last

    def of(self, found: Found) -> dict[str, Any]:
        """What a COMMIT record did, as plain data; `bytes` is what its payload takes on disk.

        Raises:
            CorruptLogError, CorruptStoreError: it does not say.
        """
        where = repr(str(found.path))
        ops, segment = outline_of(found.body, found.record, where)
        self._learn(ops, "created")
        touched = [delta.count("page") for delta in _each(ops, "deltas")]
        time_ns = ops.count("time_ns")
        return {
            "tx": found.record.header.tx,
            "time": when(time_ns),
            "time_ns": time_ns,
            "label": ops.optional("label", str),
            "step": ops.optional("step", int),
            "pages": [self._names.get(page, f"page {page}") for page in touched],
            "bytes": found.record.header.length if segment is None else segment.nbytes,
        }

    def _learn(self, fields: Fields, key: str) -> None:
        for page in _each(fields, key):
            self._names[page.count("id")] = page.get("name", str)


def _each(fields: Fields, key: str) -> Iterator[Fields]:
    return (Fields(item, key) for item in fields.get(key, list))


def transactions(store: Store, count: int | None, files: Files) -> list[dict[str, Any]]:
    """Rows of the newest `count` transactions in the log (all of them if None), oldest first.

    Raises:
        CorruptLogError, CorruptStoreError, UnsupportedError, StoreError: it cannot be read.
    """
    firsts = [first for first, _ in list_logs(store.path, files)]
    back = 1 if count is not None else len(firsts)
    while True:  # no more files than it takes: a log may be long
        after = firsts[-back] - 1 if back < len(firsts) else 0
        rows = Rows(store, files)
        scan = Scan(store.path, store.identity.uuid, max(after, 0), files)
        newest = deque((rows.of(found) for found in scan), maxlen=count)
        if back >= len(firsts) or len(newest) == count:
            return list(newest)
        back *= 2


def newest_manifest(root: Path, files: Files) -> Manifest | None:
    """The manifest of the newest checkpoint, if there is one.

    Raises:
        CorruptStoreError, UnsupportedError, StoreError: it cannot be read.
    """
    while refs := list_checkpoints(root, files):
        try:
            return read_manifest(refs[-1].path, files)
        except CorruptStoreError:
            if list_checkpoints(root, files)[-1:] == refs[-1:]:
                raise  # else a live writer has replaced it meanwhile
    return None


def when(time_ns: int) -> str | None:
    """A moment as ISO 8601 in UTC; None if the calendar ends before it."""
    try:
        return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None
