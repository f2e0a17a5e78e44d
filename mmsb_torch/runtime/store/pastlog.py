"""What is at hand of the past: checkpoints, and stretches of transactions between gaps.

A moment is at hand if it is a checkpoint's, or if the log has every transaction from a checkpoint (or
from the first one) up to it. What the collector removes is forgotten here first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mmsb_torch.errors import CollectedError, HistoryError
from mmsb_torch.runtime.store import payload
from mmsb_torch.runtime.store.bodies import Place
from mmsb_torch.runtime.store.log import About, Base, Log
from mmsb_torch.runtime.store.sealed import Fields
from mmsb_torch.runtime.store.spans import merged, runs, spelled, without
from mmsb_torch.types import Transaction


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as a base for values: the epochs of its pages, and how to read one."""

    about: About
    epochs: Mapping[int, int]
    read: Callable[[int], Tensor]

    @property
    def tx(self) -> int:
        """Its transaction."""
        return self.about.tx


class Older(NamedTuple):
    """What a store has of the time before the checkpoint that a log goes on from."""

    bases: list[Checkpoint]
    found: list[tuple[Fields, Place]]
    """Transactions, oldest first; there may be gaps, where the collector was."""


class PastLog(Log):
    """A log with gaps, which goes on from a checkpoint.

    Args:
        root: the store's folder.
        base: the checkpoint that the log goes on from, if there is one.
        older: looks for what there is from before the checkpoint.
    """

    def __init__(
        self, root: Path, base: Checkpoint | None, older: Callable[[], Older] | None
    ) -> None:
        super().__init__(1 if base is None else base.tx + 1)
        self._root = root
        self._older = older
        self._past: list[range] = []
        """Transactions at hand from before the checkpoint."""
        self._bases: list[Checkpoint] = []
        if base is not None:
            self.add_base(base)
        self._guard = threading.Lock()

    @property
    def first(self) -> int:
        """Number of the oldest moment at hand."""
        moments = self.moments()
        return moments[0].start if moments else self._first

    def moments(self) -> list[range]:
        """The moments at hand: checkpoints, and what the log leads to from one or from its birth."""
        found = [range(base.tx, base.tx + 1) for base in self._bases]
        for span in self._spans():
            starts = [base.tx for base in self._bases if span.start - 1 <= base.tx < span.stop]
            start = 1 if span.start == 1 else min(starts, default=span.stop)
            found.append(range(start, span.stop))
        return merged(found)

    def _spans(self) -> list[range]:
        """The transactions whose deltas are at hand."""
        return merged([*self._past, range(self._first, self._next)])

    def numbers(self) -> list[int]:
        """The transactions whose deltas are at hand, as far as was looked back."""
        return [tx for span in self._spans() for tx in span]

    def find(self, at: Any = None, *, step: int | None = None) -> int:
        """As `Log.find`; what is older than the checkpoint is looked for when it is asked for."""
        try:
            return super().find(at, step=step)
        except HistoryError:
            if not self.reach_back():
                raise
            return super().find(at, step=step)

    def check(self, tx: int) -> None:
        """Raise if moment `tx` was collected: what was rebuilt of it may be of an older one."""
        if not self._holds(tx):
            raise collected(f"transaction {tx}", self._root)

    def _holds(self, tx: int) -> bool:
        return any(tx in moments for moments in self.moments())

    def _extent(self) -> str:
        return spelled(self.moments())

    def reach_back(self) -> bool:
        """Note what there is from before the checkpoint; False if that was done."""
        with self._guard:
            if self._older is None:
                return False
            bases, found = self._older()
            found = [(ops, place) for ops, place in found if ops.count("tx") < self._first]
            self._older = None  # damage raised before: it is found again the next time
            touched: dict[int, tuple[list[int], list[int]]] = {}
            for ops, place in found:
                self._note_older(ops, place, touched)
            for page, (numbers, epochs) in touched.items():
                now = self._touched.get(page, ([], []))
                self._touched[page] = (numbers + now[0], epochs + now[1])
            self._past = runs(ops.count("tx") for ops, _ in found)
            for base in bases:
                self.add_base(base)
        return True

    def _note_older(
        self, ops: Fields, place: Place, touched: dict[int, tuple[list[int], list[int]]]
    ) -> None:
        tx = ops.count("tx")
        self._transactions[tx] = place
        for page, base in payload.touched_by(ops):
            numbers, epochs = touched.setdefault(page, ([], []))
            numbers.append(tx)
            epochs.append(base + 1)
        self._name(tx, place.label, place.step)

    def _name(self, tx: int, label: str | None, step: int | None) -> None:
        """Let a label and a step mean `tx`, unless something newer carries them."""
        if label is not None and self._labels.get(label, -1) < tx:
            self._labels[label] = tx
        if step is not None and self._steps.get(step, -1) < tx:
            self._steps[step] = tx

    def about(self, tx: int) -> About:
        """Label, step and time of a transaction."""
        place = self._transactions.get(tx)
        if isinstance(place, Transaction):  # on its way
            return About(tx, place.label, place.step, place.time_ns)
        if place is None:  # the checkpoint's own
            return next(base.about for base in self._bases if base.tx == tx)
        return About(tx, place.label, place.step, place.time_ns)

    def epoch(self, page_id: int, until: int) -> int | None:
        """The epoch of a page as of a transaction, by the log and by checkpoints."""
        base = next((b for b in reversed(self._bases) if b.tx <= until), None)
        held = base.epochs.get(page_id) if base is not None else None
        found = super().epoch(page_id, until)
        return held if found is None else found if held is None else max(held, found)

    def pages_between(self, after: int, until: int) -> set[int]:
        """Pages that transactions `after < tx <= until` touched, collected ones included."""
        known = set(self._touched).union(*(base.epochs for base in self._bases))
        return {page for page in known if self.epoch(page, after) != self.epoch(page, until)}

    def base(self, page_id: int, until: int) -> Base | None:
        """The newest checkpoint up to `until` that holds the page."""
        for base in reversed(self._bases):
            if base.tx <= until and page_id in base.epochs:
                return Base(base.tx, lambda base=base: base.read(page_id))  # type: ignore[misc]
        return None

    def add_base(self, base: Checkpoint) -> None:
        """A checkpoint is there: values after it need no older delta."""
        self._name(base.tx, base.about.label, base.about.step)
        bases = {item.tx: item for item in [*self._bases, base]}
        self._bases = [bases[tx] for tx in sorted(bases)]

    def moments_named(self, wanted: Callable[[str], bool]) -> list[int]:
        """The moments at hand whose label is wanted."""
        return [tx for label, tx in self._labels.items() if wanted(label) and self._holds(tx)]

    def lose_base(self, tx: int) -> None:
        """A checkpoint turned out to be gone: what the log alone leads to stays at hand."""
        self.forget([tx], [])

    def forget(self, bases: Iterable[int], transactions: Iterable[range]) -> None:
        """These checkpoints and deltas are about to be removed; asking for them is an error then."""
        self.reach_back()
        doomed = set(bases)
        with self._guard:
            self._bases = [base for base in self._bases if base.tx not in doomed]
            gone = merged(transactions)
            left = without(self._spans(), gone)
            newest = left[-1].start if left and left[-1].stop == self._next else self._next
            self._past, self._first = [span for span in left if span.start < newest], newest
            for tx in (tx for span in gone for tx in span):
                self._transactions.pop(tx, None)
            self._forget_touched(gone)
            self._labels, self._steps = {}, {}
            for base in self._bases:
                self._name(base.tx, base.about.label, base.about.step)
            for span in self._spans():
                for tx in span:
                    self._name(*self.about(tx)[:3])

    def _forget_touched(self, gone: list[range]) -> None:
        for page, (numbers, epochs) in list(self._touched.items()):
            kept = [n for n, tx in enumerate(numbers) if not any(tx in span for span in gone)]
            self._touched[page] = ([numbers[n] for n in kept], [epochs[n] for n in kept])


def collected(what: str, root: Path) -> CollectedError:
    """The error of a reader whom the collector has overtaken."""
    return CollectedError(
        f"{what} of {str(root)!r} was collected by its writer since it was opened here. What is kept "
        "is in the store: open it again."
    )
