"""The facade: a memory of pages. It opens and delegates; the work is done on the floors below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor

from mmsb_torch.graph import Engine, Why, tell_stale, why
from mmsb_torch.instrumentation.capture.mode import any_scope, unseen
from mmsb_torch.memory import auditing, deriving, graphs, making, telling, watching
from mmsb_torch.memory.changes import Changes, check_label, update_many
from mmsb_torch.memory.creating import page_entry
from mmsb_torch.memory.handles import Handles
from mmsb_torch.memory.keeper import Keeper
from mmsb_torch.memory.moment import Diff, Moment, diff, restore
from mmsb_torch.memory.page import Page
from mmsb_torch.memory.statistics import statistics
from mmsb_torch.runtime.state import Batch, Entry, Router, stage, stage_append
from mmsb_torch.runtime.store.log import Log
from mmsb_torch.types import Delta, EventType, Transaction

if TYPE_CHECKING:
    from mmsb_torch.graph.draw import Graph
    from mmsb_torch.graph.memo import Memo
    from mmsb_torch.graph.recording import Recording
    from mmsb_torch.graph.scope import Incremental, Operations
    from mmsb_torch.runtime.store import Store

BUDGET_BYTES = 1 << 30
"""Of results in memory, memoised ones and those of incremental scopes, each."""


class Memory(Keeper):
    """Versioned tensors (pages), their history, and what is derived from them.

    Make one with `mmsb.open`. Thread safety: every method may be called from any thread; no lock
    is held while user code (recipes, subscribers) runs. Usable as a context manager, which closes.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        device: torch.device | None = None,
        read_only: bool = False,
        budget: int = BUDGET_BYTES,
        audit: float = 0.0,
    ) -> None:
        super().__init__(store)
        self._router = Router(Log(), read_only=read_only)
        self._engine = Engine(self._router, device)
        auditing.begin(self, audit)
        self._device = device
        self._handles = Handles(self, self._router)
        self._budget = budget
        self._operations: Operations | None = None
        self._recordings: WeakSet[Recording] = WeakSet()
        self.recording: Recording | None = None
        """What `mmsb_start(enable_instrumentation=...)` began."""

    # pages

    def page(
        self,
        name: str,
        value: Tensor | None = None,
        *,
        shape: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        device: making.Device = None,
        metadata: Mapping[str, Any] | None = None,
        page_id: int | None = None,
        kind: str | None = None,
    ) -> Page:
        """Make a page, or return the one of that name.

        Args:
            name: unique in this memory.
            value: the first value, copied; any dense tensor. Ignored if the page exists.
            shape: instead of `value`: a page of zeros.
            dtype: of a zero page; torch's default dtype if left out. With `value`: a check.
            device: where the page lives; the memory's device, else the value's, if left out.
            metadata: plain data (what JSON holds) kept with the page.
            page_id: an id of your choice, unused so far.
            kind: make a derived page of a kind registered with `register_recomputation`.

        Raises:
            PageNotFoundError: only a name was given and there is no such page.
            PageExistsError: it exists with another shape, dtype or id, or the id is in use.
            InvalidPageError, UnsupportedLocationError: it cannot be made like that.
        """
        asked = (value, shape, dtype, page_id, kind)
        if isinstance(name, str) and name in self._router.table and asked == (None,) * 5:
            return self._handles.look_up(name)
        return self._handles.of(
            page_entry(self, name, value, shape, dtype, device, metadata, page_id, kind)
        )

    def __getitem__(self, key: str | int) -> Page:
        """The page of a name or id; PageNotFoundError if there is none."""
        return self._handles.look_up(key)

    def __contains__(self, name: object) -> bool:
        self._router.check_open()
        return isinstance(name, str) and name in self._router.table

    def __iter__(self) -> Iterator[str]:
        self._router.check_open()
        return (entry.info.name for entry in self._router.table)

    def __len__(self) -> int:
        self._router.check_open()
        return len(self._router.table)

    def pages(self) -> list[Page]:
        """Every page, in the order of their ids."""
        self._router.check_open()
        return [self._handles.of(entry) for entry in self._router.table]

    # changes

    def update(
        self,
        page: Page | str,
        values: Any,
        *,
        rows: Any = None,
        indices: Any = None,
        mask: Any = None,
        epoch: int | None = None,
    ) -> int:
        """Change a page: one delta, one epoch. Returns the transaction's number.

        Args:
            page: the page or its name.
            values: a tensor of the page's dtype and device, copied before this returns; [*shape],
                or as the selection asks: rows [n, *shape[1:]], indices [n], mask [*shape]. A
                0-dim tensor or a number fills what is selected. Nothing is cast silently.
            rows: rows of dimension 0: int, list, range, slice or integer tensor; negative ones
                wrap, duplicates are refused.
            indices: elements: flat positions in C order, or coordinates [n, ndim].
            mask: bool tensor of the page's shape.
            epoch: refuse with EpochConflictError unless the page is at this epoch.

        Raises:
            InvalidDeltaError, DerivedPageError, EpochConflictError, PageMutatedError,
            PageNotFoundError, ClosedError, ReadOnlyError: nothing was changed.
        """
        entry = self._handles.entry(page)
        expected = None if epoch is None else {entry.info.id: epoch}
        if rows is None and indices is None and mask is None:
            batch = Batch(self._router.table)
            batch.update(entry, values)
            return self._commit(batch.take(), epochs=expected, bases=batch.bases)
        delta = stage(entry, values, rows=rows, indices=indices, mask=mask)
        return self._commit([delta], epochs=expected)

    def append(self, page: Page | str, values: Any, *, epoch: int | None = None) -> int:
        """Add rows after the last of a page: one delta, one epoch. Returns the transaction's number.

        Costs in proportion to the rows that are added, in memory (where a page keeps room for half
        as many rows again) and on disk. A `page.tensor` taken before keeps its rows.

        Args:
            page: the page or its name.
            values: [n, *shape[1:]] of the page's dtype and device, copied; none of them is a change
                of nothing.
            epoch: as of `update`.

        Raises:
            as `update`; nothing was changed.
        """
        entry = self._handles.entry(page)
        expected = None if epoch is None else {entry.info.id: epoch}
        return self._commit([stage_append(entry, values)], epochs=expected)

    def update_many(
        self, updates: Iterable[tuple[Page | str, Any, Any]], *, label: str | None = None
    ) -> int:
        """Change rows of many pages in one transaction: (page, rows, values); rows None is all.

        Several updates of one page are applied in order. Returns the transaction's number.

        Raises:
            As `update`; nothing was changed.
        """
        return update_many(self, updates, label)

    def commit(
        self,
        label: str | None = None,
        *,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> Changes:
        """Begin a transaction: `with mem.commit("relabel") as tx: tx.update(...)`.

        All of its updates commit when the block ends, or none if it raises. `label` and `step`
        name the moment for `at`, `diff` and `restore`. With `wait=False` the block does not wait
        for the disk: readers see the state at once, `tx.wait()`, `sync()` and `close()` tell when
        it is written, and an error also comes with the next commit. At most two are on their way.
        """
        self._router.check_open()
        check_label(label, step)
        about = making.check_metadata("commit", metadata)
        return Changes(self, label, step, about, wait=wait)

    def _commit(self, deltas: Sequence[Delta], **options: Any) -> int:
        return self._after(self._router.commit(deltas, **options))

    def _after(self, record: Transaction) -> int:
        """What follows every commit; returns the transaction's number."""
        if self._compactor is not None:
            self._compactor.look()
        if EventType.STALE in self._router.events.wanted:
            tell_stale(self._engine, [delta.page_id for delta in record.deltas])
        return record.tx

    # derived pages

    derive = deriving.derive
    ir = graphs.ir
    worlds = watching.worlds
    register_world = watching.register_world
    invalidate_on_world_change = watching.invalidate_on_world_change

    def propagate(self) -> list[Page]:
        """Compute every stale derived page now; returns those whose value changed.

        Raises:
            RecipeError: some recipe failed, after everything else was computed.
        """
        self._router.check_open()
        return [self._handles.of(node.entry) for node in self._engine.propagate()]

    def why(self, page: Page | str) -> Why:
        """Explain a page's value: which edits, through which pages, what was done. Print it."""
        return why(self._engine, self._handles.entry(page))

    @property
    def graph(self) -> Graph:
        """Who depends on whom, as it stands now: print it, `.svg()`, `.dot()`, `.save(path)`."""
        from mmsb_torch.memory.drawing import picture  # noqa: PLC0415 - drawing loads when asked

        self._router.check_open()
        return picture(self._engine)

    # instrumentation

    @property
    def memo(self) -> Memo:
        """Memoises functions: `@mem.memo`; `mem.memo.report()`, `.explain(f, *args)`, `.prefetch(f)`."""
        found = self._memo
        if found is None:
            from mmsb_torch.graph.memo.memo import Memo  # noqa: PLC0415 - it loads when it is used

            with self._router.table.lock:  # two threads must get the same one
                if self._memo is None:
                    check, engine = self._router.check_open, self._engine
                    parts = check, engine.worlds, engine.audit, self._router.events
                    self._memo = Memo(self._objects, self._budget, *parts)
                found = self._memo
        return found

    def incremental(self, *, verify: float = 0.0) -> Incremental:
        """A scope for plain code: `with mem.incremental(): y = model(x)`.

        Run again, such a block executes only the operations of torch whose inputs changed; see
        `graph.scope.Incremental`. One at a time in a thread, and one memory's.

        Args:
            verify: share of hits (0 to 1) that are run again and compared, bit for bit.

        Raises:
            ClosedError; UnsupportedError: `verify` is no share.
            RecordingError: another one is active in this thread (on entering).
        """
        from mmsb_torch.memory.scoping import incremental  # noqa: PLC0415 - as above

        return incremental(self, verify=verify)

    def record(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Record what torch executes in a block: `with mem.record() as rec:`, then `rec.calls`.

        `rec.graph` draws what depends on what, `rec.by_module()` and `rec.by_function()` add up
        time and bytes, `rec.lift(inputs=, outputs=)` makes derived pages of it. As a decorator it
        records each call of a function; `function.recording` is the last. Options are those of
        `InstrumentationConfig`. Only this thread is recorded, in a generator or a task only that.

        Raises:
            RecordingError: no such option, or no such way to record here.
        """
        from mmsb_torch.memory import recording  # noqa: PLC0415 - loads when it is used

        return recording.record(self, function, options)

    audit = auditing.audit

    # time travel

    def at(self, moment: int | str | None = None, *, step: int | None = None) -> Moment:
        """The memory as of a transaction (int), a label (str) or a step.

        Raises:
            HistoryError: no such moment in the history at hand.
        """
        self._router.check_open()
        log = self._router.log
        log.find(moment, step=step)  # may read older files: no lock is held
        with self._router.table.lock:  # a commit under way is there as a whole, or not yet
            about = log.about(log.find(moment, step=step))
        return Moment(self._engine, about)

    def diff(self, a: int | str, b: int | str) -> Diff:
        """What differs between two moments, page by page, bit for bit."""
        self._router.check_open()
        find = self._router.log.find
        return diff(self._engine, find(a), find(b))

    def restore(self, moment: int | str | None = None, *, step: int | None = None) -> int:
        """Bring every page back to what it was, as a new transaction (so it can be undone).

        Pages made later keep their values. Returns the new transaction's number.
        """
        self._router.check_writable()
        target = self._router.log.find(moment, step=step)
        return restore(self._engine, target, self._commit)

    # what happens, and how things stand

    subscribe = telling.subscribe

    def stats(self) -> dict[str, Any]:
        """Numbers about this memory, as plain data; docs/monitoring.md names each, with its unit."""
        self._router.check_open()
        return statistics(self)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._router.closed

    @property
    def tx(self) -> int:
        """The number of the last transaction (0 before the first)."""
        self._router.check_open()
        return self._router.tx

    # for the handles of this facade

    def _read(self, entry: Entry) -> Tensor:
        if self._router.alert:
            self._router.attend()
        if any_scope():
            with unseen():
                return self._engine.read(entry)
        return self._engine.read(entry)

    def _repr_html_(self) -> str:
        from mmsb_torch.memory.pictures import memory_html  # noqa: PLC0415 - drawing loads when asked

        return memory_html(self)

    def __repr__(self) -> str:
        where = repr(str(self._store.path)) if self._store is not None else "in memory"
        state = "closed, " if self.closed else ""
        derived = len(self._engine.topology.nodes)
        return (
            f"<Memory {where}: {state}{len(self._router.table)} pages ({derived} derived), "
            f"transaction {self._router.tx}>"
        )
