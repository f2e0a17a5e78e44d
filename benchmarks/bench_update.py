"""Updating one page of 50,000 x 256 float32 (51 MB) against torch alone."""

import itertools

import torch
from rich.table import Table
from timing import medians

import mmsb_torch as mmsb

ROWS, WIDTH = 50_000, 256


def table() -> Table:
    shown = Table(title=f"update of one page, float32[{ROWS}, {WIDTH}] (51 MB), microseconds")
    for name in ("change", "torch op", "torch", "where", "bool index", "ours", "over torch"):
        shown.add_column(name, justify="right")
    for name, floor, times in [*_rows(), *_dense()]:
        shown.add_row(
            name,
            floor,
            f"{times['torch']:.1f}",
            f"{times['where']:.0f}" if "where" in times else "",
            f"{times['bool']:.0f}" if "bool" in times else "",
            f"{times['ours']:.1f}",
            f"+{times['ours'] - times['torch']:.1f} (x{times['ours'] / times['torch']:.2f})",
        )
    return shown


def _rows():
    base = torch.randn(ROWS, WIDTH)
    for count in (1, 500):
        rows = torch.randperm(ROWS)[:count].sort().values
        values = torch.randn(count, WIDTH)
        for watched in (False, True):
            mem = mmsb.open()
            page = mem.page("p", base)
            if watched:
                mem.derive(torch.sum, page, name="sum")
            times = medians(
                {
                    "torch": lambda r=rows, v=values: base.index_copy_(0, r, v),
                    "ours": lambda m=mem, p=page, r=rows, v=values: m.update(p, v, rows=r),
                },
                calls=300 if count == 1 else 20,
            )
            what = f"{count} row{'s' * (count > 1)}{', with a dependant' * watched}"
            yield what, "index_copy_", times
    mem = mmsb.open()
    page, values = mem.page("p", base), torch.randn(1, WIDTH)
    times = medians(
        {
            "torch": lambda: base.index_copy_(0, torch.tensor([7]), values),
            "ours": lambda: mem.update(page, values, rows=[7]),
        },
        calls=300,
    )
    yield "1 row, a Python list", "index_copy_", times


def _dense():
    base, values = torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)
    for density in (0.01, 1.0):
        mask = torch.rand(ROWS, WIDTH) < density if density < 1 else torch.ones_like(base).bool()
        own = base.clone()
        mem = mmsb.open()
        page = mem.page("p", base)

        turns = itertools.cycle([values, values + 1])  # or nothing would change

        def ours(m=mem, p=page, k=mask, d=density, t=turns):
            m.update(p, values, mask=k) if d < 1 else m.update(p, next(t))

        jobs = {
            "torch": lambda o=own, k=mask: torch.where(k, values, o, out=o),
            "bool": lambda o=own, k=mask: o.__setitem__(k, values[k]),
            "ours": ours,
        }
        if density == 1:
            jobs["where"] = jobs["torch"]
            jobs["torch"] = lambda o=own: o.copy_(values)
        times = medians(jobs, calls=1, rounds=9)
        what = "all of it" if density == 1 else f"mask, {density:.0%} of the elements"
        yield what, "copy_" if density == 1 else "where(out=)", times
