"""What the tests of recipes share."""

import itertools

import pytest
import torch

import mmsb_torch as mmsb

_numbers = itertools.count()


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        memory.page("x", torch.arange(6.0).view(3, 2))
        memory.page("y", torch.full((3, 2), 10.0))
        yield memory


@pytest.fixture
def kind():
    """A name of a kind that nobody else uses."""
    return f"recipes/{next(_numbers)}"
