"""The engine: a node fired, a no-change check, staleness tests, in a chain of 10,000 pages."""

import time

import torch
from rich.table import Table
from timing import medians
from torch import nn

import mmsb_torch as mmsb

LENGTH = 10_000


def step(x):
    return x + 1


def table() -> Table:
    shown = Table(title="derived pages, microseconds")
    shown.add_column("what")
    shown.add_column("ours", justify="right")
    shown.add_column("floor", justify="right")
    shown.add_column("floor is")
    for row in [*_chain(), *_staleness()]:
        shown.add_row(*row)
    return shown


def _chain():
    mem = mmsb.open()
    page = mem.page("root", torch.zeros(4))
    began = time.perf_counter()
    for number in range(LENGTH):
        page = mem.derive(step, page, name=f"n{number}")
    yield f"declare a node (of {LENGTH})", _us(began), "", ""
    fired, floor, fans = [], [], []
    _ = page.tensor
    for _ in range(7):
        mem.update("root", torch.randn(4))
        began = time.perf_counter()
        _ = page.tensor
        fired.append(time.perf_counter() - began)
        value = torch.randn(4)
        began = time.perf_counter()
        with torch.no_grad():
            for _ in range(LENGTH):
                value = step(value)
        floor.append(time.perf_counter() - began)
    yield "fire a node", _each(fired), _each(floor), "the function alone"
    engine, tail = mem._engine, mem._engine.topology.nodes[page.id]
    times = medians({"check": lambda: engine.is_fresh(tail), "read": lambda: page.tensor})
    yield "no-change check at the end of the chain", f"{times['check']:.2f}", "", ""
    yield "read a fresh page", f"{times['read']:.2f}", "", ""
    mem.page("other", torch.zeros(4))
    cut = []
    for _ in range(7):
        mem.update("root", mem["root"].read())
        began = time.perf_counter()
        _ = page.tensor
        cut.append(time.perf_counter() - began)
    yield "cut off a node (a write of the same bits)", _each(cut), "", ""
    roots = [mem.page(f"r{number}", torch.zeros(1)) for number in range(LENGTH)]
    fan = mem.derive(lambda *xs: torch.cat(xs), *roots, name="fan")
    _ = fan.tensor
    for number in range(5):
        mem.update(roots[number], torch.ones(1))
        began = time.perf_counter()
        _ = fan.tensor
        fans.append(time.perf_counter() - began)
    yield f"one input of a fan-in of {LENGTH} changed, an input", _each(fans), "", ""


def _staleness():
    mem = mmsb.open()
    a, b = mem.page("a", torch.zeros(4)), mem.page("b", torch.zeros(4))
    pages_only = mem.derive(torch.add, a, b, name="sum")
    written = mem.derive(lambda x, y: x + y, a, b, name="written")
    module = mem.derive(nn.Linear(4, 4), a, name="linear")
    big = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(12)))
    heavy = mem.derive(lambda x: big[0].weight.sum() + x, a, name="heavy")
    engine = mem._engine
    for title, page in (
        ("staleness test, pages only (torch.add)", pages_only),
        ("staleness test, with a Python function's code", written),
        ("staleness test, with a module of 20 weights", module),
        ("staleness test, with a module of 12.6 M weights (50 MB)", heavy),
    ):
        _ = page.tensor
        node = engine.topology.nodes[page.id]
        calls = 5 if page is heavy else 300
        same = medians({"x": lambda n=node: engine.is_fresh(n)}, calls=calls)["x"]
        mem.page(f"unrelated {page.id}", torch.zeros(1))
        yield title, f"{same:.2f}", "", ""


def _us(began: float) -> str:
    return f"{(time.perf_counter() - began) / LENGTH * 1e6:.1f}"


def _each(times: list[float]) -> str:
    return f"{sorted(times)[len(times) // 2] / LENGTH * 1e6:.2f}"
