"""An edit makes exactly what depends on it stale, moves the world and is told; others change nothing."""

import importlib
import logging
import os
import sys
import types

import pytest
import torch

LOG = logging.getLogger("runs of tests/graph/worlds")

SOURCE = """
import logging
import torch
from torch import Tensor

LOG = logging.getLogger("runs of tests/graph/worlds")
SCALE = 2.0
TABLE = {"gain": [1.0, 2.0]}


def helper(x):
    return x + 1


class Model:
    def apply(self, x):
        return x * 3


MODEL = Model()


def make(offset):
    def inner(x):
        return x - offset

    return inner


shift = make(1.0)


def function(x: Tensor, bias=0.5) -> Tensor:
    LOG.info("run")
    return shift(MODEL.apply(helper(x * SCALE))) + bias + TABLE["gain"][0]


def beside(x):
    LOG.info("run")
    return x - 1
"""

MATTER = {
    "body": ('LOG.info("run")\n    return shift', 'LOG.info("run")\n    return 2 * shift'),
    "helper": ("return x + 1", "return x + 2"),
    "global": ("SCALE = 2.0", "SCALE = 3.0"),
    "type of a global": ("SCALE = 2.0", "SCALE = torch.tensor(2.0)"),
    "container": ("[1.0, 2.0]", "[5.0, 2.0]"),
    "closure": ("make(1.0)", "make(2.0)"),
    "inner function": ("return x - offset", "return x + offset"),
    "default": ("bias=0.5", "bias=1.5"),
    "method": ("return x * 3", "return x * 4"),
    "operator": ("+ bias", "- bias"),
}
DO_NOT = {
    "docstring": ("def helper(x):", 'def helper(x):\n    """One more."""'),
    "comment": ("def helper(x):", "def helper(x):  # one more"),
    "line numbers": ("SCALE = 2.0", "\n\n\nSCALE = 2.0"),
    "annotation": ("def helper(x):", "def helper(x: Tensor) -> Tensor:"),
    "the same again": ("", ""),
    "what nobody uses": ("def beside", "UNUSED = 1\n\n\ndef beside"),
    "what others use": ("return x - 1", "return x - 2"),
}


def edited(name, table):
    old, new = table[name]
    assert old in SOURCE
    return SOURCE.replace(old, new, 1) if old else SOURCE


def plain(source):
    """What `function` gives with nothing around it."""
    space = types.ModuleType("worlds_plain")
    exec(compile(source, "plain.py", "exec"), vars(space))
    return space.function(torch.arange(1.0, 5.0))


@pytest.mark.parametrize("edit", MATTER)
def test_an_edit_that_matters(edit, module, kept, runs, mem):
    loaded = module(SOURCE)
    result = kept(lambda x: loaded.function(x))
    other = mem.derive(lambda x: loaded.beside(x), "x", name="other")
    result.value(), other.tensor, runs()
    world = mem.worlds().number
    module(edited(edit, MATTER))
    assert f"in world {world + 1}" in result.explain()
    assert "changed" in result.explain()
    assert torch.equal(result.value(), plain(edited(edit, MATTER)))
    runs()
    assert torch.equal(result.value(), plain(edited(edit, MATTER)))
    _ = other.tensor
    assert runs() == 1  # plain
    assert mem.worlds().number == world + 1
    assert mem.worlds()[-1].kind == "code"
    module(SOURCE)  # back again: right, and one world more
    assert torch.equal(result.value(), plain(SOURCE))
    assert mem.worlds().number == world + 2


@pytest.mark.parametrize("edit", DO_NOT)
def test_an_edit_that_does_not_matter(edit, module, kept, runs, mem):
    loaded = module(SOURCE)
    result = kept(lambda x: loaded.function(x))
    result.value()
    assert runs() == 1
    source = edited(edit, DO_NOT)
    module(source)
    assert torch.equal(result.value(), plain(source))
    assert runs() == 1  # plain
    assert mem.worlds().number == 0
    assert not mem.worlds()


def test_another_file_name_does_not_matter(module, kept, runs, mem, tmp_path):
    loaded = module(SOURCE)
    result = kept(lambda x: loaded.function(x))
    result.value(), runs()
    exec(compile(SOURCE, "elsewhere/other.py", "exec"), vars(loaded))
    result.value()
    assert runs() == 0
    assert mem.worlds().number == 0


