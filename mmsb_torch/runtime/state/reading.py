"""Reading pages: present values, those of earlier transactions, and what was written behind our back."""

from __future__ import annotations

import threading

from torch import Tensor

from mmsb_torch.errors import PageMutatedError
from mmsb_torch.runtime.state.history import epoch_at, value_at
from mmsb_torch.runtime.state.table import Entry, Table
from mmsb_torch.runtime.store.log import Log


class Reading:
    """The half of the router that changes nothing. Any thread may call."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.table = Table()
        self.tx = log.last
        """The last transaction that is visible to readers."""
        self.committing = threading.Lock()
        """Held while a transaction is ordered, logged and applied."""

    def read(self, entry: Entry) -> Tensor:
        """A detached alias of a page's present value.

        Raises:
            PageMutatedError: an earlier alias was written to; the committed value is back.
        """
        with self.table.lock:
            if entry.is_unwritten():
                return entry.alias()
        raise self.repair(entry)

    def read_at(self, entry: Entry, tx: int) -> Tensor:
        """The value of a root page as of transaction `tx`: an alias where it is still present.

        Raises:
            PageNotFoundError: the page did not exist then.
            PageMutatedError: as in `read`.
        """
        with self.table.lock:
            unwritten, present = entry.is_unwritten(), entry.tx <= tx
            if unwritten and present:
                return entry.alias()
        if unwritten:
            return value_at(self.log, entry.info.id, tx)  # may read files: no lock is held
        raise self.repair(entry)

    def read_derived(self, entry: Entry, epoch: int | None = None) -> Tensor | None:
        """As `read`, of a derived page: None if it has no value (or is not at `epoch` any more)."""
        with self.table.lock:
            if entry.tensor is None or (epoch is not None and entry.epoch != epoch):
                return None
            if entry.is_unwritten():
                return entry.alias()
        raise self.repair(entry)

    def epoch_at(self, entry: Entry, tx: int) -> int:
        """The epoch that gave a root page the bits it has as of transaction `tx`; takes no lock.

        A commit sets the page's tx before its epochs, so an epoch read before a tx that is not
        newer than `tx` belongs to it. For the past it may name a later delta that changed no bit.
        """
        epoch = entry.content
        if entry.tx <= tx:
            return epoch
        return epoch_at(self.log, entry.info.id, tx)

    def repair(self, entry: Entry) -> PageMutatedError:
        """Put a foreign-written page's committed value back from the log; returns what to raise.

        A derived page loses its value instead: its recipe makes it again.
        """
        with self.committing, self.table.lock:
            return self.repaired(entry)

    def put_back(self, entry: Entry, value: Tensor, tx: int) -> bool:
        """Make `value`, what the log says of a page as of `tx`, its memory; False if it moved on."""
        with self.committing, self.table.lock:
            if entry.tx > tx:
                return False
            entry.spare = None
            entry.put(value, shared=False)
            return True

    def repaired(self, entry: Entry) -> PageMutatedError:
        """As `repair`. Commit and table lock held."""
        name = entry.info.name
        if not entry.is_unwritten():
            entry.spare = None
            if entry.info.derived:
                entry.tensor = None
            else:
                entry.put(value_at(self.log, entry.info.id, self.tx), shared=False)
        return PageMutatedError(
            f"page {name!r} (epoch {entry.epoch}) was written through page.tensor, which is for "
            f"reading; its committed value was put back. Change it with mem.update({name!r}, ...), "
            "or write to your own page.clone().",
            page_id=entry.info.id,
        )
