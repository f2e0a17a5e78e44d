"""What derived pages keep between edits to be made again in part, and how much of it there may be."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmsb_torch.graph.masking import Masking

LIMIT_BYTES = 1 << 30


class Activations:
    """The anchors of all pages of a memory, the least recently used ones let go of first.

    Any thread may call. Whoever is let go of in the middle of a step finishes that.
    """

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self.limit = limit
        """Bytes that may be kept."""
        self._held: OrderedDict[Masking, int] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        with self._lock:
            return sum(self._held.values())

    def hold(self, owner: Masking, nbytes: int) -> None:
        """Note what `owner` keeps now, the most recently used; others may have to let go."""
        with self._lock:
            self._held[owner] = nbytes
            self._held.move_to_end(owner)
            total, gone = sum(self._held.values()), []
            while total > self.limit and len(self._held) > 1:
                other, size = self._held.popitem(last=False)
                total -= size
                gone.append(other)
            if total > self.limit:  # it outgrew the limit alone
                gone.append(owner)
                self._held.clear()
        for other in gone:
            other.kept = None

    def drop(self, owner: Masking) -> None:
        """Forget what `owner` kept."""
        with self._lock:
            self._held.pop(owner, None)
