"""What `%mmsb ...` does: each command takes the rest of the line and returns what is to be shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmsb_torch.errors import HistoryError, UnsupportedError
from mmsb_torch.memory import scoping
from mmsb_torch.memory.sizes import parse_bytes
from mmsb_torch.notebook.history import Entry
from mmsb_torch.notebook.session import Session
from mmsb_torch.pictures.html import card, line, mark, table, unfailing
from mmsb_torch.pictures.words import safe, size, span

_TOLD = 3  # cells that `why` goes back


class Report:
    """A title and lines, or a table: as text, and as HTML in a notebook."""

    def __init__(
        self, title: str, rows: Sequence[Sequence[str]], titles: Sequence[str] = ()
    ) -> None:
        self.title, self.rows, self.titles = title, rows, titles

    def __repr__(self) -> str:
        rows = [self.titles, *self.rows] if self.titles else self.rows
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        return _report_html(self)


@unfailing
def _report_html(report: Report) -> str:
    if not report.titles:
        lines = [line(" ".join(safe(cell, 200) for cell in row), "") for row in report.rows]
        return card(safe(report.title, 200), *lines)
    rows = [
        [mark(cell, "mono" if place == 1 else "") for place, cell in enumerate(row)]
        for row in report.rows
    ]
    return card(safe(report.title, 200), table([safe(title) for title in report.titles], rows))


def stats(session: Session, rest: str) -> Any:
    """Show the numbers of the memory, what is kept for reuse, and of the history."""
    del rest
    memory = session.memory
    numbers = memory.stats()
    results, nbytes, budget = scoping.kept(memory)
    held = ", ".join(f"{size(n)} on {where}" for where, n in numbers["bytes"].items()) or "0 B"
    cells = len(session.history.entries)
    recomputed = f"{numbers['recomputed']:,}, {numbers['cut_off']:,} cut off"
    return Report(
        repr(memory),
        [
            ("pages", f"{numbers['pages']:,} ({numbers['derived']:,} derived), {held}"),
            ("history", f"{numbers['deltas']:,} deltas, {size(numbers['history_bytes'])}"),
            ("recomputed", f"{recomputed}, {span(numbers['recompute_seconds'])}"),
            ("kept for reuse", f"{results:,} results, {size(nbytes)} of {size(budget)}"),
            ("memo", repr(memory.memo)[7:-1]),
            (
                "variables",
                f"{len(session.history.names)} of {cells:,} cells, {size(session.history.nbytes)}",
            ),
        ],
        ("", ""),
    )


def graph(session: Session, rest: str) -> Any:
    """Show the graph of pages."""
    del rest
    return session.memory.graph


def why(session: Session, rest: str) -> Any:
    """Show why a page, or a variable that a tracked cell assigned, has its value."""
    memory = session.memory
    if rest in memory:
        return Report(f"why {rest}", [(item,) for item in str(memory.why(rest)).splitlines()])
    entries = [entry for entry in session.history.entries.values() if rest in _changed(entry)]
    if not entries:
        raise HistoryError(f"{rest!r} is no page of {memory!r}, and no tracked cell assigned it.")
    lines: list[str] = []
    for entry in entries[: -_TOLD - 1 : -1]:
        lines.append(f"{'before, ' if lines else ''}since cell {entry.number}: {entry.title}")
        lines += [f"    {_what(entry, 200)}"] if entry.said else []
    return Report(f"why {rest} has its value", [(item,) for item in lines])


def log(session: Session, rest: str) -> Any:
    """Show the tracked cells: what ran, and what each changed. A number says how many."""
    most = int(rest) if rest.isdecimal() else 20
    entries = list(session.history.entries.values())
    rows = [
        (
            f"{entry.number}",
            entry.title if len(entry.title) <= 36 else f"{entry.title[:35]}…",
            ", ".join(sorted(_changed(entry))[:5]) + (", …" if len(_changed(entry)) > 5 else ""),
            _what(entry, 90),
        )
        for entry in entries[-most:]
    ]
    if not rows:
        return Report("no cell was tracked yet: begin one with %%mmsb", [])
    return Report(f"{len(entries):,} tracked cells", rows, ("", "cell", "changed", "what"))


def checkout(session: Session, rest: str) -> Any:
    """Bring pages and variables back to what they were after a tracked cell."""
    if not rest.isdecimal():
        raise HistoryError(
            f"checkout {rest!r}: expected the number of a tracked cell, see %mmsb log."
        )
    told = session.checkout(int(rest))
    return Report(f"as after cell {rest}", [(item,) for item in told])


def budget(session: Session, rest: str) -> Any:
    """Set how many bytes of results may be kept for reuse, as "8 GiB"; without one, show it."""
    memory = session.memory
    if rest:
        scoping.resize(memory, parse_bytes(rest))
    results, nbytes, most = scoping.kept(memory)
    return Report(f"{results:,} results, {size(nbytes)} of {size(most)}", [])


def open_path(session: Session, rest: str) -> Any:
    """Open a memory on disk, and the history of variables beside it."""
    if not rest:
        raise UnsupportedError("%mmsb open: expected a path, like run.mmsb")
    return session.open(rest.strip("\"'"))


def use(session: Session, rest: str) -> Any:
    """Work with the memory that a variable holds."""
    return session.use(rest)


def begin(session: Session, rest: str) -> None:
    """Run the rest of this cell incrementally, as %%mmsb does from its first line; -q says nothing."""
    if rest not in ("", "-q", "--quiet"):
        raise UnsupportedError(f"%%mmsb {rest}: expected nothing, or -q to say nothing.")
    session.begin(quiet=bool(rest))


COMMANDS: Mapping[str, Callable[[Session, str], Any]] = {
    "stats": stats,
    "graph": graph,
    "why": why,
    "log": log,
    "checkout": checkout,
    "budget": budget,
    "open": open_path,
    "use": use,
    "cell": begin,
}


def run(session: Session, text: str) -> Any:
    """Do one command.

    Raises:
        UnsupportedError: there is no such command.
        MMSBError: as it says.
    """
    name, _, rest = text.strip().partition(" ")
    command = COMMANDS.get(name or "stats")
    if command is None:
        raise UnsupportedError(f"%mmsb {name}: expected one of {', '.join(COMMANDS)}.")
    return command(session, rest.strip())


def usage() -> str:
    """One line a command."""
    lines = [
        f"  %mmsb {name:9} {(command.__doc__ or '').splitlines()[0]}"
        for name, command in COMMANDS.items()
    ]
    return "\n".join(lines)


def _changed(entry: Entry) -> set[str]:
    return {*entry.trees, *entry.unkept, *entry.gone}


def _what(entry: Entry, most: int = 57) -> str:
    said = entry.said.partition("] ")[2] or entry.said
    return f"{said[: most - 1]}…" if len(said) > most else said
