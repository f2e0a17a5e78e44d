"""Memoised calls and incremental scopes (B1, B3): an encoder of 55 MB, run again after small changes."""

import importlib
import statistics
import tempfile
import time

import torch
from rich.table import Table
from torch import nn

import mmsb_torch as mmsb

WIDTH, LAYERS, ROUNDS = 480, 5, 7


def encoder() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    layer = nn.TransformerEncoderLayer(WIDTH, 8, 4 * WIDTH, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).eval()
    return model, torch.randn(8, 64, WIDTH)


def table() -> Table:
    model, x = encoder()
    nbytes = sum(parameter.nbytes for parameter in model.parameters())
    shown = Table(
        title=f"an encoder of {nbytes / 1e6:.0f} MB, run again; processor time, medians of turns"
    )
    for column in ("what", "plain", "ours", "times faster", "of the ideal"):
        shown.add_column(column, justify="left" if column == "what" else "right")
    with torch.no_grad(), mmsb.open() as mem, tempfile.TemporaryDirectory() as folder:
        run = mem.memo(lambda model, x: model(x))
        run(model, x)
        with mmsb.open(folder + "/run.mmsb") as kept:
            from_disk = kept.memo(lambda model, x: model(x))
            from_disk(model, x)

            def reread():
                kept.memo.shelf.clear()
                return from_disk(model, x)

            rows = [
                ("memo: hit", lambda: run(model, x), lambda: None, None),
                ("memo: hit, result on disk", reread, lambda: None, None),
                ("scope: first run", lambda: scoped(mmsb.open(), model, x), lambda: None, 1),
                ("scope: nothing changed", lambda: scoped(mem, model, x), lambda: None, None),
                ("scope: last layer changed", lambda: scoped(mem, model, x), touch(model, -1), LAYERS),
                ("scope: middle layer changed", lambda: scoped(mem, model, x),
                 touch(model, LAYERS // 2), LAYERS / (LAYERS - LAYERS // 2)),
                ("scope: input changed", lambda: scoped(mem, model, x), lambda: x.add_(0.01), 1),
            ]  # fmt: skip
            for title, job, change, ideal in rows:
                shown.add_row(title, *compared(lambda: model(x), job, change, ideal))
        small = torch.ones(8)
        many = [
            ("scope: 1,000 tiny additions", lambda: tiny(small), lambda: within(mem, small)),
        ]
        for title, plain, job in many:
            shown.add_row(title, *compared(plain, job, lambda: None, None))
        shown.add_row(*joblib_row(model, x))
    torch.backends.mha.set_fastpath_enabled(True)
    return shown


def scoped(mem, model, x):
    with mem.incremental():
        return model(x)


def tiny(x):
    for _ in range(1000):
        x = x + 1
    return x


def within(mem, x):
    with mem.incremental():
        return tiny(x)


def touch(model, layer):
    weight = model.layers[layer].self_attn.in_proj_weight

    def change():
        with torch.no_grad():
            weight[0, 0] += 0.01

    return change


def compared(plain, job, change, ideal):
    """Milliseconds of processor time of both by turns, and the ratio; every answer is checked."""
    times: tuple[list[float], list[float]] = ([], [])
    job()
    for _ in range(ROUNDS):
        change()
        values = []
        for found, call in zip(times, (plain, job), strict=True):
            began = time.thread_time()
            values.append(call())
            found.append(time.thread_time() - began)
        assert torch.equal(*values)
    a, b = (statistics.median(found) * 1e3 for found in times)
    share = "-" if ideal is None else f"{a / b / ideal:.2f}"
    return f"{a:.1f} ms", f"{b:.2f} ms", f"{a / b:.1f}", share


def joblib_row(model, x):
    try:
        joblib = importlib.import_module("joblib")
    except ImportError:
        return ("joblib: hit", "-", "not installed", "-", "-")
    with tempfile.TemporaryDirectory() as folder:
        call = joblib.Memory(folder, verbose=0).cache(run_model)
        call(model, x)
        return (
            "joblib: hit",
            *compared(lambda: model(x), lambda: call(model, x), lambda: None, None),
        )


def run_model(model, x):
    return model(x)
