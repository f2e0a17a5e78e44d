"""What the demo prints: progress while it works, and a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mmsb_torch.demo.story import Step, Ticker

console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


@contextmanager
def progress(title: str, total: int) -> Iterator[Ticker]:
    """A bar on the terminal; nothing where there is none."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def heading(text: str) -> None:
    """A line that says what comes."""
    console.print(f"[bold]{text}[/bold]")


def say(text: str) -> None:
    """A line of plain text."""
    console.print(text, markup=False, soft_wrap=True)


def pages(names: Sequence[str]) -> str:
    """Page names, shards counted."""
    shards = [name for name in names if "/" in name]
    rest = [name for name in names if "/" not in name]
    shown = [f"{len(shards)} shards"] if len(shards) > 2 else shards
    return ", ".join([*shown, *rest]) or "nothing"


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
            pages(stopped),
            str(step.kept),
            f"{step.seconds * 1e3:.1f} ms",
            f"{step.full_seconds:.2f} s",
            f"x{step.full_seconds / step.seconds:.3g}",
            "[green]yes[/green]" if step.equal else "[red]NO[/red]",
        )
    return shown
