"""Collecting: removing checkpoints, log files and payloads of the past, and what killed writers left.

A DROP record that says which transactions go is on the disk before anything is removed, so a file
that is not there is either in it or missed. Log files go first, then payloads: who finds a payload
gone and its log file too was overtaken; one without the other is damage.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmsb_torch.errors import StoreError
from mmsb_torch.runtime.store.catalog import CheckpointRef, list_checkpoints
from mmsb_torch.runtime.store.files import (
    FILES,
    Files,
    StrPath,
    explained,
    sync_folder,
)
from mmsb_torch.runtime.store.identity import CHECKPOINTS, read_identity
from mmsb_torch.runtime.store.logfile import DELTAS, LOG, list_logs
from mmsb_torch.runtime.store.manifest import MANIFEST
from mmsb_torch.runtime.store.retention import Choice, Kept, Retention, doomed
from mmsb_torch.runtime.store.spans import merged, spelled
from mmsb_torch.runtime.store.staging import drop_folder, sweep
from mmsb_torch.runtime.store.verification import check_newest

_SEGMENT = re.compile(r"([0-9]{20})-r[0-9]{5}\.safetensors")
_TORN = re.compile(r"[0-9]{20}\.tlog\.torn-[0-9a-f]+")


class _File(NamedTuple):
    path: Path
    inode: tuple[int, int]
    nbytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What collecting removes; nothing has been removed yet."""

    checkpoints: tuple[CheckpointRef, ...]
    transactions: tuple[range, ...]
    """Those whose deltas go."""
    logs: tuple[Path, ...]
    payloads: tuple[Path, ...]
    leftovers: tuple[Path, ...]
    """What killed or failing writers left: payloads that no record names, copies of torn tails."""
    nbytes: int
    """How many bytes become free."""
    left: int
    """How many the store has afterwards."""
    budget: int | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is removed."""
        return not (self.checkpoints or self.logs or self.payloads or self.leftovers)

    @property
    def over_budget(self) -> bool:
        """Whether what must stay is more than `max_bytes`."""
        return self.budget is not None and self.left > self.budget

    def __str__(self) -> str:
        if self.empty:
            return f"nothing to collect; the store has {self.left} bytes"
        refs = ", ".join(str(ref.tx) for ref in self.checkpoints) or "none"
        counts = len(self.logs), len(self.payloads), len(self.leftovers)
        lines = [
            f"checkpoints: {refs}",
            f"transactions: {spelled(self.transactions)}",
            "log files: {}, payload files: {}, leftovers: {}".format(*counts),
            f"bytes: {self.nbytes} become free, {self.left} stay",
        ]
        if self.over_budget:
            lines.append(f"the budget of {self.budget} bytes is too small for what must stay")
        return "\n".join(lines)


class Survey:
    """The files of a store, and what becomes of them.

    Args:
        root: the store.
        last: its newest transaction. A checkpoint of it that is not written yet may be counted in.
        named: names of the payload files that records name.
        planned: plan as if there were a checkpoint of `last`, of so many bytes.
        files: the disk.

    Raises:
        StoreError: it cannot be looked at.
    """

    def __init__(
        self,
        root: Path,
        last: int,
        named: Iterable[str],
        files: Files = FILES,
        *,
        planned: int | None = None,
    ) -> None:
        self._planned = planned
        self._refs = list_checkpoints(root, files)
        self.checkpoints = sorted(
            {ref.tx for ref in self._refs} | set([] if planned is None else [last])
        )
        logs = list_logs(root, files)
        firsts = [first for first, _ in logs]
        self._logs = [
            (range(first, end), path)
            for (first, path), end in zip(logs, [*firsts[1:], last + 1], strict=bool(logs))
        ]
        self._all = list(_walk(root, files))
        named = set(named)
        self._payloads: list[tuple[int, _File]] = []
        self._leftovers: list[_File] = []
        for file in self._all:
            self._sort_in(file, root, named)

    def _sort_in(self, file: _File, root: Path, named: set[str]) -> None:
        segment = _SEGMENT.fullmatch(file.path.name)
        if file.path.parent == root / DELTAS and segment:
            if file.path.name in named:
                self._payloads.append((int(segment[1]), file))
            else:
                self._leftovers.append(file)
        torn = file.path.parent == root / LOG and _TORN.fullmatch(file.path.name)
        if torn and file.mtime_ns < self._newest_ns():
            self._leftovers.append(file)

    def _newest_ns(self) -> int:
        """When the newest checkpoint was made; what was torn before is of no use any more."""
        newest = self._refs[-1].path / MANIFEST if self._refs else None
        return next((file.mtime_ns for file in self._all if file.path == newest), 0)

    def plan(self, rule: Retention, tagged: Iterable[int], last: int) -> Plan:
        """What the rule leaves, and what goes."""
        choice = Choice(rule, self.checkpoints, tagged, last)
        return self._plan(choice.fit(lambda kept: self._plan(kept).left), rule.max_bytes)

    def _plan(self, kept: Kept, budget: int | None = None) -> Plan:
        refs = tuple(ref for ref in self._refs if ref.tx not in kept.checkpoints)
        # the last one is being written; a checkpoint would begin another
        older = self._logs if self._planned is not None else self._logs[:-1]
        gone = doomed([span for span, _ in older], kept)
        logs = tuple(path for span, path in older if span in gone)
        payloads = tuple(
            file.path for tx, file in self._payloads if any(tx in span for span in gone)
        )
        leftovers = tuple(file.path for file in self._leftovers)
        paths, folders = {*logs, *payloads, *leftovers}, {ref.path for ref in refs}
        before = {file.inode: file.nbytes for file in self._all}
        after = {
            file.inode: file.nbytes
            for file in self._all
            if file.path not in paths and file.path.parent not in folders
        }
        freed = sum(before.values()) - sum(after.values())
        left = sum(after.values()) + (self._planned or 0)
        return Plan(refs, tuple(merged(gone)), logs, payloads, leftovers, freed, left, budget)


def _walk(folder: Path, files: Files) -> Iterable[_File]:
    with explained("list", folder):
        names = files.listdir(folder)
    for name in sorted(names):
        path = folder / name
        with explained("look at", path):
            try:
                status = files.lstat(path)
            except FileNotFoundError:
                continue
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(path, files)
        elif stat.S_ISREG(status.st_mode):
            inode = (status.st_dev, status.st_ino)
            yield _File(path, inode, status.st_size, status.st_mtime_ns)


def remove(root: Path, plan: Plan, files: Files = FILES) -> None:
    """Remove what a plan names. The caller holds the writer's lock and wrote the DROP record.

    Killed at any moment it leaves nothing that is half there; the next collection takes up the rest.

    Raises:
        StoreError: the disk fails; what is left is whole.
    """
    for ref in plan.checkpoints:
        drop_folder(ref.path, files)
    for folder, paths in (
        (root / LOG, plan.logs),
        (root / DELTAS, plan.payloads),
        (None, plan.leftovers),
    ):
        for path in paths:
            with explained("remove", path), contextlib.suppress(FileNotFoundError):
                files.unlink(path)
        if paths and folder is not None:
            sync_folder(folder, files)


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
    if not list_checkpoints(root, files):
        return []
    sweep(root / CHECKPOINTS, files)
    refs = list_checkpoints(root, files)
    if refs[:-keep]:
        check_newest(refs[-1], identity.uuid, files)
    for ref in refs[:-keep]:
        drop_folder(ref.path, files)
    return refs[:-keep]