def test_a_cell_that_is_run_again(mem, runs):
    """Redefined as notebooks do it: the decorator runs again, before the name is another."""
    space = {"__name__": "__main__", "mem": mem}
    cell = """
import logging
LOG = logging.getLogger("runs of tests/graph/worlds")
@mem.memo
def noted(x):
    LOG.info("run")
    return x * {0}
@mem.derive
def page(x):
    LOG.info("run")
    return x * {0}
"""

    def run(factor):
        exec(cell.format(factor), space)
        value = space["noted"](torch.ones(2))
        assert torch.equal(value, torch.full((2,), float(factor)))
        assert torch.equal(space["page"].tensor, mem["x"].tensor * factor)

    run(2)
    run(2)
    assert runs() == 2
    assert mem.worlds().number == 0
    exec(cell.format(3), space)
    assert mem.worlds().number == 2
    assert {w.name for w in mem.worlds()} == {"noted", "page"}
    assert {w.module for w in mem.worlds()} == {"__main__"}
    told = str(mem.memo.explain(space["noted"], torch.ones(2)))
    assert told == ("miss: code changed (code of 'noted' changed), in world 1; computed in world 0")
    assert "computed in world 0; since then code of 'page' changed in world 2" in str(
        mem.why("page")
    )
    run(3)
    assert runs() == 2
    assert "in world 2" in str(mem.memo.explain(space["noted"], torch.ones(2)))
    assert "in world 2" in str(mem.why("page"))
    assert mem.worlds().number == 2


@pytest.fixture
def library(tmp_path, monkeypatch):
    """`library(version)`: a distribution on sys.path, installed in that version, loaded again."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def install(version, body, *, says=False):
        for old in site.glob("library_of_worlds-*"):
            (old / "METADATA").unlink()
            (old / "top_level.txt").unlink()
            old.rmdir()
        about = site / f"library_of_worlds-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: library_of_worlds\nVersion: {version}\n"
        )
        (about / "top_level.txt").write_text("library_of_worlds\n")
        line = f"__version__ = {version!r}\n" if says else ""
        source = f"{line}def scaled(x):\n    return {body}\n"
        path = site / "library_of_worlds.py"
        path.write_text(source)
        os.utime(path, (hash(version) % 10**6, hash(version) % 10**6))
        importlib.invalidate_caches()
        loaded = sys.modules.get("library_of_worlds")
        if loaded is None:
            return importlib.import_module("library_of_worlds")
        return importlib.reload(loaded)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield install
    sys.modules.pop("library_of_worlds", None)


@pytest.mark.parametrize("says", [True, False], ids=["__version__", "metadata"])
def test_the_version_of_a_library(library, kept, runs, mem, says):
    found = library("1.0", "x * 2", says=says)

    def function(x):
        LOG.info("run")
        return found.scaled(x)

    result = kept(function)
    assert torch.equal(result.value(), torch.arange(1.0, 5.0) * 2)
    library("1.0", "x * 2", says=says)  # the same, loaded again
    assert torch.equal(result.value(), torch.arange(1.0, 5.0) * 2)
    assert runs() == 1
    library("1.1", "x * 5", says=says)
    assert torch.equal(result.value(), torch.arange(1.0, 5.0) * 5)
    assert runs() == 1
    assert mem.worlds().number == 1
    assert "scaled" in mem.worlds()[0].change or "library" in mem.worlds()[0].change


def test_a_change_during_a_call_stores_nothing(kept, runs, module, mem):
    slow = SOURCE.replace("return shift(", "value = shift(").replace(
        '["gain"][0]\n', '["gain"][0]\n    EDIT()\n    return value\n'
    )
    loaded = module(slow + "\nEDIT = str")
    later = SOURCE.replace("return x + 1", "return x + 7") + "\nEDIT = str"
    edits = []

    def edit():
        if edits:
            edits.pop()()

    loaded.EDIT = edit
    result = kept(lambda x: loaded.function(x))
    runs()
    edits.append(lambda: module(later))
    first = result.value()  # ran, and its helper was another when it ended
    assert runs() == 1
    second = result.value()
    assert runs() == 1
    assert torch.equal(second, plain(later))
    assert not torch.equal(first, second)
    runs()
    assert torch.equal(result.value(), second)
    assert runs() == 0


def test_a_global_that_changes_while_the_function_runs(kept, runs, mem):
    space = {"LOG": LOG, "STATE": [1.0]}
    exec(
        "def function(x):\n    LOG.info('run')\n    value = x * STATE[0]\n"
        "    STATE[0] += 1\n    return value",
        space,
    )
    result = kept(space["function"])
    x = torch.arange(1.0, 5.0)
    for factor in (1.0, 2.0, 3.0):
        assert torch.equal(result.value(), x * factor)
    assert runs() == 3
