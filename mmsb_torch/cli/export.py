"""A moment as one plain safetensors file."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from mmsb_torch.cli.inspection import about, value_of
from mmsb_torch.cli.moments import moment_at
from mmsb_torch.errors import StoreError
from mmsb_torch.memory import Memory
from mmsb_torch.runtime.store import FILES, write_tensors
from mmsb_torch.runtime.store.files import exists, explained, sync_folder, temporary_name


def check_target(target: Path, store: Path, *, force: bool) -> None:
    """Check that a file may be written to `target`, before the work begins.

    Raises:
        StoreError: something is there and `force` is not given, or it is inside of the store.
    """
    if target.resolve().is_relative_to(store.resolve()):
        raise StoreError(
            f"{str(target)!r} is inside of the store {str(store)!r}, which is only read: choose "
            "another place."
        )
    if not force and exists(target):
        raise StoreError(f"{str(target)!r} exists already: choose another name, or give --force.")


def write_moment(
    memory: Memory, text: str, target: Path, store: Path, *, force: bool
) -> dict[str, Any]:
    """Write the pages at a moment to `target`: whole or not at all, on the disk when this returns.

    The tensors have the pages' names. A derived page whose value of that moment is not stored is
    left out, and named in what is returned.

    Args:
        memory: opened for reading.
        text: the moment; see `moments.moment_at`.
        target: the file.
        store: the memory's folder.
        force: replace what is there.

    Raises:
        HistoryError: no such moment.
        SerializationError, UnsupportedError: a page that safetensors cannot hold.
        StoreError: see `check_target`; or the disk fails, and what was there is as it was.
    """
    check_target(target, store, force=force)
    then = moment_at(memory, text)
    values = {name: value_of(then, name) for name in then}
    tensors = {name: value for name, value in values.items() if value is not None}
    metadata = {"format": "pt", "mmsb.moment": json.dumps(about(then))}
    temporary = target.with_name(temporary_name(target.name))
    try:
        record = write_tensors(temporary, tensors, metadata)
        check_target(target, store, force=force)  # it took a while
        with explained("publish", target):
            FILES.rename(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            FILES.unlink(temporary)
    sync_folder(target.parent)
    return {
        **about(then),
        "file": str(target),
        "bytes": record.nbytes,
        "pages": list(tensors),
        "left_out": [name for name, value in values.items() if value is None],
    }
