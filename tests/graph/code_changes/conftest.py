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


def beside(x):
    LOG.info("beside")
    return x - 1


def below(page):
    LOG.info("below")
    return page + 1


def surround(mem, recipe):
    """Computes `page` by the recipe, `below` of it, and `beside`."""
    mem.derive(recipe, "x", name="page")
    mem.derive(below)
    mem.derive(beside)
    mem.propagate()


def check(mem, recipe, calls, reported):
    """Everything is right, and only `reported` ran."""
    wanted = recipe(mem["x"].clone())
    calls()
    assert torch.equal(mem["below"].tensor, wanted + 1)
    assert torch.equal(mem["page"].tensor, wanted)
    assert torch.equal(mem["beside"].tensor, mem["x"].tensor - 1)
    assert calls() == reported
    assert mem.propagate() == []
    assert calls() == []


@pytest.fixture(name="beside")
def _beside():
    return beside


@pytest.fixture(name="below")
def _below():
    return below


@pytest.fixture(name="surround")
def _surround():
    return surround


@pytest.fixture(name="check")
def _check():
    return check
