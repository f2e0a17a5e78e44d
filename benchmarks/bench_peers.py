"""Memoizers of today beside ours (B1): the time of a hit, and what they answer where it matters.

What is not installed says so: `pip install joblib diskcache cachier cachau marimo torchcache`.
"""

import contextlib
import functools
import importlib
import importlib.util
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.testing import alike

PEERS = ("ours", "joblib", "diskcache", "cachier", "cachau", "marimo", "torchcache")
MEGABYTES = (1, 16)
ROUNDS = 5
SCALE = 2.0


def cached(peer, folder, function):
    """A function as one of the memoizers gives it, results in a folder where it keeps files."""
    if peer == "ours":
        return mmsb.open().memo(function)
    if peer == "joblib":
        return importlib.import_module("joblib").Memory(folder, verbose=0).cache(function)
    if peer == "diskcache":
        return importlib.import_module("diskcache").Cache(folder).memoize()(function)
    if peer == "cachier":
        return importlib.import_module("cachier").cachier(cache_dir=folder)(function)
    if peer == "cachau":
        cachau = importlib.import_module("cachau")
        return cachau.cache(function, key=lambda *args: tuple(map(cachau.array_token, args)))
    if peer == "marimo":
        return importlib.import_module("marimo").cache(function)
    return _of_torchcache(function)


def _of_torchcache(function):
    """It caches modules of one tensor; what else the function takes is a part of the module."""

    @importlib.import_module("torchcache").torchcache()
    class Module(nn.Module):
        def __init__(self, rest):
            super().__init__()
            self.rest = rest

        def forward(self, x):
            return function(x, *self.rest)

    modules = {}

    def call(x, *rest):
        key = tuple(map(id, rest))
        if key not in modules:
            modules[key] = Module(rest)
        return modules[key](x)

    return call


def product(x, weight):
    return x @ weight


def doubled(x):
    return x * 2


def through(x, net):
    return net(x)


def helper(x):
    return x * SCALE


def edited_helper(x):
    return x * 3.0


def helped(x):
    return helper(x)


def noisy(x):
    return x + torch.randn(x.shape)


# what is asked: each gives what was found and what plain torch gives


def same_object(wrap):
    x, call = torch.randn(64, 64), wrap(doubled)
    return [call(x), call(x)], [doubled(x), doubled(x)]


def equal_copy(wrap):
    x, call = torch.randn(64, 64), wrap(doubled)
    return [call(x), call(x.clone())], [doubled(x), doubled(x)]


def row_edited(wrap):
    x, call = torch.randn(64, 64), wrap(doubled)
    call(x)
    x[3] += 1
    return call(x), doubled(x)


def tiny_edit(wrap):
    x, call = torch.ones(64, 1024), wrap(doubled)
    call(x)
    x[3, 5] += 1e-4
    return call(x), doubled(x)


def transposed(wrap):
    x, call = torch.randn(64, 64), wrap(doubled)
    call(x)
    return call(x.t()), doubled(x.t())


def other_dtype(wrap):
    call = wrap(doubled)
    call(torch.zeros(8, 8))
    return call(torch.zeros(8, 8, dtype=torch.int32)), torch.zeros(8, 8, dtype=torch.int32)


def other_shape(wrap):
    call = wrap(doubled)
    call(torch.ones(3, 8))
    return call(torch.ones(3, 4, 2)), torch.full((3, 4, 2), 2.0)


def weight_by_data(wrap):
    x, net, call = torch.randn(8, 16), nn.Linear(16, 16), wrap(through)
    with torch.no_grad():
        call(x, net)
        net.weight.data.add_(1)
        return call(x, net), through(x, net)


def weight_by_array(wrap):
    x, net, call = torch.randn(8, 16), nn.Linear(16, 16), wrap(through)
    array = net.weight.detach().numpy()
    with torch.no_grad():
        call(x, net)
        array += 1
        return call(x, net), through(x, net)


def helper_edited(wrap):
    x, call, before = torch.ones(8, 8), wrap(helped), helper
    call(x)
    try:
        globals()["helper"] = edited_helper
        return call(x), helped(x)
    finally:
        globals()["helper"] = before


def after_a_hit(wrap):
    x, call = torch.ones(8, 8), wrap(noisy)
    torch.manual_seed(1)
    wanted = [noisy(x), torch.rand(3)]
    torch.manual_seed(1)
    call(x)
    torch.manual_seed(1)
    return [call(x), torch.rand(3)], wanted


