"""What the state's tests share: entries, and routers with pages."""

import pytest
import torch

from mmsb_torch.runtime.state import Entry, Router, stage
from mmsb_torch.runtime.store import Log
from mmsb_torch.types import PageInfo, Spec


def info_of(value, number=1, name="page", *, derived=False):
    spec = None if derived else Spec.of(value)
    return PageInfo(number, name, spec, derived, {}, 0)


class Kit:
    """Makes entries and routers."""

    def entry(self, value, number=1, name="page", *, derived=False):
        """A page's entry that holds a copy of `value`."""
        entry = Entry(info_of(value, number, name, derived=derived))
        entry.put(value.clone(), shared=False)
        return entry

    def router(self, **values):
        """A router with a page for each keyword, in order, ids from 1."""
        router = Router(Log())
        for number, (name, value) in enumerate(values.items(), 1):
            router.create(info_of(value, number, name), value.clone())
        return router

    def update(self, router, name, values, **selection):
        """Stage and commit one update."""
        return router.commit([stage(router.table.find(name), values, **selection)])

    def value(self, router, name):
        """A copy of a page's present value."""
        return router.read(router.table.find(name)).clone()


@pytest.fixture
def kit():
    return Kit()


@pytest.fixture
def xy(kit):
    """A router with `x` (float32 [6]) and `y` (int64 [4])."""
    return kit.router(x=torch.zeros(6), y=torch.zeros(4, dtype=torch.int64))
