"""What the collector's tests share: a memory's work, and what is left of it."""

import contextlib
import random

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import list_checkpoints
from mmsb_torch.testing import values


def at_hand(memory):
    """Moment -> its values, of every moment that there is."""
    found = {}
    for tx in range(memory.tx + 1):
        with contextlib.suppress(mmsb.HistoryError):
            found[tx] = dict(memory.at(tx))
    return found


def size(path):
    """Bytes of a store; what checkpoints share counts once."""
    sizes = {}
    for item in path.rglob("*"):
        if item.is_file():
            status = item.stat()
            sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


def checkpoints(path):
    return [ref.tx for ref in list_checkpoints(path)]


def run(memory, count, states, every=5):
    """Commits of every form, some labelled, a checkpoint now and then."""
    numbers = random.Random(memory.tx)
    for _ in range(count):
        tx = memory.tx
        if tx % 9 == 0:
            memory.page(f"page {tx}", torch.randn(4, 8))
        elif tx % 9 == 4:
            memory.update("page 0", torch.randn(4, 8))
        elif tx % 9 == 6:
            with memory.commit(f"release-{tx}", step=10 * tx) as changes:
                changes.update("page 0", float(tx), rows=[0])
        elif tx % 9 == 7 and "big" not in memory:
            memory.page("big", torch.randn(300_000))
        elif tx % 9 == 7:
            memory.update("big", torch.randn(300_000))
        else:
            memory.update("page 0", torch.randn(2, 8), rows=numbers.sample(range(4), 2))
        states[memory.tx] = values(memory)
        if every and memory.tx % every == 0:
            memory.checkpoint()


class Kit:
    """The helpers above."""

    at_hand = staticmethod(at_hand)
    checkpoints = staticmethod(checkpoints)
    run = staticmethod(run)
    size = staticmethod(size)


@pytest.fixture(scope="session")
def kit():
    return Kit
