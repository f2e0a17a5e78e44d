"""One notebook: which memory it works with, its tracked cells, and going back to one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from mmsb_torch.errors import HistoryError
from mmsb_torch.graph.scope import Incremental, Seen
from mmsb_torch.memory import Memory, Page
from mmsb_torch.memory import open as open_memory
from mmsb_torch.memory.scoping import incremental
from mmsb_torch.notebook.definitions import Definitions, Named, definitions, differences, named
from mmsb_torch.notebook.history import Given, History
from mmsb_torch.notebook.live import Line
from mmsb_torch.notebook.summary import Summary
from mmsb_torch.notebook.witness import Trace, Witness
from mmsb_torch.pictures.words import count

_MOST_CELLS = 256
_NOT_KEPT = (Memory, Page, ModuleType)
"""Pages have a history of their own, and an import that is taken back helps nobody."""
_ALIKE = 0.5
"""Cells whose texts are less alike than this are not taken for versions of one."""


@dataclass(slots=True)
class Cell:
    """One cell of the notebook, as it ran last."""

    source: str
    code: Named = field(default_factory=lambda: Named((), frozenset(), {}))
    trace: Trace | None = None
    defined: Definitions | None = None


class Run(Witness):
    """One run of a tracked cell."""

    def __init__(self, session: Session, memory: Memory, cell: Cell, before: Cell | None) -> None:
        super().__init__(before.trace if before is not None else None, session.shell.user_ns)
        self.memory, self.cell, self.earlier = memory, cell, before
        self.bound = {name: id(value) for name, value in session.variables()}
        self.recomputed = memory.stats()["recomputed"]
        self.line = Line("running", self.before.calls if self.before is not None else None)
        self.quiet = False
        self.scope: Incremental = incremental(memory, bound=False, witness=self)

    def saw(self, seen: Seen) -> None:
        """See `graph.scope.Witness`."""
        super().saw(seen)
        if self.line.due and not self.quiet:
            whole = self.total
            reused = f"{count(whole.reused, 'call')} reused, {count(whole.ran, 'call')} ran"
            self.line.step(self.trace.calls, reused)


class Session:
    """What `%load_ext mmsb_torch` makes: one for a shell.

    Args:
        shell: IPython's `InteractiveShell`.
    """

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.history = History()
        self._own: Memory | None = None
        self._opened: Memory | None = None
        self._chosen: Memory | None = None
        self._info: Any = None
        self._depth = 0
        self.run: Run | None = None
        self.last: Summary | None = None
        """What the last tracked cell did."""
        self._cells: dict[str, Cell] = {}

    # which memory

    @property
    def memory(self) -> Memory:
        """The one opened or chosen here; else the only one among the variables; else one in memory."""
        for given in (self._chosen, self._opened):
            if given is not None and not given.closed:
                return given
        found = {id(value): value for _, value in self._memories()}
        if len(found) == 1:
            return next(iter(found.values()))
        if self._own is None or self._own.closed:
            self._own = open_memory()
        return self._own

    def use(self, name: str) -> Memory:
        """Work with the memory that a variable holds.

        Raises:
            HistoryError: there is no such one.
        """
        memories = dict(self._memories())
        if name not in memories:
            known = ", ".join(memories) or "none"
            raise HistoryError(f"no open memory is called {name!r}: there are {known}.")
        self._chosen = memories[name]
        return self._chosen

    def open(self, path: str) -> Memory:
        """Open a store, with the history of variables beside it; `mem` is it, if that is free.

        Raises:
            StoreError: it cannot be opened; what was open stays so.
        """
        where = Path(path).expanduser()
        if self._opened is not None and not self._opened.closed:
            store = self._opened._store  # noqa: SLF001 - the facade does not say where it is
            if store is not None and Path(store.path).absolute() == where.absolute():
                return self._opened
        memory = open_memory(where)
        try:
            history = History(where.with_name(f"{where.stem}.cells.mmsb"))
        except BaseException:
            memory.close()
            raise
        self.history.close()
        if self._opened is not None and not self._opened.closed:
            self._opened.close()
        self._opened, self._chosen, self.history = memory, None, history
        known = self.shell.user_ns.get("mem")
        if known is None or isinstance(known, Memory):
            self.shell.user_ns["mem"] = memory
        return memory

    def _memories(self) -> Iterator[tuple[str, Memory]]:
        for name, value in list(self.shell.user_ns.items()):
            if isinstance(value, Memory) and not value.closed and not name.startswith("_"):
                yield name, value

    def mark(self, memory: Memory) -> str:
        """What a memory is called in the history: its path, or a mark of this session's."""
        store = memory._store  # noqa: SLF001 - as above
        place = f"in memory {self.history.session} {id(memory)}"
        return place if store is None else str(Path(store.path).absolute())

    # tracked cells

    def before_cell(self, info: Any) -> None:
        """A cell is about to run."""
        self._depth += 1
        if self._depth == 1:
            self._abandon()
            self._info = info

    def begin(self, *, quiet: bool = False) -> None:
        """From here to the end of the cell, only what changed is executed.

        Raises:
            RecordingError: another incremental scope is active.
        """
        if self.run is not None:
            return
        raw = getattr(self._info, "raw_cell", "") or ""
        cell, key = Cell(raw), getattr(self._info, "cell_id", None)
        cell.code = named(self._transformed(raw))
        before = self._cells.get(key) if key else self._like(raw)
        run = Run(self, self.memory, cell, before)
        run.quiet = quiet
        self._remember(key or raw, cell, before)
        run.scope.__enter__()
        self.run = run

    def after_cell(self, result: Any) -> None:
        """A cell is over."""
        self._depth = max(self._depth - 1, 0)
        if self._depth or self.run is None:
            return
        run, self.run = self.run, None
        run.scope.__exit__(None, None, None)
        error = getattr(result, "error_in_exec", None) or getattr(result, "error_before_exec", None)
        summary = self.last = self._summary(run, "" if error is None else type(error).__name__)
        if not run.quiet or error is not None:
            run.line.end(summary)

    def _abandon(self) -> None:
        """End what an interrupt left open."""
        run, self.run = self.run, None
        if run is not None and run.scope.active:
            run.scope.__exit__(None, None, None)

    def _transformed(self, raw: str) -> str:
        known = getattr(self._info, "transformed_cell", None)
        return str(known if known is not None else self.shell.transform_cell(raw))

    def _like(self, source: str) -> Cell | None:
        """The cell that is most like this one: a front end need not say which cell it runs."""
        if source in self._cells:
            return self._cells[source]
        found, best = None, _ALIKE
        matcher = difflib.SequenceMatcher(b=source.splitlines(), autojunk=False)
        for cell in list(self._cells.values())[-64:]:
            matcher.set_seq1(cell.source.splitlines())
            if matcher.real_quick_ratio() > best and matcher.ratio() > best:
                found, best = cell, matcher.ratio()
        return found

    def _remember(self, key: str, cell: Cell, before: Cell | None) -> None:
        self._cells = {k: known for k, known in self._cells.items() if known is not before}
        self._cells[key] = cell
        while len(self._cells) > _MOST_CELLS:
            del self._cells[next(iter(self._cells))]

    def _summary(self, run: Run, error: str) -> Summary:
        cell, before = run.cell, run.earlier
        cell.trace = run.trace
        cell.defined = definitions(cell.code.names, self.shell.user_ns, cell.code.stored)
        causes = _causes(run, cell, before)
        pages = 0 if run.memory.closed else run.memory.stats()["recomputed"] - run.recomputed
        groups = tuple(run.groups.values())
        number = self.history.next_number
        about = (causes, before is None, error, pages)
        summary = Summary(number, groups, run.total, *about)
        notes = self._keep(run, summary, error)
        return summary if not notes else Summary(0, groups, run.total, *about, notes=notes)

    def _keep(self, run: Run, summary: Summary, error: str) -> tuple[str, ...]:
        """Keep the variables; what went wrong, if that failed."""
        here = dict(self.variables())
        assigned = {name for name, value in here.items() if run.bound.get(name) != id(value)}
        assigned |= self.history.names | run.cell.code.stored
        lines = [line for line in run.cell.source.splitlines() if not line.startswith("%%")]
        try:
            self.history.record(
                {name: here[name] for name in here if name in assigned},
                {
                    "title": next((line.strip()[:120] for line in lines if line.strip()), ""),
                    "said": str(summary),
                    "memory": self.mark(run.memory),
                    "memory_tx": 0 if run.memory.closed else run.memory.tx,
                    "failed": error,
                    "there": sorted(assigned & run.bound.keys() - self.history.names),
                },
            )
        except Exception as failure:  # noqa: BLE001 - the cell itself is done, and its line is due
            return (f"variables not kept: {type(failure).__name__}: {failure}",)
        return ()

    def variables(self) -> Iterator[tuple[str, Any]]:
        """The user's own variables."""
        hidden = self.shell.user_ns_hidden
        for name, value in list(self.shell.user_ns.items()):
            known = name in hidden and hidden[name] is value
            if not (known or name.startswith("_") or isinstance(value, _NOT_KEPT)):
                yield name, value

    # going back

    def checkout(self, number: int) -> list[str]:
        """Bring pages and variables back to what they were after a tracked cell.

        What is there now is kept first, so that a later checkout can have it back.

        Returns:
            What was done and what could not be done, one line each.

        Raises:
            HistoryError: no such cell, or the pages of then are no longer in the history.
        """
        if number not in self.history.entries:
            known = ", ".join(map(str, list(self.history.entries)[-5:])) or "none yet"
            raise HistoryError(
                f"no tracked cell {number}: %mmsb log shows them (the last: {known})."
            )
        memory, namespace = self.memory, self.shell.user_ns
        mark = self.mark(memory)
        self._note(f"(before checkout {number})", memory, only_changes=True)
        given, entry = self.history.checkout(number), self.history.entries[number]
        told = []
        if entry.memory != mark:
            told.append("pages: left as they are, the cell worked with another memory")
        elif entry.memory_tx not in (memory.tx, 0):
            memory.restore(entry.memory_tx)
            told.append(f"pages: as of transaction {entry.memory_tx:,}")
        with torch.no_grad():
            for target, value in given.loads:
                target.copy_(value)
        namespace.update(given.values)
        for name in given.gone:
            namespace.pop(name, None)
        self._note(f"(checkout {number})", memory)
        return told + _told(given)

    def _note(self, title: str, memory: Memory, *, only_changes: bool = False) -> None:
        """Keep the variables as they are between cells."""
        names = self.history.names
        tracked = {name: value for name, value in self.variables() if name in names}
        about = {"title": title, "memory": self.mark(memory), "memory_tx": memory.tx}
        self.history.record(tracked, about, only_changes=only_changes)

    def close(self) -> None:
        """End what is under way, and let go of what was opened here."""
        self._abandon()
        self.history.close()
        for memory in (self._opened, self._own):
            if memory is not None and not memory.closed:
                memory.close()


def _causes(run: Run, cell: Cell, before: Cell | None) -> tuple[str, ...]:
    """Why something ran: what was redefined or edited, else what differs in the arguments."""
    if before is None or before.defined is None or cell.defined is None:
        return ()
    redefined = differences(before.defined, cell.defined)
    causes = [
        f"{name} was redefined: {how}" if name.endswith("()") else f"{name}: {how}"
        for name, how in redefined.items()
    ]
    known = before.code.statements
    edited = [lines for dump, lines in cell.code.statements.items() if dump not in known]
    causes += [f"line {lines.start} was edited" for lines in edited]
    for cause, (function, line) in run.causes.items():
        inside = function == "<module>" and any(line in lines for lines in edited)
        if not (inside or f"{function}()" in redefined):
            causes.append(cause)
    return tuple(dict.fromkeys(causes))


def _told(given: Given) -> list[str]:
    told = [f"{count(len(given.values), 'variable')}: {', '.join(given.values) or 'none'}"]
    if given.gone:
        told.append(f"removed, made later: {', '.join(given.gone)}")
    told += [f"{name}: its value, not how it was computed" for name in given.detached]
    told += [f"{name}: left as it is, {why}" for name, why in given.left.items()]
    return told
