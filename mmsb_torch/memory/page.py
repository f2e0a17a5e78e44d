"""The handle users hold on a page."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmsb_torch.device import PageLocation, copy_of, take_rows
from mmsb_torch.errors import InvalidDeltaError
from mmsb_torch.graph import Look, status
from mmsb_torch.runtime.state import Entry, row_index
from mmsb_torch.types import Region, Spec, Transaction

if TYPE_CHECKING:
    from mmsb_torch.instrumentation.capture.ir import IR
    from mmsb_torch.memory.memory import Memory


class Change(NamedTuple):
    """One entry of a page's history."""

    tx: int
    epoch: int
    label: str | None
    time_ns: int
    """Unix time in nanoseconds."""
    region: Region
    nbytes: int
    source: str
    rows_before: int | None = None
    """Rows that the page had before, if afterwards it has another number of them."""

    def __repr__(self) -> str:
        label = f" {self.label!r}" if self.label else ""
        rows = ""
        if self.rows_before is not None:
            rows = f"; {self.rows_before} to {self.region.shape[0]} rows"
        return (
            f"<Change tx {self.tx}{label} epoch {self.epoch}: {self.region}{rows}, {self.source}>"
        )


class PageHistory(list[Change]):
    """The changes of one page, oldest first.

    Attributes:
        page: its name.
    """

    def __init__(self, page: str, changes: Iterable[Change]) -> None:
        super().__init__(changes)
        self.page = page

    def _repr_html_(self) -> str:
        from mmsb_torch.memory.pictures import history_html  # noqa: PLC0415 - drawing loads when asked

        return history_html(self)


class Page:
    """A versioned tensor of a memory. Make one with `mem.page` or `mem.derive`.

    Equal handles mean the same page of the same memory. Thread safety: every member may be used
    from any thread.
    """

    __slots__ = ("__weakref__", "_entry", "_memory")

    def __init__(self, memory: Memory, entry: Entry) -> None:
        self._memory = memory
        self._entry = entry

    @property
    def id(self) -> int:
        """Number of the page, unique in its memory."""
        return self._entry.info.id

    @property
    def name(self) -> str:
        """Name of the page, unique in its memory."""
        return self._entry.info.name

    @property
    def memory(self) -> Memory:
        """The memory it belongs to."""
        return self._memory

    @property
    def derived(self) -> bool:
        """Whether a recipe computes it."""
        return self._entry.info.derived

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What its maker gave: a read-only copy, plain data."""
        if self._memory._router.alert:  # noqa: SLF001
            self._memory._router.attend()  # noqa: SLF001
        return MappingProxyType(copy.deepcopy(dict(self._entry.info.metadata)))

    @property
    def tensor(self) -> Tensor:
        """The present value, for reading: a detached alias that later updates never change.

        A stale derived page is recomputed first. Writing through it is detected and raises at the
        page's next touch (writes through numpy or `.data` are not seen); use `clone()` to write.
        While somebody holds the alias the next update copies the page; `read(rows=...)` avoids it.

        Raises:
            RecipeError, RecipeNotLoadedError, PageMutatedError, ClosedError.
        """
        return self._memory._read(self._entry)  # noqa: SLF001 - handle and memory are one facade

    def read(self, rows: Any = None) -> Tensor:
        """Copy the value, or some rows of it ([n, *shape[1:]]), without holding the page.

        Raises:
            InvalidDeltaError: rows out of range, given twice, or no integers.
        """
        value = self.tensor
        if rows is None:
            return copy_of(value)
        try:
            index, order = row_index(self.name, Spec.of(value), rows)
        except InvalidDeltaError as error:
            message = error.message.replace("update of page", "read of page", 1)
            raise InvalidDeltaError(message, page_id=self.id) from None
        with torch.inference_mode(mode=False):
            return take_rows(value, index if order is None else index[order.argsort()])

    def clone(self) -> Tensor:
        """A copy of the value, yours to write."""
        return copy_of(self.tensor)

    @property
    def ir(self) -> IR:
        """The graph that is in a page made with `mem.ir`, read anew at each call.

        Raises:
            InvalidPageError: it is no such page.
            SerializationError: somebody wrote something else into it.
        """
        from mmsb_torch.memory.graphs import read  # noqa: PLC0415 - loads when it is used

        return read(self)

    @property
    def epoch(self) -> int:
        """How many deltas changed it since it was made. Reading it recomputes nothing."""
        self._memory._router.check_open()  # noqa: SLF001
        return self._entry.epoch

    @property
    def mask(self) -> Tensor:
        """What deltas touched since the last checkpoint: a new bool tensor of the page's shape."""
        with torch.inference_mode(mode=False):
            return self.changed.mask(self._spec.device)

    @property
    def changed(self) -> Region:
        """What deltas touched since the last checkpoint, as a region."""
        self._memory._router.check_open()  # noqa: SLF001
        entry, spec = self._entry, self._spec
        with self._memory._router.table.lock:  # noqa: SLF001
            spec = entry.info.spec or spec  # it may have got more rows since
            return entry.journal.since(entry.journal.checkpoint, spec.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the value."""
        return self._spec.dtype

    @property
    def shape(self) -> torch.Size:
        """The shape of the value."""
        return torch.Size(self._spec.shape)

    @property
    def device(self) -> torch.device:
        """The device of the value."""
        return self._spec.device

    @property
    def location(self) -> PageLocation:
        """The kind of memory that holds the value."""
        return PageLocation.of(self._spec.device)

    @property
    def nbytes(self) -> int:
        """Size of the value in bytes."""
        return self._spec.nbytes

    def history(self) -> PageHistory:
        """The deltas of this page in the history at hand, oldest first.

        A derived page has none: its values follow from those of its inputs.
        """
        self._memory._router.check_open()  # noqa: SLF001
        log, page = self._memory._router.log, self.id  # noqa: SLF001
        log.reach_back()
        records = [log[number] for number in log.of_page(page, log.last)]
        return PageHistory(self.name, [_change(record, page) for record in reversed(records)])

    @property
    def _spec(self) -> Spec:
        if self._entry.info.spec is None:  # a derived page looks like its value, when that is right
            return Spec.of(self.tensor)
        if self._memory._router.alert:  # noqa: SLF001
            self._memory._router.attend()  # noqa: SLF001
        return self._entry.info.spec

    def _repr_html_(self) -> str:
        from mmsb_torch.memory.pictures import page_html  # noqa: PLC0415 - drawing loads when asked

        return page_html(self)

    def __repr__(self) -> str:
        entry = self._entry
        spec = f"{entry.spec} {entry.spec.device}" if entry.spec else "not computed yet"
        node = self._memory._engine.topology.nodes.get(entry.info.id)  # noqa: SLF001
        if node is not None:
            state = f"derived, {status(Look(self._memory._engine), node)}"  # noqa: SLF001
        else:
            since = entry.epoch - entry.journal.checkpoint
            state = f"{since} delta{'s' * (since != 1)} since the last checkpoint"
        return f"<Page {self.name!r} epoch {entry.epoch} {spec}, {state}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Page) and other._entry is self._entry

    def __hash__(self) -> int:
        return hash(self._entry)


def _change(record: Transaction, page: int) -> Change:
    delta = record.delta_of(page)
    assert delta is not None
    epoch = delta.base_epoch + 1
    return Change(
        record.tx,
        epoch,
        record.label,
        record.time_ns,
        delta.region,
        delta.nbytes,
        delta.source,
        delta.rows_before,
    )
