"""The memory as it was, and what differs between two moments."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping

import torch
from torch import Tensor

from mmsb_torch.device import changed_elements, same_bits
from mmsb_torch.errors import EpochConflictError, PageNotFoundError
from mmsb_torch.graph import Engine, Past
from mmsb_torch.runtime.state import Entry, epoch_at, next_delta_id, value_at
from mmsb_torch.runtime.store.log import About
from mmsb_torch.types import ANY_ROWS, Delta, Region

_TRIES = 3  # comparisons before a restore among busy writers brings whole pages


class Moment(Mapping[str, Tensor]):
    """Every page as of one transaction: `mem.at(3)["emb"]` is a tensor, for reading.

    Values are rebuilt when first asked for and kept. A derived page has the value that its recipe
    gives, today, for the inputs of that moment. Stays valid when the memory is closed. For one
    thread at a time.
    """

    def __init__(self, engine: Engine, transaction: About) -> None:
        self._engine = engine
        self._past = Past(engine, transaction.tx)
        self.tx = transaction.tx
        """The transaction's number."""
        self.label = transaction.label
        self.step = transaction.step
        self.time_ns = transaction.time_ns
        """When it was committed, Unix nanoseconds."""

    def __getitem__(self, name: str) -> Tensor:
        entry = self._engine.router.table.find(name)
        if not self._existed(entry):
            raise PageNotFoundError(
                f"page {name!r} did not exist at transaction {self.tx}", page_id=entry.info.id
            )
        return self._past.value(entry)

    def __contains__(self, name: object) -> bool:
        entry = self._engine.router.table.get(name) if isinstance(name, str) else None
        return entry is not None and self._existed(entry)

    def epoch(self, name: str) -> int:
        """The epoch that a page had then."""
        router = self._engine.router
        entry = router.table.find(name)
        epoch = epoch_at(router.log, entry.info.id, self.tx)
        router.log.check(self.tx)
        if epoch < 0:
            raise PageNotFoundError(
                f"page {name!r} has no epoch at transaction {self.tx}: it is derived, or was made "
                "later",
                page_id=entry.info.id,
            )
        return epoch

    def __iter__(self) -> Iterator[str]:
        there: dict[int, bool] = {}
        for entry in self._engine.router.table:
            if self._existed(entry, there):
                yield entry.info.name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _existed(self, entry: Entry, there: dict[int, bool] | None = None) -> bool:
        """Whether a page, and each one behind it, existed; `there` holds what was found before."""
        there = {} if there is None else there
        topology, log = self._engine.topology, self._engine.router.log
        node = topology.nodes.get(entry.info.id)
        inputs = (
            [(entry.info.id, (entry,))]
            if node is None
            else [(item.id, item.declared) for item in topology.declared_order(node, known=there)]
        )
        for page, behind in inputs:
            for root in behind:
                if not root.info.derived and root.info.id not in there:
                    there[root.info.id] = epoch_at(log, root.info.id, self.tx) >= 0
            there[page] = all(there[above.info.id] for above in behind)
        return there[entry.info.id]

    def _repr_html_(self) -> str:
        from mmsb_torch.memory.pictures import moment_html  # noqa: PLC0415 - drawing loads when asked

        return moment_html(self)

    def __repr__(self) -> str:
        label = f" {self.label!r}" if self.label else ""
        return f"<Moment: transaction {self.tx}{label}, {len(self)} pages>"


class PageDiff:
    """What differs in one page between two moments."""

    __slots__ = ("after", "before", "region")

    def __init__(self, before: Tensor | None, after: Tensor | None, region: Region) -> None:
        self.before = before
        """The value at the first moment; None if the page did not exist yet."""
        self.after = after
        """The value at the second moment; None if the page did not exist yet."""
        self.region = region
        """Exactly the elements whose bits differ, of the larger of both if one has more rows: rows
        that the other does not have differ."""

    def __repr__(self) -> str:
        if self.before is None:
            return "<PageDiff: created>"
        if self.after is None:
            return "<PageDiff: not created yet>"
        return f"<PageDiff: {self.effect}>"

    @property
    def effect(self) -> str:
        """Where it differs, and how many rows there were and are if that differs."""
        if self.before is None or self.after is None or self.before.shape == self.after.shape:
            return str(self.region)
        return f"{self.region}; {len(self.before)} to {len(self.after)} rows"


