"""A user's module as a real file, edited and loaded again; and two ways to depend on it."""

import importlib
import logging
import sys

import pytest
import torch

import mmsb_torch as mmsb

LOG = logging.getLogger("runs of tests/graph/worlds")  # a digest knows a logger by its name alone
MODULE = "worlds_of_a_user"


@pytest.fixture
def runs():
    """How often something ran since the last question."""
    count = [0]

    def note(record):
        count[0] += 1
        return False

    LOG.setLevel(logging.INFO)
    LOG.addFilter(note)

    def take():
        found, count[0] = count[0], 0
        return found

    yield take
    LOG.removeFilter(note)


@pytest.fixture
def mem(runs):
    with mmsb.open() as memory:
        memory.page("x", torch.arange(1.0, 5.0))
        yield memory


@pytest.fixture
def module(tmp_path, monkeypatch):
    """`module(source)`: writes the file of a module, and loads it (again); returns the module."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)

    def write(source, name=MODULE):
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        loaded = sys.modules.get(name)
        return importlib.import_module(name) if loaded is None else importlib.reload(loaded)

    yield write
    sys.modules.pop(MODULE, None)


class AsPage:
    """A function as a derived page."""

    def __init__(self, mem, function, **options):
        self.mem = mem
        self.page = mem.derive(function, "x", name="page", **options)

    def value(self):
        return self.page.tensor.clone()

    def explain(self):
        return str(self.mem.why(self.page))


class AsMemo:
    """A memoised function."""

    def __init__(self, mem, function, **options):
        self.mem, self.x = mem, mem["x"].clone()
        self.function = mem.memo(function, **options)

    def value(self):
        return self.function(self.x)

    def explain(self):
        return str(self.mem.memo.explain(self.function, self.x))


@pytest.fixture(params=[AsPage, AsMemo])
def kept(request, mem):
    """`kept(function)`: something with `value()` and `explain()` that keeps its results."""
    return lambda function, **options: request.param(mem, function, **options)
