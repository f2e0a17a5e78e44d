"""Finding all the damage of a checkpoint, not only the first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from mmsb_torch.errors import CorruptStoreError, MMSBError, StoreError
from mmsb_torch.runtime.store.catalog import CheckpointRef, folder_tx
from mmsb_torch.runtime.store.files import FILES, Files, StrPath, explained
from mmsb_torch.runtime.store.manifest import MANIFEST, Manifest, read_index, read_manifest
from mmsb_torch.runtime.store.staging import is_folder
from mmsb_torch.runtime.store.streams import FileRecord, open_file
from mmsb_torch.runtime.store.tensorfile import check_size, check_tensors


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged file: somewhere in its bytes `[start, stop)`, or those are missing or too many.

    A digest covers a whole file, or a record of a log, so the range is no finer than that.
    """

    path: Path
    start: int
    stop: int
    problem: str
    torn: bool = False
    """Not damage, as far as anybody can tell, but the end of a log that was never written whole."""
    transactions: range = range(0)
    """Those that cannot be read, or not all of them, because of it."""

    def __str__(self) -> str:
        kind = "torn tail" if self.torn else "damage"
        return f"{kind} in {str(self.path)!r}, bytes {self.start} to {self.stop}: {self.problem}"


Checked: TypeAlias = dict[tuple[int, int, int, str], tuple[str, ...]]
"""Tensor files that were checked: device, inode, size and digest, and the tensors' names."""


def verify_checkpoint(
    folder: StrPath,
    files: Files = FILES,
    store: str | None = None,
    checked: Checked | None = None,
) -> list[Damage]:
    """Read the whole checkpoint in `folder` and return what is damaged: nothing, if it would load.

    Needs little memory. Reads only; re-entrant. If the manifest is damaged nothing else can be
    judged, and only it is named. Files that the manifest does not list are ignored.

    Args:
        folder: the checkpoint's.
        files: the disk.
        store: uuid of the store it must belong to; None takes any.
        checked: files that checkpoints share need be read once only; what is found good is entered.

    Raises:
        UnsupportedError: a newer format or an unknown required feature.
    """
    folder = Path(folder)
    tx = folder_tx(folder)
    concerned = range(0) if tx is None else range(tx, tx + 1)
    found = _damages(folder, files, store, {} if checked is None else checked)
    return [replace(item, transactions=concerned) for item in found]


def _damages(folder: Path, files: Files, store: str | None, checked: Checked) -> list[Damage]:
    try:
        manifest = checked_manifest(folder, files, store)
    except (CorruptStoreError, StoreError) as error:
        return [damage_of(folder / MANIFEST, None, error, files)]
    found: list[Damage] = []
    weight_map: dict[str, str] | None = None
    try:
        weight_map = read_index(folder, manifest, files)
    except (CorruptStoreError, StoreError) as error:
        found.append(damage_of(folder / manifest.index.name, manifest.index, error, files))
    for record in manifest.shards:
        try:
            names = _names(folder / record.name, record, files, checked)
            if weight_map is not None:
                check_names(folder, record.name, weight_map, names)
        except (CorruptStoreError, StoreError) as error:
            found.append(damage_of(folder / record.name, record, error, files))
    return found


def _names(path: Path, record: FileRecord, files: Files, checked: Checked) -> tuple[str, ...]:
    with explained("look at", path):
        try:
            status = files.lstat(path)
        except FileNotFoundError:
            return check_tensors(path, record, files)  # which says what is wrong
    key = (status.st_dev, status.st_ino, record.nbytes, record.digest)
    if key not in checked:
        checked[key] = check_tensors(path, record, files)
    return checked[key]


def checked_manifest(folder: Path, files: Files, store: str | None = None) -> Manifest:
    """Read the manifest; check that folder, manifest and store belong together.

    Raises:
        CorruptStoreError: damage, or the folder was renamed or comes from another store.
        UnsupportedError, StoreError: see `manifest.read_manifest`.
    """
    if not is_folder(folder, files):
        raise CorruptStoreError(f"{str(folder)!r} is no folder: expected a checkpoint.")
    manifest = read_manifest(folder, files)
    if (tx := folder_tx(folder)) is not None and tx != manifest.tx:
        raise CorruptStoreError(
            f"{str(folder / MANIFEST)!r}: expected transaction {tx} as the folder's name says, found "
            f"{manifest.tx}. Was the folder renamed?"
        )
    if store is not None and store != manifest.store:
        raise CorruptStoreError(
            f"{str(folder / MANIFEST)!r} belongs to another store: expected {store}, found "
            f"{manifest.store}. Was the folder copied here?"
        )
    return manifest


def check_newest(ref: CheckpointRef, store: str, files: Files) -> None:
    """Check manifest and sizes: cheap, and enough to see a truncated or half-deleted folder.

    Raises:
        CorruptStoreError: older checkpoints had better stay.
    """
    try:
        manifest = checked_manifest(ref.path, files, store)
        for record in manifest.files:
            with open_file(ref.path / record.name, files) as source:
                check_size(source, record)
    except CorruptStoreError as error:
        raise CorruptStoreError(
            f"{error} It is in the newest checkpoint, so no older one was removed."
        ) from error


def check_names(
    folder: Path, file: str, weight_map: Mapping[str, str], names: Iterable[str]
) -> None:
    """Raise CorruptStoreError if the tensors in a file are not those the index says."""
    expected = {name for name, holder in weight_map.items() if holder == file}
    if difference := expected ^ set(names):
        raise CorruptStoreError(
            f"{str(folder / file)!r} and the index disagree about tensor {min(difference)!r}."
        )


def damage_of(path: Path, record: FileRecord | None, error: MMSBError, files: Files) -> Damage:
    """Describe a file that failed: a wrong size gives the range between the sizes.

    Args:
        path: the file.
        record: what it should be, if that is known.
        error: what was wrong with it.
        files: the disk.
    """
    try:
        with explained("look at", path):
            nbytes = files.lstat(path).st_size
    except StoreError:
        nbytes = 0
    if record is None or record.nbytes == nbytes:
        return Damage(path, 0, nbytes, str(error))
    return Damage(path, min(nbytes, record.nbytes), max(nbytes, record.nbytes), str(error))
