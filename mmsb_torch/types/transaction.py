"""Deltas that commit together or not at all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mmsb_torch.types.delta import Delta
from mmsb_torch.types.page import PageInfo


class Transaction(NamedTuple):
    """One step of the history. Immutable; the log holds them in order."""

    tx: int
    """Number in the history, from 1, without gaps."""
    time_ns: int
    """Unix time in nanoseconds."""
    created: tuple[PageInfo, ...]
    """Pages that begin here; their first values are among the deltas."""
    deltas: tuple[Delta, ...]
    """At most one a page."""
    label: str | None
    step: int | None
    metadata: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all values and masks."""
        return sum(delta.nbytes for delta in self.deltas)

    def delta_of(self, page_id: int) -> Delta | None:
        """The delta of one page, if this transaction holds one."""
        return next((delta for delta in self.deltas if delta.page_id == page_id), None)

    def __repr__(self) -> str:
        label = f" {self.label!r}" if self.label else ""
        step = f" step {self.step}" if self.step is not None else ""
        return f"<Transaction {self.tx}{label}{step}: {len(self.deltas)} pages, {self.nbytes} B>"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return self.tx


make_transaction: Callable[[tuple[Any, ...]], Transaction]
make_transaction = functools.partial(tuple.__new__, Transaction)
"""A transaction from its fields in order, as `make_delta`."""
