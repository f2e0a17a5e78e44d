"""Folders that appear and disappear whole.

A folder is written under a hidden temporary name and renamed. Whatever a killed writer leaves has
a hidden name that says what it was:

- `.N.tmp-*`: being written, never published; swept away.
- `.N.old-*`: checkpoint N, moved aside by one that replaces it. While N itself is missing, this *is*
  N: readers take it, and the next writer puts it back.
- `.N.drop-*`: being removed; swept away.

Only the holder of the writer's lock may call these functions. They are re-entrant: threads of that
process do not sweep each other's folders.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmsb_torch.errors import StoreError
from mmsb_torch.runtime.store.files import (
    FILES,
    Files,
    exists,
    explained,
    sync_folder,
    temporary_name,
)

_LEFTOVER = re.compile(r"\.([0-9]{20})\.(tmp|old|drop)-[0-9a-f]{16}")

# Names in use by threads of this process; set operations are atomic, and names are random.
_in_use: set[str] = set()
os.register_at_fork(after_in_child=_in_use.clear)


@contextlib.contextmanager
def _named(target: Path, kind: str) -> Iterator[Path]:
    path = target.with_name(temporary_name(target.name, kind))
    _in_use.add(path.name)
    try:
        yield path
    finally:
        _in_use.discard(path.name)


@contextlib.contextmanager
def staged_folder(target: Path, files: Files = FILES) -> Iterator[Path]:
    """Give an empty folder to fill, and put it at `target` when the block ends well.

    The block syncs the files it writes; this syncs the folders. A folder at `target` is replaced.
    If the block raises, nothing happened.

    Raises:
        StoreError: the disk fails, or `target` is no folder. If only the last fsync failed, the new
            folder is there, complete, and may be lost in a power failure.
    """
    with _named(target, "tmp") as temporary:
        with explained("make the folder", temporary):
            files.mkdir(temporary)
        try:
            yield temporary
            sync_folder(temporary, files)
            _publish(temporary, target, files)
        except BaseException:
            with contextlib.suppress(OSError):
                remove_tree(temporary, files)
            raise


def _publish(temporary: Path, target: Path, files: Files) -> None:
    if not exists(target, files):
        with explained("publish", target):
            files.rename(temporary, target)
        sync_folder(target.parent, files)
        return
    if not is_folder(target, files):
        raise StoreError(f"{str(target)!r} is no folder: expected a checkpoint. Move it away.")
    with _named(target, "old") as aside:
        with explained("move aside", target):
            files.rename(target, aside)
        try:
            with explained("publish", target):
                files.rename(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                files.rename(aside, target)
            raise
        sync_folder(target.parent, files)
        # The new one is durable: failing to remove the old one is no failure, a sweep will.
        with contextlib.suppress(OSError):
            drop_folder(aside, files)


def drop_folder(path: Path, files: Files = FILES) -> None:
    """Remove a folder so that no half of it is ever found under its name.

    Raises:
        StoreError: the disk fails; the folder is whole, or gone by name.
    """
    number = path.name.lstrip(".").partition(".")[0]
    with _named(path.with_name(number), "drop") as doomed:
        with explained("remove", path):
            files.rename(path, doomed)
        sync_folder(path.parent, files)
        remove_tree(doomed, files)


def sweep(folder: Path, files: Files = FILES) -> None:
    """Tidy up after a killed writer: put back what was moved aside, remove the rest.

    What cannot be removed is left for the next sweep.

    Raises:
        StoreError: the folder cannot be listed, or a checkpoint not be put back.
    """
    with explained("list", folder):
        names = files.listdir(folder)
    for name, (target, kind) in leftovers(folder, names).items():
        if name in _in_use:
            continue
        path = folder / name
        if kind == "old" and not exists(target, files):
            with explained("put back", target):
                files.rename(path, target)
            sync_folder(folder, files)
        elif kind == "old":
            with contextlib.suppress(OSError):
                drop_folder(path, files)
        else:
            with contextlib.suppress(OSError):
                remove_tree(path, files)


def leftovers(folder: Path, names: Iterable[str]) -> dict[str, tuple[Path, str]]:
    """Return each hidden name among `names` with the path it stands for and its kind, sorted."""
    matches = [match for name in sorted(names) if (match := _LEFTOVER.fullmatch(name))]
    return {match[0]: (folder / match[1], match[2]) for match in matches}


def is_folder(path: Path, files: Files = FILES) -> bool:
    """Tell whether a real folder, and no link to one, is at `path`."""
    with explained("look at", path):
        try:
            return stat.S_ISDIR(files.lstat(path).st_mode)
        except FileNotFoundError:
            return False


def remove_tree(path: Path, files: Files = FILES) -> None:
    """Remove what is at `path` and below, without following links; nothing there is fine.

    Raises:
        StoreError: something could not be removed.
    """
    with explained("remove", path), contextlib.suppress(FileNotFoundError):
        if not is_folder(path, files):
            files.unlink(path)
            return
        for name in files.listdir(path):
            remove_tree(path / name, files)
        files.rmdir(path)
