"""Several changes that commit together or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mmsb_torch.errors import EpochConflictError, HistoryError, InvalidDeltaError, TransactionError
from mmsb_torch.runtime.state import Batch

if TYPE_CHECKING:
    from mmsb_torch.memory.memory import Memory
    from mmsb_torch.memory.page import Page
    from mmsb_torch.runtime.state import Entry


class Changes:
    """The `tx` of `with mem.commit() as tx`: collects updates, commits them when the block ends.

    Inside the block reads see the state before it. An exception leaves everything as it was.
    Values are checked and copied by `update` at once. For one thread; usable once.
    """

    def __init__(
        self,
        memory: Memory,
        label: str | None,
        step: int | None,
        metadata: Mapping[str, Any],
        *,
        wait: bool = True,
    ) -> None:
        self._memory = memory
        self._wait = wait
        self._label, self._step, self._metadata = label, step, metadata
        self._batch = Batch(memory._router.table)  # noqa: SLF001 - one facade
        self._epochs: dict[int, int] = {}
        self._state = "new"
        self._pages = 0
        self.number: int | None = None
        """The transaction's number, once it is committed (None before, or if nothing was)."""

    def update(
        self,
        page: Page | str,
        values: Any,
        *,
        rows: Any = None,
        indices: Any = None,
        mask: Any = None,
        epoch: int | None = None,
    ) -> None:
        """As `mem.update`, to be committed with the rest.

        A page may be updated several times: in order, composed into one delta and one epoch.
        """
        entry = self._entry(page, epoch)
        self._batch.update(entry, values, rows=rows, indices=indices, mask=mask)
        if epoch is not None:
            self._epochs[entry.info.id] = epoch

    def append(self, page: Page | str, values: Any, *, epoch: int | None = None) -> None:
        """As `mem.append`, to be committed with the rest.

        Updates of the page that follow see the rows. They come after those that others append before
        this transaction commits.
        """
        entry = self._entry(page, epoch)
        self._batch.append(entry, values)
        if epoch is not None:
            self._epochs[entry.info.id] = epoch

    def _entry(self, page: Page | str, epoch: int | None) -> Entry:
        """The page to be changed, of which that epoch is expected."""
        if self._state != "open":
            raise TransactionError(
                f"this transaction is {self._state}: expected a call inside its `with` block. "
                "Use `with mem.commit() as tx: tx.update(...)`."
            )
        entry = self._memory._handles.entry(page)  # noqa: SLF001 - one facade
        expected = self._epochs.get(entry.info.id)
        if None not in (epoch, expected) and expected != epoch:
            raise EpochConflictError(
                f"page {entry.info.name!r} cannot be at epoch {expected} and at {epoch}: "
                "expect one epoch a page in a transaction.",
                page_id=entry.info.id,
            )
        return entry

    def __enter__(self) -> Self:
        if self._state != "new":
            raise TransactionError(f"this transaction is {self._state}: make a new mem.commit()")
        self._memory._router.check_writable()  # noqa: SLF001
        self._state = "open"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._state = "abandoned"
            self._batch.clear()
            return
        self._state = "abandoned"
        self._pages = len(self._batch)
        if self._pages or self._label is not None or self._step is not None or self._metadata:
            self.number = self._memory._commit(  # noqa: SLF001
                self._batch.take(),
                bases=self._batch.bases,
                label=self._label,
                step=self._step,
                metadata=self._metadata,
                epochs=self._epochs,
                wait=self._wait,
            )
        self._state = "committed"

    def wait(self) -> None:
        """Wait until the transaction is written; at once unless it was made with `wait=False`.

        Raises:
            StoreError: it could not be written; it is in memory only.
        """
        if self.number is not None:
            self._memory._router.log.wait(self.number)  # noqa: SLF001

    def __repr__(self) -> str:
        return f"<Changes {self._state}: {self._pages or len(self._batch)} pages>"


def update_many(
    memory: Memory, updates: Iterable[tuple[Page | str, Any, Any]], label: str | None
) -> int:
    """What `Memory.update_many` does."""
    check_label(label, None)
    if not isinstance(updates, Iterable):
        raise InvalidDeltaError(
            f"update_many takes tuples (page, rows, values), found {updates!r:.80}"
        )
    batch = Batch(memory._router.table)  # noqa: SLF001
    for item in updates:
        if not isinstance(item, tuple) or len(item) != 3:
            raise InvalidDeltaError(
                f"update_many takes tuples (page, rows, values), found {item!r:.80}"
            )
        page, rows, values = item
        batch.update(memory._handles.entry(page), values, rows=rows)  # noqa: SLF001
    if not batch and label is None:  # nothing to commit, and no moment to name
        memory._router.check_writable()  # noqa: SLF001
        return memory._router.tx  # noqa: SLF001
    return memory._commit(batch.take(), bases=batch.bases, label=label)  # noqa: SLF001


def check_label(label: object, step: object) -> None:
    """Raise unless a transaction can be named like that."""
    if label is not None and not (isinstance(label, str) and label):
        raise HistoryError(f"a label is a non-empty string, found {label!r}")
    if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 0):
        raise HistoryError(f"a step is an integer of 0 or more, found {step!r}")
