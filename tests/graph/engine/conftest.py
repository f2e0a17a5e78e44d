"""What the engine's tests share: a spy in recipes, and pages whose recipes report to it."""

import logging

import pytest
import torch

import mmsb_torch as mmsb

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone


class Spy:
    """Notes what recipes report through LOG, where no digest looks; may act on it, too."""

    def __init__(self):
        self.names, self.act, self.kept = [], {}, []

    def __call__(self, record):
        self.names.append(record.msg)
        if len(self.names) > 1_000:
            pytest.fail(f"runs in circles: {self.names[-4:]}")
        self.kept += record.args or ()
        self.act.get(record.msg, lambda: None)()
        return False

    def taken(self):
        """What was reported since the last call, sorted."""
        names, self.names = sorted(self.names), []
        return names


@pytest.fixture
def spy():
    watching = Spy()
    LOG.setLevel(logging.INFO)
    LOG.addFilter(watching)
    yield watching
    LOG.removeFilter(watching)


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        memory.page("x", torch.arange(6.0).view(3, 2))
        memory.page("y", torch.ones(3, 2))
        yield memory


def reporting(function, report):
    """`function`, reporting each call under `report`."""

    def recipe(*values):
        LOG.info(report)
        return function(*values)

    return recipe


def derive(mem, name, function, *inputs):
    """A page whose recipe reports its name."""
    return mem.derive(reporting(function, name), *inputs, name=name)


@pytest.fixture(name="derive")
def _derive():
    return derive
