"""What people see: tables without lines, which also read well in a pipe."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

_WIDE = 1000  # where no terminal sets a bound, nothing is wrapped
_NAMED = 4  # pages of a transaction that are named before the rest is counted


def rendered(thing: RenderableType) -> str:
    """The text of a table or line, in colour if stdout is a terminal that has them."""
    terminal, out = sys.stdout.isatty(), io.StringIO()
    width = None if terminal else _WIDE
    console = Console(file=out, force_terminal=terminal, width=width, highlight=False)
    console.print(thing)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def plain(text: str) -> str:
    """A text on one line that cannot steer the terminal: what does not print is escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def sized(nbytes: int | None) -> str:
    """A number of bytes for people: 999 B, 1.5 kB, 2.0 GB."""
    if nbytes is None:
        return "-"
    amount, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{nbytes} B" if unit == "B" else f"{amount:.1f} {unit}"


def local(moment: str | None) -> str:
    """A moment of ISO 8601 in this machine's time."""
    if moment is None:
        return "-"
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table; headings that begin with ">" are of columns aligned to the right, None is "-"."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading.startswith(">")
        shown.add_column(
            heading.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    for row in rows:
        shown.add_row(*("-" if cell is None else Text(plain(str(cell))) for cell in row))
    return shown


def _facts(facts: Iterable[tuple[str, object]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(name, Text(plain(str(value))))
    return grid


def info(data: dict[str, Any]) -> RenderableType:
    """What `mmsb info` shows."""
    log, payloads = sized(data["log_bytes"]), sized(data["payload_bytes"])
    last, torn = data["last"], data["torn_tail"]
    facts = [
        ("store", data["path"]),
        ("uuid", data["uuid"]),
        ("created", local(data["created"])),
        ("size", f"{sized(data['bytes'])} ({log} log, {payloads} payload files)"),
        ("pages", data["pages"]),
        ("transactions", f"{data['first']} to {last}" if last else "none"),
        ("last durable", last or "none"),
        ("torn tail", "none" if torn is None else torn["text"]),
        *(("problem", problem) for problem in data["problems"]),
    ]
    parts: list[RenderableType] = [_facts(facts)]
    if data["checkpoints"]:
        rows = [
            (item["tx"], local(item["created"]), sized(item["bytes"]))
            for item in data["checkpoints"]
        ]
        parts += ["", table([">checkpoint", "time", ">size"], rows)]
    if data["log"]:
        files = [(item["first"], item["file"], sized(item["bytes"])) for item in data["log"]]
        parts += ["", table([">from", "log file", ">size"], files)]
    return Group(*parts)


def log(rows: list[dict[str, Any]]) -> RenderableType:
    """What `mmsb log` shows."""
    headings = [">tx", "time", "label", ">step", ">bytes", "pages"]
    return table(headings, [_transaction(row) for row in rows])


def _transaction(row: dict[str, Any]) -> tuple[object, ...]:
    pages = row["pages"]
    more = f", and {len(pages) - _NAMED} more" if len(pages) > _NAMED else ""
    named = ", ".join(pages[:_NAMED]) + more
    return (row["tx"], local(row["time"]), row["label"], row["step"], sized(row["bytes"]), named)


def line(row: dict[str, Any]) -> str:
    """What `mmsb tail` shows of one transaction."""
    if row["taken_back"]:
        return f"{row['tx']:>6}  was taken back"
    tx, time, label, step, nbytes, pages = _transaction(row)
    names = [f"{label!s}" if label is not None else "", f"step {step}" if step is not None else ""]
    return plain(
        "  ".join([f"{tx:>6}", f"{time}", f"{nbytes:>9}", f"{pages}", *filter(None, names)])
    )


def moment(data: dict[str, Any]) -> RenderableType:
    """What `mmsb show` shows."""
    headings = [
        "page",
        "dtype",
        "shape",
        ">epoch",
        ">bytes",
        ">min",
        ">max",
        ">mean",
        ">std",
        "other",
    ]
    return Group(_title(data), table(headings, [_page(page) for page in data["pages"]]))


def _title(data: dict[str, Any]) -> Text:
    parts = [f"transaction {data['tx']}", local(data["time"])]
    parts += [] if data["label"] is None else [repr(data["label"])]
    parts += [] if data["step"] is None else [f"step {data['step']}"]
    return Text(plain(", ".join(parts)))


def _page(page: dict[str, Any]) -> tuple[object, ...]:
    if page["dtype"] is None:
        return (page["name"], *[None] * 8, "derived, its value of then is not stored")
    found = page["figures"] or {}
    counts = [f"{found[name]} {name}" for name in ("zeros", "nan", "inf") if found.get(name)]
    other = ", ".join((["derived"] if page["derived"] else []) + counts)
    spread = [_number(found.get(name)) for name in ("min", "max", "mean", "std")]
    size = sized(page["bytes"])
    return (page["name"], page["dtype"], page["shape"], page["epoch"], size, *spread, other)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def difference(data: dict[str, Any]) -> RenderableType:
    """What `mmsb diff` shows."""
    if not data["pages"]:
        return Text(f"no page differs between transactions {data['a']['tx']} and {data['b']['tx']}")
    headings = ["page", "change", "region", ">elements", ">bytes"]
    rows = [
        (p["name"], p["change"], p["region"], f"{p['elements']} of {p['of']}", sized(p["bytes"]))
        for p in data["pages"]
    ]
    return table(headings, rows)


def restored(data: dict[str, Any]) -> RenderableType:
    """What `mmsb restore` shows."""
    text = f"{data['file']}: {len(data['pages'])} pages of transaction {data['tx']}, {sized(data['bytes'])}"
    if data["left_out"]:
        text += f"; left out, being derived and not stored: {', '.join(data['left_out'])}"
    return Text(plain(text))


def damage(data: dict[str, Any]) -> RenderableType:
    """What `mmsb verify` shows."""
    if not data["found"]:
        return Text(f"{plain(data['path'])}: no damage, {sized(data['bytes'])} read")
    headings = ["", "file", ">from", ">to", "transactions", "problem"]
    rows = [
        (
            "torn tail" if item["torn"] else "DAMAGE",
            item["file"],
            item["start"],
            item["stop"],
            _span(item["transactions"]),
            item["problem"],
        )
        for item in data["found"]
    ]
    return table(headings, rows)


def _span(transactions: list[int] | None) -> str | None:
    if transactions is None:
        return None
    first, last = transactions
    return str(first) if first == last else f"{first} to {last}"


def repaired(data: dict[str, Any]) -> RenderableType:
    """What `mmsb repair` shows."""
    will, cut = "" if data["done"] else "would be ", data["cut"]
    if not (data["checkpoints"] or cut):
        return Text(
            f"{plain(data['path'])}: nothing to repair, the last transaction is {data['tx']}"
        )
    where = "none" if cut is None else f"{cut['file']} from byte {cut['start']} on: {cut['why']}"
    return _facts(
        [
            (f"checkpoints {will}set aside", ", ".join(map(str, data["checkpoints"])) or "none"),
            (f"log {will}cut", where),
            (f"log files {will}set aside", ", ".join(data["logs"]) or "none"),
            ("last transaction", data["tx"]),
        ]
    )


def compacted(data: dict[str, Any]) -> RenderableType:
    """What `mmsb compact` shows."""
    will = "" if data["done"] else "would be "
    spans = ", ".join(str(_span(span)) for span in data["transactions"])
    facts = [
        (f"checkpoint {will}written", data["checkpoint"] or "none, there is one of the present"),
        (f"checkpoints {will}removed", ", ".join(map(str, data["checkpoints"])) or "none"),
        (f"transactions {will}removed", spans or "none"),
        (f"files {will}removed", len(data["files"])),
        ("bytes", f"{sized(data['bytes'])} {will}freed, {sized(data['left'])} stay"),
    ]
    if data["over_budget"]:
        facts.append(("budget", "too small for what must stay"))
    return _facts(facts)
