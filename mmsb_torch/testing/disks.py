"""Disks that fail: for tests of what survives kills, power cuts and errors.

Each is a `Files` object that `open_on(disk, path)` opens a memory on. `FailingDisk` fails the n-th
system call, `ShortDisk` writes and reads a little at a time, and `RecordingDisk` notes every change so
that `crash_states` can lay out what a crash at any moment may leave.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsb_torch.errors import StoreError
from mmsb_torch.memory import Memory
from mmsb_torch.memory.opening import open_on
from mmsb_torch.runtime.store import DurableLog
from mmsb_torch.runtime.store.files import Files

__all__ = [
    "Crash",
    "FailingDisk",
    "RecordingDisk",
    "ShortDisk",
    "abandon",
    "crash_states",
    "open_on",
]


def abandon(memory: Memory) -> None:
    """Leave a memory as `kill -9` would: nothing more is written, and its lock is given back."""
    router = memory._router  # noqa: SLF001 - a kill asks nobody
    log = router.log
    if isinstance(log, DurableLog) and log.writer is not None:
        log.writer.give_up(StoreError("killed"))
    router.shut()
    try:
        log.close()
    finally:
        if memory._store is not None:  # noqa: SLF001
            memory._store.close()  # noqa: SLF001


class FailingDisk(Files):
    """The real disk, never waited for, whose `nth` call (from 0) fails: once, or from then on.

    A call that gives a descriptor back fails after it has done so, as close(2) does. `calls` has the
    names of all calls so far; `nth=None` only counts. `only` names the calls that count. With `short`
    the nth call, a read or write, does half of what it was to do; those after it fail if persistent.
    """

    METHODS = (
        *("open", "close", "read", "pread", "write", "truncate", "fsync", "datasync", "lock"),
        *("unlock", "stat", "lstat", "rename", "link", "unlink", "mkdir", "rmdir", "listdir"),
    )

    def __init__(
        self,
        nth: int | None = None,
        code: int = 0,
        *,
        persistent: bool = False,
        short: bool = False,
        only: tuple[str, ...] = METHODS,
    ) -> None:
        self.calls: list[str] = []
        self._nth, self._code, self._persistent = nth, code, persistent
        self._short = short
        for name in self.METHODS:
            if name in only:
                setattr(self, name, self._wrapped(name, getattr(self, name)))

    def fsync(self, fd: int) -> None:
        """Do not wait."""

    def datasync(self, fd: int) -> None:
        """Do not wait."""

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            number = len(self.calls)
            self.calls.append(name)
            due = self._nth is not None and (
                number >= self._nth if self._persistent else number == self._nth
            )
            if not due:
                return call(*args)
            if self._short and number == self._nth:
                fd, data, *rest = args
                return call(fd, data[: max(len(data) // 2, 1)], *rest)
            if name == "close":
                call(*args)
            raise OSError(self._code, os.strerror(self._code))

        return wrapper


class ShortDisk(Files):
    """A disk that reads and writes at most `most` bytes at a time, as the system may."""

    def __init__(self, most: int = 7) -> None:
        self._most = most

    def fsync(self, fd: int) -> None:
        """Do not wait."""

    def datasync(self, fd: int) -> None:
        """Do not wait."""

    def read(self, fd: int, into: memoryview) -> int:
        """Read a little."""
        return super().read(fd, into[: self._most])

    def pread(self, fd: int, into: memoryview, offset: int) -> int:
        """Read a little."""
        return super().pread(fd, into[: self._most], offset)

    def write(self, fd: int, data: memoryview) -> int:
        """Write a little."""
        return super().write(fd, data[: self._most])


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the disk: what was done to which path."""

    what: str
    """"create", "write", "truncate", "sync", "sync folder", "rename", "link", "unlink", "mkdir",
    "rmdir"."""
    path: Path
    offset: int = 0
    data: bytes = b""
    target: Path | None = None


class RecordingDisk(Files):
    """The real disk, never waited for, that notes every change in order in `changes`."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._paths: dict[int, Path] = {}
        self._ends: dict[int, int] = {}

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        """Open, noting a file that is made."""
        fresh = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        fd = super().open(path, flags, mode)
        self._paths[fd] = path
        self._ends[fd] = os.fstat(fd).st_size if flags & os.O_APPEND else 0
        if fresh:
            self.changes.append(Change("create", path))
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        """Write, noting what and where."""
        written = super().write(fd, data)
        self.changes.append(Change("write", self._paths[fd], self._ends[fd], bytes(data[:written])))
        self._ends[fd] += written
        return written

    def truncate(self, fd: int, nbytes: int) -> None:
        """Cut the file, and note it."""
        super().truncate(fd, nbytes)
        self._ends[fd] = min(self._ends[fd], nbytes)
        self.changes.append(Change("truncate", self._paths[fd], nbytes))

    def fsync(self, fd: int) -> None:
        """Note that this was waited for."""
        path = self._paths[fd]
        self.changes.append(Change("sync folder" if path.is_dir() else "sync", path))

    def datasync(self, fd: int) -> None:
        """Note that this was waited for."""
        self.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, and note it."""
        super().rename(source, target)
        self.changes.append(Change("rename", source, target=target))

    def link(self, source: Path, target: Path) -> None:
        """Give another name, and note it."""
        super().link(source, target)
        self.changes.append(Change("link", source, target=target))

    def unlink(self, path: Path) -> None:
        """Remove, and note it."""
        super().unlink(path)
        self.changes.append(Change("unlink", path))

    def mkdir(self, path: Path) -> None:
        """Make a folder, and note it."""
        super().mkdir(path)
        self.changes.append(Change("mkdir", path))

    def rmdir(self, path: Path) -> None:
        """Remove a folder, and note it."""
        super().rmdir(path)
        self.changes.append(Change("rmdir", path))


