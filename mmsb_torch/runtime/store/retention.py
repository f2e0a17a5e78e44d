"""Keeping the last few checkpoints."""

from __future__ import annotations

from pathlib import Path

from mmsb_torch.errors import CorruptStoreError, StoreError
from mmsb_torch.runtime.store.catalog import CheckpointRef, list_checkpoints
from mmsb_torch.runtime.store.files import FILES, Files, StrPath
from mmsb_torch.runtime.store.identity import CHECKPOINTS, read_identity
from mmsb_torch.runtime.store.staging import drop_folder, sweep
from mmsb_torch.runtime.store.streams import open_file
from mmsb_torch.runtime.store.tensorfile import check_size
from mmsb_torch.runtime.store.verification import checked_manifest


def retain(root: StrPath, keep: int, files: Files = FILES) -> list[CheckpointRef]:
    """Remove all but the newest `keep` checkpoints, oldest first, and return what was removed.

    The caller holds the writer's lock. Killed at any moment, it leaves every checkpoint whole or
    gone. The newest is never removed, and if its manifest or the sizes of its files are not right,
    nothing is: an older one may be the last that can be read.

    Raises:
        StoreError: `keep` is below 1, no store there, or the disk fails.
        CorruptStoreError: the newest checkpoint is damaged; nothing was removed.
    """
    root = Path(root)
    if keep < 1:
        raise StoreError(f"keep is {keep}: expected at least 1, the newest checkpoint stays.")
    identity = read_identity(root, files)
    refs = list_checkpoints(root, files)
    if not refs:
        return []
    sweep(root / CHECKPOINTS, files)
    refs = list_checkpoints(root, files)
    doomed = refs[:-keep]
    if doomed:
        _check_newest(refs[-1], identity.uuid, files)
    for ref in doomed:
        drop_folder(ref.path, files)
    return doomed


def _check_newest(ref: CheckpointRef, store: str, files: Files) -> None:
    """Check manifest and sizes: cheap, and enough to see a truncated or half-deleted folder."""
    try:
        manifest = checked_manifest(ref.path, files, store)
        for record in manifest.files:
            with open_file(ref.path / record.name, files) as source:
                check_size(source, record)
    except CorruptStoreError as error:
        raise CorruptStoreError(
            f"{error} It is in the newest checkpoint, so no older one was removed."
        ) from error
