"""A memory's numbers on the console."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING

from mmsb_torch.integrations.summary import Section, sections

if TYPE_CHECKING:
    from mmsb_torch.memory import Memory


def print_stats(memory: Memory, file: IO[str] | None = None) -> None:
    """Print a memory's numbers: a table if rich is installed, else lines of text.

    Args:
        memory: the memory.
        file: where to; `sys.stdout` if left out.

    Raises:
        ClosedError: the memory was closed.
    """
    title, found = repr(memory), sections(memory.stats())
    out = sys.stdout if file is None else file
    try:
        from rich.console import Console  # noqa: PLC0415 - optional, loads when it is used
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ModuleNotFoundError:
        out.write(plain(title, found))
        return
    table = Table(title=Text(title), title_justify="left", title_style="bold", show_header=False)
    for style in ("bold cyan", "dim", ""):
        table.add_column(style=style)
    for section, rows in found:
        for number, (name, value) in enumerate(rows):
            first = section if number == 0 else ""
            table.add_row(first, name, Text(value), end_section=number == len(rows) - 1)
    Console(file=out).print(table)


def plain(title: str, found: list[Section]) -> str:
    """The same as lines of text."""
    names = [name for _, rows in found for name, _ in rows]
    wide, width = max(len(section) for section, _ in found), max(map(len, names))
    lines = [title]
    for section, rows in found:
        for number, (name, value) in enumerate(rows):
            first = section if number == 0 else ""
            lines.append(f"  {first.ljust(wide)}  {name.ljust(width)}  {value}")
    return "\n".join(lines) + "\n"
