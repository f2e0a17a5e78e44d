"""What the demo prints: progress while it works, and a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mmsb_torch.demo.story import Step

console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


@contextmanager
def progress(title: str) -> Iterator[None]:
    """A bar that moves, and the time, on the terminal; nothing where there is none."""
    columns = (TextColumn("  {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        bar.add_task(title, total=None)
        yield


def heading(text: str) -> None:
    """A line that says what comes."""
    console.print(f"[bold]{text}[/bold]")


def say(text: str) -> None:
    """A line of plain text."""
    console.print(text, markup=False, soft_wrap=True)


def pages(recomputed: Mapping[str, int]) -> str:
    """Page names, with the number of rows that were computed."""
    named = [f"{name} ({rows} rows)" if rows else name for name, rows in recomputed.items()]
    return ", ".join(named) or "nothing"


def table(steps: Sequence[Step]) -> Table:
    """One row a step."""
    shown = Table(title="what was computed again, and what not")
    for name in ("step", "recomputed", "cut off", "kept"):
        shown.add_column(name)
    for name in ("read", "everything", "speed-up", "equal"):
        shown.add_column(name, justify="right", no_wrap=True)
    for step in steps:
        stopped = [f"{name} (came out equal)" for name in step.unchanged] + list(step.cut_off)
        shown.add_row(
            step.title,
            pages(step.recomputed),
            ", ".join(stopped) or "nothing",
            str(step.kept),
            f"{step.seconds * 1e3:.1f} ms",
            f"{step.full_seconds:.2f} s",
            f"x{step.full_seconds / step.seconds:.3g}",
            "[green]yes[/green]" if step.equal else "[red]NO[/red]",
        )
    return shown
