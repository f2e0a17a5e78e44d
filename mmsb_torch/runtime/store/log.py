"""The log: the ordered history of transactions. In memory here; `durable` keeps it on disk.

Nothing but the router appends. What was appended is never changed, so readers need no lock.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from mmsb_torch.errors import HistoryError, InternalError
from mmsb_torch.types import Delta, Transaction


class About(NamedTuple):
    """A transaction without its deltas."""

    tx: int
    label: str | None
    step: int | None
    time_ns: int


class Base(NamedTuple):
    """A moment at which whole values are at hand, so that no older delta is needed."""

    tx: int
    value: Callable[[], Tensor]
    """The value of the page then: a new tensor."""


class Log:
    """Transactions in order, found by number, label or step.

    Thread safety: one appender at a time (the router's commit lock), any number of readers.

    Args:
        first: number of the first transaction that will be appended (1, or one more than the
            checkpoint that a memory was opened at).
    """

    keeps = True
    """Whether what is appended stays in memory as it is."""

    def __init__(self, first: int = 1) -> None:
        self._first = first
        self._next = first
        self._transactions: dict[int, Any] = {}
        self._labels: dict[str, int] = {}
        self._steps: dict[int, int] = {}
        self._touched: dict[int, tuple[list[int], list[int]]] = {}
        """Page -> numbers of its transactions, and the epochs they led to."""
        self.deltas = 0
        """How many deltas there are."""
        self.nbytes = 0
        """Bytes of their values and masks."""

    @property
    def first(self) -> int:
        """Number of the oldest transaction at hand (or of the next one, while empty)."""
        return self._first

    @property
    def last(self) -> int:
        """Number of the newest transaction at hand (`first - 1` while empty)."""
        return self._next - 1

    def write(self, transaction: Transaction) -> object:
        """Make the next transaction durable, as far as this log does; `append` follows.

        Returns what `append` is to keep. May be slow; no lock but the router's is held.

        Raises:
            StoreError: it could not be written; nothing changed.
        """
        return transaction

    def write_later(self, transaction: Transaction) -> object:
        """As `write`, but behind the caller: `wait` tells when it is done, or that it could not be.

        Raises:
            StoreError: an earlier one could not be written; nothing changed.
        """
        return transaction

    def wait(self, tx: int) -> None:
        """Wait until transaction `tx` is written.

        Raises:
            StoreError: it could not be.
        """

    def take_back(self, tx: int) -> None:
        """Void the transaction that was just written and will not be appended."""

    def append(self, transaction: Transaction, kept: object) -> None:
        """Add the next transaction; its number must be `last + 1`. Cannot fail for other reasons."""
        tx = transaction.tx
        if tx != self._next:
            raise InternalError(f"log at {self.last} was given transaction {tx}")
        self._transactions[tx] = kept
        self._next = tx + 1  # from here on the log has it
        self._index(transaction)

    def index_again(self, transaction: Transaction) -> None:
        """Finish an `append` that was interrupted after the log had the transaction."""
        for delta in transaction.deltas:
            numbers, epochs = self._touched.get(delta.page_id, ([], []))
            if numbers and numbers[-1] == transaction.tx:
                numbers.pop()
            del epochs[len(numbers) :]
        self._index(transaction)

    def _index(self, transaction: Transaction) -> None:
        """Note what a transaction that the log has touched, and what it is called."""
        touched, tx = self._touched, transaction.tx
        for delta in transaction.deltas:
            known = touched.get(delta.page_id)
            if known is None:
                known = touched[delta.page_id] = ([], [])
            known[1].append(delta.base_epoch + 1)  # first: who finds the number finds the epoch
            known[0].append(tx)
            self.deltas += 1
            self.nbytes += delta.nbytes
        if transaction.label is not None:
            self._labels[transaction.label] = tx
        if transaction.step is not None:
            self._steps[transaction.step] = tx

    def find(self, at: Any = None, *, step: int | None = None) -> int:
        """The number of the transaction that `at` (a number or a label) or `step` means.

        A label or step given twice means the newest transaction that carries it.

        Raises:
            HistoryError: none such at hand; the message says what is.
        """
        if (at is None) == (step is None):
            raise HistoryError("name one moment: a transaction number, a label, or step=")
        if step is not None:
            if type(step) is not int:
                raise HistoryError(f"a step is an integer, found {step!r}")
            return self._named(self._steps, step, "step")
        if isinstance(at, str):
            return self._named(self._labels, at, "label")
        if isinstance(at, bool) or not isinstance(at, int):
            raise HistoryError(
                f"a moment is a transaction number (int) or a label (str), found {at!r}"
            )
        if not self._holds(at):
            raise HistoryError(f"no transaction {at}: the history at hand holds {self._extent()}")
        return at

    def check(self, tx: int) -> None:
        """Raise unless what was rebuilt for moment `tx` is right: it must still be at hand.

        Raises:
            CollectedError: it was collected meanwhile.
        """

    def _holds(self, tx: int) -> bool:
        return self.first <= tx <= self.last

    def _extent(self) -> str:
        return f"{self.first} to {self.last}" if self.first <= self.last else "none"

    def reach_back(self) -> bool:
        """Look for what is older than `first`; whether anything was found."""
        return False

    def numbers(self) -> list[int]:
        """The transactions whose deltas are at hand, as far as was looked back; there may be gaps."""
        return list(range(self._first, self._next))

    def about(self, tx: int) -> About:
        """Label, step and time of a transaction."""
        return About(tx, *self[tx][4:6], self[tx].time_ns)

    def __getitem__(self, tx: int) -> Transaction:
        found: Transaction = self._transactions[tx]
        return found

    def __iter__(self) -> Iterator[Transaction]:
        return (self[tx] for tx in range(self._first, self._next))

    def __len__(self) -> int:
        return len(self._transactions)

    def delta(self, tx: int, page_id: int) -> Delta:
        """What a transaction did to a page that it touched."""
        delta = self[tx].delta_of(page_id)
        assert delta is not None
        return delta

    def pages_between(self, after: int, until: int) -> set[int]:
        """Pages that transactions `after < tx <= until` touched."""
        return {
            page
            for page, (numbers, _) in self._touched.copy().items()
            if bisect.bisect_right(numbers, until) > bisect.bisect_right(numbers, after)
        }

    def deltas_between(self, after: int, until: int) -> int:
        """How many deltas transactions `after < tx <= until` hold."""
        return sum(
            bisect.bisect_right(numbers, until) - bisect.bisect_right(numbers, after)
            for numbers, _ in self._touched.copy().values()
        )

    def of_page(self, page_id: int, until: int) -> Iterator[int]:
        """Numbers of the transactions up to `until` that changed a page, newest first."""
        numbers = self._touched.get(page_id, ([], []))[0]
        for position in range(bisect.bisect_right(numbers, until) - 1, -1, -1):
            yield numbers[position]

    def epoch(self, page_id: int, until: int) -> int | None:
        """The epoch of a page as of transaction `until`; None if none up to there touched it."""
        numbers, epochs = self._touched.get(page_id, ([], []))
        position = bisect.bisect_right(numbers, until)
        return epochs[position - 1] if position else None

    def base(self, page_id: int, until: int) -> Base | None:
        """The newest moment up to `until` at which a page's whole value is at hand."""
        del page_id, until
        return None

    def lose_base(self, tx: int) -> None:
        """A moment's whole values turned out to be gone."""

    def sync(self) -> None:
        """Wait until everything written is on the disk, if there is one."""

    def close(self) -> None:
        """Let go of files; harmless when repeated."""

    def _named(self, names: dict[Any, int], name: Any, kind: str) -> int:
        if name not in names or not self._holds(names[name]):
            there = [name for name, tx in names.items() if self._holds(tx)]
            known = ", ".join(map(repr, there[-5:])) or "none"
            raise HistoryError(f"no transaction has {kind} {name!r}; known {kind}s: {known}")
        return names[name]
