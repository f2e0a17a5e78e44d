"""10,000 appends of one row of 256 floats: to a page, with `torch.cat`, and into memory that was there."""

import shutil
import tempfile
import time
from pathlib import Path

import torch
from rich.table import Table

import mmsb_torch as mmsb

COUNT, WIDTH, BLOCK = 10_000, 256, 500


def table() -> Table:
    shown = Table(title=f"{COUNT} appends of one row of {WIDTH} float32, microseconds each")
    for name in ("who", "each", "over written in place", "of torch.cat"):
        shown.add_column(name, justify="left" if name == "who" else "right")
    folder = Path(tempfile.mkdtemp(prefix="mmsb-bench-"))
    try:
        times = _interleaved(_jobs(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bare, cat = times["a row of memory that was there"], times["torch.cat"]
    for name, each in times.items():
        shown.add_row(name, f"{each:.1f}", f"+{each - bare:.1f}", f"x{each / cat:.3f}")
    return shown


def _jobs(folder):
    row, there = torch.randn(1, WIDTH), torch.empty(COUNT, WIDTH)
    joined, numbers = [torch.empty(0, WIDTH)], iter(range(COUNT))

    def bare():
        number = next(numbers)
        there[number : number + 1] = row

    def cat():
        joined[0] = torch.cat([joined[0], row])

    def append(memory, page):
        return lambda: memory.append(page, row)

    def held(memory, page):
        aliases = []

        def job():
            aliases[:] = [page.tensor]
            memory.append(page, row)

        return job

    def update(memory):
        page, rows = memory.page("all", torch.zeros(COUNT, WIDTH)), iter(range(COUNT))
        return lambda: memory.update(page, row, rows=[next(rows)])

    def made(memory, name):
        return memory, memory.page(name, torch.empty(0, WIDTH))

    disk = mmsb.open(folder / "a.mmsb", durability="none", compaction=False)
    return {
        "a row of memory that was there": bare,
        "torch.cat": cat,
        "mem.append, in RAM": append(*made(mmsb.open(), "a")),
        "mem.append, while somebody holds page.tensor": held(*made(mmsb.open(), "a")),
        "mem.update of a row, in RAM": update(mmsb.open()),
        "mem.append, on disk": append(*made(disk, "a")),
        "mem.update of a row, on disk": update(disk),
    }


def _interleaved(jobs):
    """Microseconds a call over all of COUNT calls, the jobs taking turns by blocks."""
    total = dict.fromkeys(jobs, 0.0)
    for _ in range(COUNT // BLOCK):
        for name, job in jobs.items():
            began = time.perf_counter()
            for _ in range(BLOCK):
                job()
            total[name] += time.perf_counter() - began
    return {name: seconds / COUNT * 1e6 for name, seconds in total.items()}
