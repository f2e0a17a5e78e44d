"""A cell that is run again (B10), and the bytes of a history of cells (B6): in a shell of IPython's."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from IPython.core.interactiveshell import InteractiveShell
from rich.table import Table
from traitlets.config import Config

from mmsb_torch.demo import corpus, encoder

ROUNDS = 3
CELL = """
with torch.no_grad():
    embedded = torch.cat([model(part) for part in ids{first}.split(16)])
centred = embedded - embedded.mean(0)
directions = torch.linalg.svd(centred, full_matrices=False).Vh[:16]
flat = centred @ directions.T
near = torch.cdist(flat, flat)
best = near.topk({last}, largest=False).indices
"""


def shell() -> InteractiveShell:
    config = Config()
    config.HistoryManager.enabled = False
    found = InteractiveShell(config=config)
    found.run_cell("%load_ext mmsb_torch\nimport torch").raise_error()
    return found


def table() -> Table:
    """Cells on real sentences, embedded with MiniLM: plain, and incremental after small changes."""
    tokenizer, model = encoder.load()
    ids = encoder.tokenise(tokenizer, corpus.sentences(64))
    cells = shell()
    cells.user_ns.update(model=model, ids=ids)
    shown = Table(title="a cell on 64 sentences, MiniLM; medians of turns")
    for column in ("what", "plain ms", "%%mmsb ms", "times faster", "calls that ran"):
        shown.add_column(column, justify="left" if column == "what" else "right")
    numbers = iter(range(2, 1000))

    def rows_edited(_: int) -> tuple[str, str]:
        ids[next(numbers) % 64, 1] += 1
        return "", "3"

    changes: list[tuple[str, Callable[[int], tuple[str, str]]]] = [
        ("nothing changed", lambda _: ("", "3")),
        ("last line changed", lambda n: ("", str(n))),
        ("first line changed: fewer sentences", lambda n: (f"[{4 * (n % 8 + 1)}:]", "3")),
        ("a sentence changed", rows_edited),
        ("first run", lambda _: ("", "3")),
    ]
    incremental(cells, CELL.format(first="", last=3))
    incremental(cells, CELL.format(first="", last=3))
    for title, change in changes:
        shown.add_row(title, *row(cells, title, change, numbers))
    return shown


def row(
    cells: InteractiveShell,
    title: str,
    change: Callable[[int], tuple[str, str]],
    numbers: Iterator[int],
) -> list[str]:
    plain, ours, ran = [], [], 0
    for _ in range(ROUNDS):
        first, last = change(next(numbers))
        source = CELL.format(first=first, last=last)
        plain.append(seconds(lambda text=source: cells.run_cell(text).raise_error()))
        if title == "first run":
            cells.run_cell("%unload_ext mmsb_torch\n%load_ext mmsb_torch")
        ours.append(seconds(lambda text=source: incremental(cells, text)))
        ran = cells._mmsb_session.last.total.ran
    before, now = statistics.median(plain), statistics.median(ours)
    return [f"{before * 1e3:,.0f}", f"{now * 1e3:,.0f}", f"{before / now:.1f}", f"{ran:,}"]


def incremental(cells: InteractiveShell, source: str) -> None:
    cells.run_cell(f"%%mmsb -q\n{source}").raise_error()


def seconds(job: Callable[[], object]) -> float:
    begun = time.perf_counter()
    job()
    return time.perf_counter() - begun


def history() -> Table:
    """Bytes that a history of variables takes, and what a checkout takes."""
    cells = shell()
    cells.user_ns["x"] = torch.randn(20_000, 256)
    steps = {
        "a table of 20.5 MB": "x = torch.randn(20_000, 256)",
        "one row of it": "x[7] = 0.0",
        "1 % of its rows": "x[torch.randperm(20_000)[:200]] = 1.0",
        "a number": "k = 3",
        "all of it": "x = x * 1.5",
    }
    shown = Table(title="the history of variables: each cell, and going back to it")
    for column in ("the cell writes", "bytes", "keeping ms", "checkout ms"):
        shown.add_column(column, justify="left" if column == "the cell writes" else "right")
    kept: list[tuple[str, int, float]] = []
    session = cells._mmsb_session
    for title, source in steps.items():
        before = session.history.nbytes
        plain = seconds(lambda text=source: cells.run_cell(text).raise_error())
        ours = seconds(lambda text=source: incremental(cells, text))
        kept.append((title, session.history.nbytes - before, ours - plain))
    for number, (title, nbytes, spent) in enumerate(kept, 1):
        back = statistics.median(
            seconds(lambda n=number: session.history.checkout(n)) for _ in range(3)
        )
        shown.add_row(title, f"{nbytes:,}", f"{spent * 1e3:,.0f}", f"{back * 1e3:,.0f}")
    return shown