class Diff(Mapping[str, PageDiff]):
    """The pages that differ between two moments. Derived pages follow from these and are left out."""

    def __init__(self, a: int, b: int, pages: Mapping[str, PageDiff]) -> None:
        self.a, self.b = a, b
        self._pages = dict(pages)

    def __getitem__(self, name: str) -> PageDiff:
        return self._pages[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pages)

    def __len__(self) -> int:
        return len(self._pages)

    def _repr_html_(self) -> str:
        from mmsb_torch.memory.pictures import diff_html  # noqa: PLC0415 - drawing loads when asked

        return diff_html(self)

    def __repr__(self) -> str:
        lines = [f"<Diff of transactions {self.a} and {self.b}: {len(self)} pages>"]
        lines += [f"  {name}: {str(diff)[11:-1]}" for name, diff in self._pages.items()]
        return "\n".join(lines)


def diff(engine: Engine, a: int, b: int, only: Container[int] | None = None) -> Diff:
    """Compare the pages (of the ids in `only`, if given) that transactions between two moments touched."""
    router = engine.router
    low, high = min(a, b), max(a, b)
    touched = router.log.pages_between(low, high)
    pages: dict[str, PageDiff] = {}
    for entry in router.table:
        if entry.info.id not in touched or (only is not None and entry.info.id not in only):
            continue
        before, after = (_value(engine, entry, tx) for tx in (a, b))
        if before is None or after is None:
            there = after if after is not None else before
            assert there is not None
            pages[entry.info.name] = PageDiff(before, after, Region.all(tuple(there.shape)))
        elif not same_bits(before, after):
            pages[entry.info.name] = PageDiff(before, after, _different(before, after))
    return Diff(a, b, pages)


def _different(before: Tensor, after: Tensor) -> Region:
    """Where two values of a page differ, which may have different numbers of rows."""
    if before.shape == after.shape:
        return Region.where(changed_elements(before, after)).compact()
    rows = min(len(before), len(after))
    longer = before if len(before) > rows else after
    mask = torch.ones(longer.shape, dtype=torch.bool, device=longer.device)
    mask[:rows] = changed_elements(before[:rows], after[:rows])
    return Region.where(mask).compact()


def restore(
    engine: Engine, target: int, commit: Callable[..., int], only: Container[int] | None = None
) -> int:
    """Commit what brings every page back to transaction `target`; returns the new one's number.

    Every page: those of the ids in `only`, if given.
    """
    about = {"restored": target}
    for _ in range(_TRIES):
        now = engine.router.tx
        deltas = _way_back(engine, now, target, only)
        try:
            return commit(deltas, metadata=about, only_at=now)
        except EpochConflictError:  # somebody committed meanwhile: compare again
            continue
    return commit(_everything(engine, target, only), metadata=about)


def _everything(engine: Engine, target: int, only: Container[int] | None) -> list[Delta]:
    """Whole values of every page as of `target`: right whatever was committed meanwhile."""
    deltas = []
    for entry in engine.router.table:
        if entry.info.derived or (only is not None and entry.info.id not in only):
            continue
        value = _value(engine, entry, target)
        if value is not None:
            region = Region.all(tuple(value.shape))
            number, rows = next_delta_id(), ANY_ROWS if value.dim() else None
            deltas.append(
                Delta(number, entry.info.id, -1, region, value, time.time_ns(), "restore", rows)
            )
    return deltas


def _way_back(engine: Engine, now: int, target: int, only: Container[int] | None) -> list[Delta]:
    """Deltas that turn the state of transaction `now` into that of `target`."""
    table = engine.router.table
    deltas = []
    for name, found in diff(engine, now, target, only).items():
        if found.before is None or found.after is None:  # made later than `target`: left alone
            continue
        region, rows = found.region, None
        if found.before.shape != found.after.shape:
            rows = len(found.before)
            region = region.resized(len(found.after), found.after.device)
        values = region.pick(found.after)
        deltas.append(
            Delta(
                next_delta_id(),
                table.find(name).info.id,
                -1,
                region,
                values,
                time.time_ns(),
                "restore",
                rows,
            )
        )
    return deltas


def _value(engine: Engine, entry: Entry, tx: int) -> Tensor | None:
    log = engine.router.log
    if epoch_at(log, entry.info.id, tx) < 0:
        return None
    return value_at(log, entry.info.id, tx)
