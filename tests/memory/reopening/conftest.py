"""What the tests of reopening share: a store with a derived page, and a read that is refused."""

import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(6.0).view(3, 2)


def doubled(a):
    return a * 2


def make(path, recipe=doubled, name="d"):
    """A store with a page `a` and a computed page derived from it."""
    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(recipe, "a", name=name).tensor


@pytest.fixture(name="make")
def _make():
    return make


@pytest.fixture
def made(path):
    make(path)
    return path


def refused_read(memory, name, *words):
    """Checks that a page gives no value without its recipe, and says so."""
    with pytest.raises(mmsb.RecipeNotLoadedError) as caught:
        _ = memory[name].tensor
    assert isinstance(caught.value, LookupError)
    message = str(caught.value)
    assert all(word in message for word in (f"'{name}'", "mem.derive", *words)), message


@pytest.fixture(name="refused_read")
def _refused_read():
    return refused_read
