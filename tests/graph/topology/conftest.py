"""What the tests of edges share."""

import pytest
import torch

import mmsb_torch as mmsb


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        memory.page("x", torch.arange(4.0))
        memory.page("s", torch.tensor(0))
        yield memory


def edges(mem):
    """All edges by the names of their pages, sorted."""
    names = {node.id: node.name for node in mem.graph.nodes}
    return sorted((names[a], names[b]) for a, b in mem.graph.edges)


@pytest.fixture(name="edges")
def _edges():
    return edges


def everything(mem):
    """The edges, and each page's status and epoch."""
    return edges(mem), {n: (mem.why(n).status, mem[n].epoch) for n in mem}


@pytest.fixture(name="everything")
def _everything():
    return everything