def gradient(wrap):
    x, call = torch.randn(8, 8, requires_grad=True), wrap(doubled)
    call(x)
    call(x).sum().backward()
    return x.grad, torch.full((8, 8), 2.0)


def spoiled(wrap):
    x, call = torch.ones(8, 8), wrap(doubled)
    call(x)
    call(x).add_(100)
    return call(x), doubled(x)


class InMemory(Exception):  # noqa: N818 - an answer
    """This one keeps no files here."""


def rotten_file(wrap):
    """One bit of what is stored is flipped, in the middle of each large file."""
    peer, folder = wrap.args
    x = torch.randn(256, 256)
    if peer not in ("ours", "joblib", "diskcache", "cachier"):
        raise InMemory
    with mmsb.open(folder + "/run.mmsb") if peer == "ours" else contextlib.nullcontext() as mem:
        (wrap(doubled) if mem is None else mem.memo(doubled))(x)
    for path in Path(folder).rglob("*"):
        if path.is_file() and path.stat().st_size > x.nbytes:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    with mmsb.open(folder + "/run.mmsb") if peer == "ours" else contextlib.nullcontext() as mem:
        return (wrap(doubled) if mem is None else mem.memo(doubled))(x), doubled(x)


QUESTIONS = {
    "the same object": same_object,
    "an equal fresh copy": equal_copy,
    "one row edited in place": row_edited,
    "one element by 1e-4": tiny_edit,
    "x.t()": transposed,
    "another dtype, same bytes": other_dtype,
    "another shape, same bytes": other_shape,
    "weight edited by .data": weight_by_data,
    "weight edited by numpy": weight_by_array,
    "a helper edited": helper_edited,
    "random numbers after a hit": after_a_hit,
    "gradient through a hit": gradient,
    "result spoiled by its user": spoiled,
    "a bit flipped in its file": rotten_file,
}


def answers() -> Table:
    shown = Table(title="what memoizers answer: right, WRONG, or the error they raise")
    peers = _installed()
    for column in ("what", *peers):
        shown.add_column(column)
    wrong = dict.fromkeys(peers, 0)
    for name, question in QUESTIONS.items():
        cells = [_answer(peer, question) for peer in peers]
        for peer, cell in zip(peers, cells, strict=True):
            wrong[peer] += cell == "WRONG"
        shown.add_row(name, *cells)
    shown.add_row("wrong", *[str(count) for count in wrong.values()])
    missing = sorted(set(PEERS) - set(peers))
    shown.caption = f"not installed: {', '.join(missing)}" if missing else None
    return shown


def _installed():
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    return [peer for peer in PEERS if peer == "ours" or importlib.util.find_spec(peer)]


def _answer(peer, question):
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            found, wanted = question(functools.partial(cached, peer, folder))
        except Exception as error:  # noqa: BLE001 - whatever they raise is the answer
            return type(error).__name__
    return "right" if alike(found, wanted) else "WRONG"


def hits() -> Table:
    """Milliseconds of `x @ weight` again, medians; the answers are compared with plain ones."""
    shown = Table(
        title="x @ weight (1,024 x 64) again, ms: same object / equal copy / one row edited"
    )
    peers = ("plain", *_installed())
    for column in ("x", *peers):
        shown.add_column(column, justify="right")
    for size in MEGABYTES:
        rows = size << 8
        x, weight = torch.randn(rows, 1024), torch.randn(1024, 64)
        shown.add_row(f"{size} MB", *[_hit_cell(peer, x, weight) for peer in peers])
    return shown


def _hit_cell(peer, x, weight):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            call = product if peer == "plain" else cached(peer, folder, product)
            call(x, weight)
            changes = (lambda x: x, torch.clone, _edited)
            found = [_timed(call, x, weight, change) for change in changes]
        except Exception as error:  # noqa: BLE001 - as above
            return type(error).__name__
    return " / ".join(f"{ms:.2f}{'' if right else ' WRONG'}" for ms, right in found)


def _edited(x):
    x[3] += 1
    return x


def _timed(call, x, weight, change):
    times, right = [], True
    for _ in range(ROUNDS):
        given = change(x)
        began = time.perf_counter()
        value = call(given, weight)
        times.append(time.perf_counter() - began)
        right = right and alike(value, product(given, weight))
    return statistics.median(times) * 1e3, right
