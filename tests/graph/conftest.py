"""What the graph's tests share: a note of what recipes report, and kinds that nobody else uses."""

import itertools
import logging

import pytest

import mmsb_torch as mmsb

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone


@pytest.fixture
def calls():
    """What recipes report, in order, noted where no digest looks; `calls()` takes it."""
    names = []

    def note(record):
        names.append(record.msg)
        if len(names) > 1_000:
            pytest.fail("runs in circles")
        return False

    def take():
        found, names[:] = list(names), []
        return found

    LOG.setLevel(logging.INFO)
    LOG.addFilter(note)
    yield take
    LOG.removeFilter(note)


@pytest.fixture
def kind():
    """Makes pages of one-off kinds: kind(mem, name, fn)."""
    numbers = itertools.count()

    def make(mem, name, function, **options):
        new = f"one-off/{name}/{next(numbers)}"
        mmsb.register_recomputation(new, function)
        return mem.page(name, kind=new, **options)

    return make
