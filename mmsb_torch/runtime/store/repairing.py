"""Repair: a damaged store goes on from the newest state that is whole; nothing is thrown away.

What is damaged, and of the log what comes after damage, is moved into the store's folder `damaged`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmsb_torch.errors import CorruptLogError, CorruptStoreError, StoreError
from mmsb_torch.runtime.store.catalog import CheckpointRef, list_checkpoints
from mmsb_torch.runtime.store.files import FILES, Files, exists, explained, sync_folder
from mmsb_torch.runtime.store.logfile import Bad, list_logs
from mmsb_torch.runtime.store.recovery import Found, Scan, Tail, cut_tail, transactions
from mmsb_torch.runtime.store.verification import Checked, verify_checkpoint

DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair does, or would do."""

    tx: int
    """The last transaction afterwards."""
    checkpoints: list[CheckpointRef]
    """Damaged ones, which are set aside."""
    cut: Tail | None
    """Where the log is cut; the rest is set aside. None: every transaction stays."""
    logs: list[Path]
    """Later files of the log, set aside as they are."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.checkpoints or self.cut)

    def __str__(self) -> str:
        said = [f"checkpoint {ref.tx} is damaged" for ref in self.checkpoints]
        if self.cut is not None:
            said.append(f"the log is whole up to transaction {self.tx}, then {self.cut}")
        said += [f"what follows cannot be applied: {str(path)!r}" for path in self.logs]
        return "\n".join(said) or "nothing to repair"


class _Whole(Scan):
    """The log as far as it is whole, up to transaction `until` at most; `cut` says what ends it."""

    def __init__(self, root: Path, uuid: str, after: int, until: int | None, files: Files) -> None:
        super().__init__(root, uuid, after, files)
        self.cut: Tail | None = None
        self._number, self._until = after, until

    def __iter__(self) -> Iterator[Found]:
        for found in super().__iter__():
            tx, start = found.record.header.tx, found.record.offset
            if tx != self._number + 1 or self._number == self._until:
                why = f"what transaction {tx} wrote is damaged"
                if tx != self._number + 1:  # such a file may not go on with another number
                    why, start = "transactions before it are missing", 0
                self.cut = Tail(found.path, start, found.path.stat().st_size - start, why)
                return
            self._number = tx
            yield found
        self.cut = self.tail  # a COMMIT before it stands: nobody can tell whether it was voided

    def _stop(self, path: Path, bad: Bad, *, newest: bool) -> None:
        if not (bad.torn and newest):  # else the writer cuts it off anyway
            self.tail = Tail(path, bad.start, path.stat().st_size - bad.start, bad.why)

    def _check_gaps(self) -> None:
        """A gap shows in the numbers."""


def plan_repair(root: Path, uuid: str, files: Files = FILES) -> Repair:
    """What a repair would do; reads everything that it keeps and changes nothing.

    Raises:
        CorruptStoreError: there is nothing to go on from.
        UnsupportedError: a newer format.
        StoreError: the disk fails.
    """
    checked: Checked = {}
    refs = list_checkpoints(root, files)
    bad = [ref for ref in refs if verify_checkpoint(ref.path, files, uuid, checked)]
    base = max((ref.tx for ref in refs if ref not in bad), default=0)
    logs = list_logs(root, files)
    if base == 0 and (logs[0][0] > 1 if logs else refs):
        raise CorruptStoreError(
            f"{str(root)!r} cannot be repaired: no checkpoint verifies, and the log does not begin "
            "with the first transaction. Nothing was changed; bring a copy back."
        )
    tx, cut = _whole_until(root, uuid, base, files)
    later = [] if cut is None else [path for _, path in logs if path.name > cut.path.name]
    return Repair(tx, bad, cut, later)


def _whole_until(root: Path, uuid: str, base: int, files: Files) -> tuple[int, Tail | None]:
    """The last transaction that can be rebuilt from checkpoint `base` on, and where the log is cut."""
    until = None
    while True:
        scan, last = _Whole(root, uuid, base, until, files), base
        try:
            for replayed in transactions(root, scan, base, files):
                last = replayed.transaction.tx
        except (CorruptLogError, CorruptStoreError, StoreError):
            if until == last:
                raise
            until = last  # what comes next cannot be read, and nothing later replaces all of it
            continue
        return last, scan.cut


def repair(root: Path, plan: Repair, files: Files = FILES) -> None:
    """Do what a plan says; the caller is the writer. Killed at any moment, it can be done again.

    Raises:
        StoreError: the disk fails.
    """
    if plan.empty:
        return
    aside = root / DAMAGED
    if not exists(aside, files):
        with explained("make the folder", aside):
            files.mkdir(aside)
        sync_folder(root, files)
    for path in [*reversed(plan.logs), *(ref.path for ref in plan.checkpoints)]:
        with explained("set aside", path):
            files.rename(path, aside / f"{path.name}-{secrets.token_hex(4)}")
        sync_folder(path.parent, files)
    if plan.cut is not None:
        kept = cut_tail(plan.cut, files).kept
        assert kept is not None
        with explained("set aside", kept):
            files.rename(kept, aside / kept.name)
        sync_folder(kept.parent, files)
    sync_folder(aside, files)
