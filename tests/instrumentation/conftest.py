"""Code as a user would write it, executed in a namespace of its own."""

import itertools
import sys
import textwrap
import types

import pytest

from mmsb_torch.instrumentation.code import Definition

_COUNT = itertools.count()


def execute(source, **names):
    """Runs source text like a notebook's cell and returns its namespace."""
    namespace = {"__name__": "__main__", **names}
    exec(compile(textwrap.dedent(source), f"<cell {next(_COUNT)}>", "exec"), namespace)
    return namespace


@pytest.fixture
def cell():
    """`cell(source, **names)`: a fresh namespace in which the source has run."""
    return execute


@pytest.fixture
def rerun():
    """`rerun(namespace, source)`: runs a cell in a namespace that is already there."""

    def run(namespace, source):
        exec(compile(textwrap.dedent(source), f"<cell {next(_COUNT)}>", "exec"), namespace)

    return run


@pytest.fixture
def digest(cell):
    """`digest(source, **names)`: the digest of `f` as the source defines it."""
    return lambda source, **names: Definition.of(cell(source, **names)["f"]).digest


@pytest.fixture
def user_module(monkeypatch):
    """`user_module(name, source)`: an importable module that no library owns."""

    def make(name, source):
        module = types.ModuleType(name)
        module.__file__ = f"/somewhere/{name}.py"
        exec(compile(textwrap.dedent(source), module.__file__, "exec"), vars(module))
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return make
