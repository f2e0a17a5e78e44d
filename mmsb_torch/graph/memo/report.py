"""What memoising did, for people: a row a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from mmsb_torch.graph.memo.tally import reasons

if TYPE_CHECKING:
    from mmsb_torch.graph.memo.kept import Kept


@dataclass(frozen=True, slots=True)
class Row:
    """What memoising one function did; seconds and bytes are sums.

    `earlier_...` are of processes that closed this memory before.
    """

    function: str
    calls: int = 0
    hits: int = 0
    from_disk: int = 0
    """Hits that were read from disk when they were asked for."""
    ahead: int = 0
    """Hits that `prefetch` had read."""
    misses: int = 0
    unkept: int = 0
    """Calls whose results could not be kept, or that had no key."""
    why: dict[str, int] = field(default_factory=dict)
    """Why there were misses: the first thing that differs from the nearest call -> how often."""
    why_unkept: dict[str, int] = field(default_factory=dict)
    run_seconds: float = 0.0
    """What the function itself took, where it was run."""
    overhead_seconds: float = 0.0
    """What looking, comparing and keeping took then, beside it."""
    saved_seconds: float = 0.0
    """What the hits would have taken to compute, less what answering took."""
    evicted: int = 0
    """Results that went, for there were too many bytes."""
    read_ahead: int = 0
    """Results that `prefetch` read."""
    results: int = 0
    """Results that are there now: on disk, or without a path in memory."""
    nbytes: int = 0
    """Their bytes."""
    earlier_hits: int = 0
    earlier_misses: int = 0
    earlier_saved_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of `mem.memo.report()`: print it, or look at `rows` or `as_dict()`."""

    rows: tuple[Row, ...]
    """A function each: the most seconds first."""
    where: str
    """"disk" or "memory": where results are kept."""
    budget: int | None
    """Bytes that they may take; None: any number."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        functions = {row.function: asdict(row) for row in self.rows}
        return {"where": self.where, "budget": self.budget, "functions": functions}

    def __getitem__(self, function: str) -> Row:
        """The row of a function, by its name or the end of it; KeyError if there is none."""
        for row in self.rows:
            if row.function == function or row.function.endswith(f".{function}"):
                return row
        raise KeyError(function)

    def __str__(self) -> str:
        cells = [_HEAD, *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_line(cells[0], widths)]
        for row, cell in zip(self.rows, cells[1:], strict=True):
            lines += [_line(cell, widths), *(f"  {note}" for note in _notes(row))]
        return "\n".join([*lines, self._summary()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        head = "".join(f"<th style='text-align:right'>{escape(name)}</th>" for name in _HEAD)
        body = []
        for row in self.rows:
            cells = "".join(f"<td style='text-align:right'>{escape(c)}</td>" for c in _cells(row))
            body.append(f"<tr>{cells}</tr>")
            if notes := "<br>".join(map(escape, _notes(row))):
                style = "text-align:left;opacity:.75;padding-left:2em"
                body.append(f"<tr><td colspan={len(_HEAD)} style='{style}'>{notes}</td></tr>")
        return (
            f"<table><caption style='caption-side:bottom'>{escape(self._summary())}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        )

    def _summary(self) -> str:
        results, nbytes = sum(r.results for r in self.rows), sum(r.nbytes for r in self.rows)
        of = "" if self.budget is None else f" of {size(self.budget)}"
        if not self.rows:
            return "nothing was memoised yet"
        return f"{results} results, {size(nbytes)}{of} {'on disk' if self.where == 'disk' else 'in memory'}"


_HEAD = ("function", "calls", "hits", "misses", "run", "overhead", "saved", "results", "bytes")


def report(kept: Kept) -> Report:
    """The report of one memory's memoised functions."""
    now = kept.tallies.counts()
    objects = kept.objects
    there: dict[str, list[int]] = {}
    if objects is None:
        items = [(item.label, item.nbytes) for item in kept.shelf.items()]
    else:
        items = [(objects.label_of(stored), stored.nbytes) for stored in objects.stored()]
    for label, nbytes in items:
        there.setdefault(label, []).append(nbytes)
    before = {} if objects is None else objects.tallies()
    labels = [*now, *(label for label in (*there, *before) if label not in now)]
    rows = [
        _row(label, now.get(label, {}), before.get(label, {}), there.get(label, []))
        for label in dict.fromkeys(labels)
    ]
    rows.sort(key=lambda row: -(row.run_seconds + row.saved_seconds))
    budget = kept.shelf.budget if objects is None else objects.budget
    return Report(tuple(rows), "memory" if objects is None else "disk", budget)


def _row(label: str, now: dict[str, float], before: dict[str, float], there: Sequence[int]) -> Row:
    def count(name: str) -> int:
        return int(now.get(name, 0))

    return Row(
        function=label or "(unknown)",
        calls=count("hits") + count("misses") + count("keyless"),
        hits=count("hits"),
        from_disk=count("hits_disk"),
        ahead=count("hits_ahead"),
        misses=count("misses"),
        unkept=count("unkept"),
        why=reasons(now, "miss"),
        why_unkept=reasons(now, "unkept"),
        run_seconds=now.get("run_seconds", 0.0),
        overhead_seconds=now.get("overhead_seconds", 0.0),
        saved_seconds=now.get("saved_seconds", 0.0),
        evicted=count("evicted"),
        read_ahead=count("ahead"),
        results=len(there),
        nbytes=sum(there),
        earlier_hits=int(before.get("hits", 0)),
        earlier_misses=int(before.get("misses", 0)),
        earlier_saved_seconds=before.get("saved_seconds", 0.0),
    )


def _cells(row: Row) -> tuple[str, ...]:
    counts = (f"{n:,}" for n in (row.calls, row.hits, row.misses))
    times = map(seconds, (row.run_seconds, row.overhead_seconds, row.saved_seconds))
    return (row.function, *counts, *times, f"{row.results:,}", size(row.nbytes))


def _notes(row: Row) -> list[str]:
    found = [f"missed {count:,}: {reason}" for reason, count in row.why.items()]
    found += [f"not kept {count:,}: {reason}" for reason, count in row.why_unkept.items()]
    if row.from_disk or row.read_ahead:
        ahead = f", {row.ahead:,} read ahead (of {row.read_ahead:,})" if row.read_ahead else ""
        found.append(f"hits: {row.from_disk:,} read from disk{ahead}")
    if row.evicted:
        found.append(f"evicted {row.evicted:,}: over the budget")
    if row.earlier_hits or row.earlier_misses:
        found.append(
            f"earlier processes: {row.earlier_hits:,} hits, {row.earlier_misses:,} misses, "
            f"{seconds(row.earlier_saved_seconds)} saved"
        )
    return found


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *rest]).rstrip()


def seconds(number: float) -> str:
    """Such as "1.25 s", "3.4 ms"."""
    if abs(number) >= 1:
        return f"{number:,.2f} s"
    return f"{number * 1e3:.1f} ms" if abs(number) >= 1e-3 else f"{number * 1e6:.0f} us"


def size(nbytes: float) -> str:
    """Such as "1.2 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.1f} TB"
