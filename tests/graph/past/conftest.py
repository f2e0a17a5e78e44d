"""What the tests of the past share: a memory with some history, and what must not move."""

import pytest
import torch

import mmsb_torch as mmsb


@pytest.fixture
def mem():
    """`x` holds its transaction's number in 1 to 5, `s` alternates: transactions 3 to 7."""
    with mmsb.open() as memory:
        memory.page("x", torch.zeros(2))
        memory.page("s", torch.tensor(0))
        for value in range(1, 6):
            with memory.commit(f"value {value}") as tx:
                tx.update("x", float(value))
                tx.update("s", value % 2)
        yield memory


def present(mem):
    """Everything that looking back must not move."""
    drawn = mem.graph
    stats = mem.stats()
    held = {name: stats[name] for name in ("recomputed", "unchanged", "cut_off", "failed")}
    why = {name: str(mem.why(name)) for name in mem}
    return mem.tx, [(n.name, n.epoch, n.status) for n in drawn.nodes], drawn.edges, held, why


@pytest.fixture(name="present")
def _present():
    return present
