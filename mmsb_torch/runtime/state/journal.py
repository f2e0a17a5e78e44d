"""What changed lately in a page, by epoch: every "changed since ..." question is a cursor on it."""

from __future__ import annotations

import itertools

from mmsb_torch.types import Region

_LONGEST = 512
_COALESCED = 384  # many at a time: one union of many costs little more than of two


class Journal:
    """The regions of a page's recent deltas, newest last.

    A cursor is an epoch: `since(epoch)` is what changed after it. The oldest entries are coalesced
    when the journal grows long, so an old cursor may be told more than changed, never less; the
    checkpoint's cursor is kept exact. Not locked: the router writes under the table lock.
    """

    __slots__ = ("_begin", "_entries", "checkpoint", "pending")

    def __init__(self, epoch: int = 0) -> None:
        self._entries: list[tuple[int, Region]] = []
        self._begin = epoch
        """It knows nothing of what led to this epoch."""
        self.checkpoint = epoch
        """The epoch that the last checkpoint holds."""
        self.pending = epoch
        """The epoch that a checkpoint being written will hold."""

    def add(self, epoch: int, region: Region) -> None:
        """Note that the delta leading to `epoch` changed `region`."""
        entries = self._entries
        if entries and entries[-1][1].shape != region.shape:  # a derived page took a new shape
            entries.clear()
            self._begin = epoch - 1
            region = Region.all(region.shape)
        entries.append((epoch, region))
        if len(entries) > _LONGEST:
            self._coalesce()

    def since(self, epoch: int, shape: tuple[int, ...]) -> Region:
        """What changed after `epoch` in a page that now has `shape`; everything if that is not known."""
        if epoch < self._begin:
            return Region.all(shape)
        parts = [region for at, region in self._entries if at > epoch]
        return Region.none(shape).union(*parts)

    def _coalesce(self) -> None:
        """Merge the oldest entries, but never across a checkpoint's epoch."""
        merged: list[tuple[int, Region]] = []
        for _, group in itertools.groupby(self._entries[:_COALESCED], self._side):
            run = list(group)
            first, *rest = (region for _, region in run)
            merged.append((run[-1][0], first.union(*rest)))
        self._entries[:_COALESCED] = merged

    def _side(self, item: tuple[int, Region]) -> tuple[bool, bool]:
        return item[0] <= self.checkpoint, item[0] <= self.pending
