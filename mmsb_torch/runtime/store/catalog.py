"""Which checkpoints a store has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mmsb_torch.runtime.store.files import FILES, Files, StrPath, exists, explained
from mmsb_torch.runtime.store.identity import CHECKPOINTS, IDENTITY
from mmsb_torch.runtime.store.manifest import MANIFEST
from mmsb_torch.runtime.store.staging import leftovers

MAX_TX = (1 << 64) - 1

_NAME = re.compile(r"[0-9]{20}")


@dataclass(frozen=True, slots=True, order=True)
class CheckpointRef:
    """Where the checkpoint after transaction `tx` is. Its content has not been looked at."""

    tx: int
    path: Path


def folder_name(tx: int) -> str:
    """Return the name of the folder for transaction `tx`."""
    return f"{tx:020d}"


def folder_tx(path: Path) -> int | None:
    """Return the transaction a folder's name stands for, or None if it is not such a name."""
    if not _NAME.fullmatch(path.name) or (tx := int(path.name)) > MAX_TX:
        return None
    return tx


def list_checkpoints(root: StrPath, files: Files = FILES) -> list[CheckpointRef]:
    """Return the checkpoints of the store at `root`, oldest first, by their names alone.

    Temporary folders and foreign names are ignored. A damaged checkpoint is listed, so that nobody
    takes an older one for the newest. One whose replacement was killed between two renames is
    found under its temporary name.

    Raises:
        StoreError: the folder cannot be listed.
    """
    folder = Path(root) / CHECKPOINTS
    if not exists(folder, files):
        return []
    # One listing for both: at each moment a checkpoint being replaced has one name or the other.
    with explained("list", folder):
        names = files.listdir(folder)
    published = {folder / name: folder / name for name in names}
    aside = {
        target: folder / name
        for name, (target, kind) in leftovers(folder, names).items()
        if kind == "old"
    }
    return sorted(
        CheckpointRef(tx, path)
        for target, path in (aside | published).items()
        if (tx := folder_tx(target)) is not None
    )


def is_checkpoint(path: Path, files: Files = FILES) -> bool:
    """Tell whether `path` is a checkpoint's own folder, damaged or not, rather than a store."""
    if exists(path / MANIFEST, files):
        return True
    return folder_tx(path) is not None and not exists(path / IDENTITY, files)
