"""Modules of the user's and cells that are run again."""

import functools
import importlib.util
import logging
import sys
import textwrap

import pytest
import torch

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone
SOURCE = """
    import logging

    LOG = logging.getLogger("recipes of the graph's tests")
    RATE = 2.0
    TABLE = [1.0, 2.0]

    def helper(x):
        return x * RATE

    def recipe(x):
        LOG.info("page")
        return helper(x) + TABLE[0]

    class Layer:
        def __call__(self, x):
            LOG.info("page")
            return helper(x)
"""


def load(path, name, source=SOURCE):
    path.write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def module(tmp_path, request):
    name = f"users_module_{abs(hash(request.node.nodeid))}"
    yield load(tmp_path / "users.py", name)
    sys.modules.pop(name, None)


MODULE_CHANGES = {
    "constant": (lambda m: ("RATE", 7.0), "RATE"),
    "container": (lambda m: ("TABLE", [5.0]), "TABLE"),
    "helper": (lambda m: ("helper", torch.neg), "helper"),
}


@pytest.mark.parametrize("change", MODULE_CHANGES.values(), ids=MODULE_CHANGES.keys())
def test_an_attribute_of_a_users_module(mem, calls, module, monkeypatch, change, surround, check):
    made, named = change
    surround(mem, module.recipe)
    check(mem, module.recipe, calls, [])
    monkeypatch.setattr(module, *made(module))
    assert named in str(mem.why("page"))
    check(mem, module.recipe, calls, ["below", "page"])


def test_a_users_module_through_its_name(mem, calls, module, monkeypatch, surround, check):
    def recipe(x):
        LOG.info("page")
        return module.helper(x) + 1

    surround(mem, recipe)
    check(mem, recipe, calls, [])
    monkeypatch.setattr(module, "TABLE", [100.0])  # not named by it
    check(mem, recipe, calls, [])
    monkeypatch.setattr(module, "RATE", 100.0)
    assert "RATE" in str(mem.why("below"))
    check(mem, recipe, calls, ["below", "page"])


def test_a_users_module_imported_inside(mem, calls, tmp_path, monkeypatch, surround, check):
    name = "users_module_imported_inside"
    monkeypatch.setitem(sys.modules, name, load(tmp_path / "a.py", name))

    def recipe(x):
        import users_module_imported_inside as users

        LOG.info("page")
        return users.helper(x)

    surround(mem, recipe)
    check(mem, recipe, calls, [])
    monkeypatch.setattr(sys.modules[name], "RATE", 9.0)
    check(mem, recipe, calls, ["below", "page"])
    other = load(tmp_path / "b.py", name, SOURCE.replace("x * RATE", "x - RATE"))
    assert sys.modules[name] is other
    check(mem, recipe, calls, ["below", "page"])


def test_a_module_loaded_again_with_equal_source_keeps_values(
    mem, calls, tmp_path, monkeypatch, surround, check
):
    name = "users_module_loaded_again"
    monkeypatch.setitem(sys.modules, name, load(tmp_path / "a.py", name))
    surround(mem, functools.partial(sys.modules[name].recipe))
    calls()
    spaced = SOURCE.replace("\n    def", "\n\n    # a comment\n    def")
    again = load(tmp_path / "b.py", name, spaced)
    mem.derive(functools.partial(again.recipe), "x", name="page")
    check(mem, again.recipe, calls, [])
    again.RATE = 3.0
    check(mem, again.recipe, calls, ["below", "page"])


def test_a_cell_run_again(mem, calls):
    """A notebook: the same source again keeps its page, other source replaces it and only it."""
    names = {"mem": mem, "torch": torch, "LOG": LOG}

    def run(cell):
        exec(compile(textwrap.dedent(cell), "<cell>", "exec"), names)

    tools = """
        def tidy(x):
            return x.clamp(max=3)
    """
    pages = """
        @mem.derive
        def page(x):
            LOG.info("page")
            return tidy(x) + 1

        @mem.derive
        def below(page):
            LOG.info("below")
            return page * 2
    """
    for cell in (tools, pages):
        run(cell)
    assert mem["below"].tensor.tolist() == [4, 6, 8, 8]
    assert calls() == ["below", "page"]
    for cell in (tools, pages, pages, tools):
        run(cell)
        assert mem["below"].tensor.tolist() == [4, 6, 8, 8]
    assert calls() == []
    run(tools.replace("3", "2"))
    assert "tidy" in str(mem.why("below"))
    assert mem["below"].tensor.tolist() == [4, 6, 6, 6]
    assert calls() == ["below", "page"]
    run(pages.replace("* 2", "* 3"))
    assert mem["below"].tensor.tolist() == [6, 9, 9, 9]
    assert calls() == ["below"]
