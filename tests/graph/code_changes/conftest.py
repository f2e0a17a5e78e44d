"""What the tests of changed code share: a page whose recipe changes, one below it and one beside."""

import logging

import pytest
import torch

import mmsb_torch as mmsb

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone


@pytest.fixture
def calls(calls):
    """What recipes report, sorted."""
    return lambda: sorted(calls())


@pytest.fixture
def mem(calls):
    """`page` by a recipe under test is in the middle; `beside` has nothing to do with it."""
    with mmsb.open() as memory:
        memory.page("x", torch.arange(1.0, 5.0))
        yield memory


def page_beside(x):
    LOG.info("beside")
    return x - 1


def page_below(page):
    LOG.info("below")
    return page + 1


def declare(mem, recipe):
    mem.derive(recipe, "x", name="page")
    mem.derive(page_below, name="below")
    mem.derive(page_beside, name="beside")
    mem.propagate()


def compare(mem, recipe, calls, reported):
    """Everything is right, and only `reported` ran."""
    wanted = recipe(mem["x"].clone())
    calls()
    assert torch.equal(mem["below"].tensor, wanted + 1)
    assert torch.equal(mem["page"].tensor, wanted)
    assert torch.equal(mem["beside"].tensor, mem["x"].tensor - 1)
    assert calls() == reported
    assert mem.propagate() == []
    assert calls() == []


@pytest.fixture
def surround():
    """surround(mem, recipe): computes `page` by the recipe, `below` of it, and `beside`."""
    return declare


@pytest.fixture
def check():
    """check(mem, recipe, calls, reported): everything is right, and only `reported` ran."""
    return compare