@dataclass(frozen=True, slots=True)
class Crash:
    """One state of the disk after a crash, laid out in `path`."""

    path: Path
    after: int
    """How many changes had been made."""
    how: str
    """"killed" (all of them are there), "torn" (the last write in part), "unsynced lost" (a power
    cut: nothing that was not waited for), "some lost" (a power cut: any part of that is lost or torn,
    so that what came later may be there without what came before)."""


def crash_states(
    disk: RecordingDisk,
    root: Path,
    into: Path,
    numbers: random.Random,
    share: float = 1.0,
    *,
    draws: int = 1,
    since: int = 0,
) -> Iterator[Crash]:
    """Every state that a crash may leave, of a share of the moments; each folder is the caller's.

    Names (files made, renamed, removed) are taken to be durable once their folder was synced, and
    contents once the file was; renames and removals that were not are lost or kept as a whole.

    Args:
        disk: what was done.
        root: the folder whose states are wanted; changes elsewhere are left out.
        into: where the states are laid out, each under its own name.
        numbers: what decides which moments, and what is lost.
        share: of the moments, 0 to 1.
        draws: how often it is drawn where a write is torn and which changes are lost; what was drawn
            at that moment before is left out.
        since: the first moment, in changes.
    """
    ways = ("killed", *("torn",) * draws, "unsynced lost", *("some lost",) * draws)
    for after in range(since, len(disk.changes) + 1):
        if numbers.random() >= share:
            continue
        changes = disk.changes[:after]
        unsynced, seen = _unsynced(changes), set()
        for number, how in enumerate(ways):
            if how == "torn" and (after == 0 or changes[-1].what != "write"):
                continue
            damage = _damage(changes, unsynced, how, numbers)
            if (how, tuple(damage.items())) in seen:
                continue
            seen.add((how, tuple(damage.items())))
            path = into / f"{after:06d} {number} {how}" / root.name
            _lay_out(_replay(changes, damage), root, path)
            yield Crash(path, after, how)


def _damage(
    changes: list[Change], unsynced: list[int], how: str, numbers: random.Random
) -> dict[int, int]:
    """What a crash does to changes, by number: how many bytes of a write are left; -1: it is lost."""
    if how == "torn":
        return {len(changes) - 1: numbers.randrange(len(changes[-1].data))}
    if how == "unsynced lost":
        return dict.fromkeys(unsynced, -1)
    damage = {}
    for number in unsynced if how == "some lost" else ():
        if numbers.random() < 0.5:
            data, torn = changes[number].data, numbers.random() < 0.5
            damage[number] = numbers.randrange(len(data)) if data and torn else -1
    return damage


def _replay(changes: list[Change], damage: dict[int, int]) -> dict[Path, bytes | None]:
    """Paths and contents (None: a folder) after a crash."""
    state: dict[Path, bytes | None] = {}
    for number, change in enumerate(changes):
        left = damage.get(number)
        if left != -1:
            _apply(state, change, left)
    return state


def _unsynced(changes: list[Change]) -> list[int]:
    """The changes that were not waited for: a power cut may take them away."""
    found: list[int] = []
    for number, change in enumerate(changes):
        if change.what in {"write", "truncate"}:
            durable = _synced_later(changes, number, "sync", _names_of(changes, number))
        elif change.what in {"create", "mkdir", "rename", "link", "unlink", "rmdir"}:
            folders = {(change.target or change.path).parent}
            durable = _synced_later(changes, number, "sync folder", folders)
            if change.what == "create":  # an fsync of a new file brings its name along
                durable |= _synced_later(changes, number, "sync", _names_of(changes, number))
        else:
            continue
        if not durable:
            found.append(number)
    return found


def _names_of(changes: list[Change], number: int) -> set[Path]:
    """What the file of a change is called from then on."""
    names = {changes[number].path}
    for later in changes[number:]:
        if later.what == "rename" and later.target is not None:
            names |= {
                later.target / name.relative_to(later.path)
                for name in list(names)
                if name.is_relative_to(later.path)
            }
    return names


def _synced_later(changes: list[Change], number: int, what: str, names: set[Path]) -> bool:
    return any(later.what == what and later.path in names for later in changes[number:])


def _apply(state: dict[Path, bytes | None], change: Change, torn: int | None) -> None:
    path, content = change.path, state.get(change.path)
    if change.what == "create":
        state[path] = b""
    elif change.what == "mkdir":
        state[path] = None
    elif change.what == "write" and content is not None:
        data = change.data if torn is None else change.data[:torn]
        before = content[: change.offset].ljust(change.offset, b"\0")
        state[path] = before + data + content[change.offset + len(data) :]
    elif change.what == "truncate" and content is not None:
        state[path] = content[: change.offset]
    else:
        _rename(state, change)


def _rename(state: dict[Path, bytes | None], change: Change) -> None:
    path, target = change.path, change.target
    if change.what in {"unlink", "rmdir"}:
        state.pop(path, None)
    elif target is not None and change.what == "link" and state.get(path) is not None:
        state[target] = state[path]
    elif target is not None and change.what == "rename":
        for name in [name for name in state if name.is_relative_to(target)]:
            del state[name]
        for name in [name for name in state if name.is_relative_to(path)]:
            state[target / name.relative_to(path)] = state.pop(name)


def _lay_out(state: dict[Path, bytes | None], root: Path, into: Path) -> None:
    into.mkdir(parents=True)
    for path, content in sorted(state.items()):
        if not path.is_relative_to(root) or path == root:
            continue
        target = into / path.relative_to(root)
        if not target.parent.is_dir():  # its folder did not survive, and so did not it
            continue
        if content is None:
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(content)
