"""The log: the ordered history of transactions. In memory here.

Nothing but the router appends. What was appended is never changed, so readers need no lock.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import Any

from mmsb_torch.errors import HistoryError, InternalError
from mmsb_torch.types import Transaction


class Log:
    """Transactions in order, found by number, label or step.

    Thread safety: one appender at a time (the router's commit lock), any number of readers.

    Args:
        first: number of the first transaction that will be appended (1, or one more than the
            checkpoint that a memory was opened at).
    """

    def __init__(self, first: int = 1) -> None:
        self._first = first
        self._transactions: list[Transaction] = []
        self._labels: dict[str, int] = {}
        self._steps: dict[int, int] = {}
        self._touched: dict[int, list[int]] = {}

    @property
    def first(self) -> int:
        """Number of the oldest transaction at hand (or of the next one, while empty)."""
        return self._first

    @property
    def last(self) -> int:
        """Number of the newest transaction at hand (`first - 1` while empty)."""
        return self._first + len(self._transactions) - 1

    def append(self, transaction: Transaction) -> None:
        """Add the next transaction; its number must be `last + 1`."""
        if transaction.tx != self._first + len(self._transactions):
            raise InternalError(f"log at {self.last} was given transaction {transaction.tx}")
        self._transactions.append(transaction)
        touched = self._touched
        for delta in transaction.deltas:
            numbers = touched.get(delta.page_id)
            if numbers is None:
                numbers = touched[delta.page_id] = []
            numbers.append(transaction.tx)
        if transaction.label is not None:
            self._labels[transaction.label] = transaction.tx
        if transaction.step is not None:
            self._steps[transaction.step] = transaction.tx

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
        if not self._first <= at <= self.last:
            held = f"holds {self._first} to {self.last}" if len(self) else "is empty"
            raise HistoryError(f"no transaction {at}: the history at hand {held}")
        return at

    def __getitem__(self, tx: int) -> Transaction:
        return self._transactions[tx - self._first]

    def __len__(self) -> int:
        return len(self._transactions)

    def __iter__(self) -> Iterator[Transaction]:
        return iter(self._transactions[:])

    def between(self, after: int, until: int) -> list[Transaction]:
        """Transactions `after < tx <= until`, oldest first."""
        start = max(after + 1, self._first) - self._first
        return self._transactions[start : until - self._first + 1]

    def of_page(self, page_id: int, until: int) -> Iterator[int]:
        """Numbers of the transactions up to `until` that changed a page, newest first."""
        numbers = self._touched.get(page_id, [])
        for position in range(bisect.bisect_right(numbers, until) - 1, -1, -1):
            yield numbers[position]

    def _named(self, names: dict[Any, int], name: Any, kind: str) -> int:
        if name not in names:
            known = ", ".join(repr(known) for known in list(names)[-5:]) or "none"
            raise HistoryError(f"no transaction has {kind} {name!r}; known {kind}s: {known}")
        return names[name]
