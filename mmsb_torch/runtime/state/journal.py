"""What changed lately in a page, by epoch: every "changed since ..." question is a cursor on it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mmsb_torch.types import Region

_LONGEST = 512
_COALESCED = 384  # many at a time: one union of many costs little more than of two


class Journal:
    """The regions of a page's recent deltas, newest last.

    A cursor is an epoch: `since(epoch)` is what changed after it. The oldest entries are coalesced
    when the journal grows long, so an old cursor may be told more than changed, never less; the
    checkpoint's cursor is kept exact. To a cursor from before the journal began everything changed.
    Rows that a page got after a cursor are among what changed since. Not locked: the router writes
    under the table lock.
    """

    __slots__ = ("_entries", "_floor", "checkpoint", "pending")

    def __init__(self, epoch: int = 0) -> None:
        self._entries: list[tuple[int, Region]] = []
        self._floor = epoch
        """The epoch from which on every change is noted."""
        self.checkpoint = epoch
        """The epoch that the last checkpoint holds."""
        self.pending = epoch
        """The epoch that a checkpoint being written will hold."""

    def add(self, epoch: int, region: Region) -> None:
        """Note that the delta leading to `epoch` changed `region`."""
        entries = self._entries
        before = entries[-1][1].shape if entries else region.shape
        if before != region.shape and not _alike(before, region.shape):  # of a derived page
            entries.clear()
            self._floor = epoch - 1
            region = Region.all(region.shape)
        entries.append((epoch, region))
        if len(entries) > _LONGEST:
            self._coalesce()

    def since(self, epoch: int, shape: tuple[int, ...]) -> Region:
        """What changed after `epoch` in a page that now has `shape`; everything if that is not known."""
        if epoch < self._floor:
            return Region.all(shape)
        return _joined(self.parts(epoch), shape)

    def parts(self, epoch: int) -> list[Region]:
        """The regions that `since` joins, oldest first, as far as they are known."""
        return [region for at, region in self._entries if at > epoch]

    def _coalesce(self) -> None:
        """Merge the oldest entries, but never across a checkpoint's epoch."""
        merged: list[tuple[int, Region]] = []
        for _, group in itertools.groupby(self._entries[:_COALESCED], self._side):
            run = list(group)
            epoch, last = run[-1]
            merged.append((epoch, _joined([region for _, region in run], last.shape)))
        self._entries[:_COALESCED] = merged

    def _side(self, item: tuple[int, Region]) -> tuple[bool, bool]:
        return item[0] <= self.checkpoint, item[0] <= self.pending


def _joined(regions: Sequence[Region], shape: tuple[int, ...]) -> Region:
    """What any of the regions covers, of a page that has `shape` by now."""
    if not all(_alike(region.shape, shape) for region in regions):
        return Region.all(shape)
    device = next((region.index.device for region in regions if region.index is not None), None)
    return Region.none(shape).union(*(r.resized(shape[0], device) if shape else r for r in regions))


def _alike(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether the shapes differ in their number of rows at most."""
    return len(a) == len(b) and a[1:] == b[1:]
