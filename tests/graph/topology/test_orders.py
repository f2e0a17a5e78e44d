"""Pages are computed inputs first, in the same order each time."""

import logging
import random

import pytest
import torch

import mmsb_torch as mmsb

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone


def random_graph(mem, seed, count=60):
    chance = random.Random(seed)
    names = ["x", "s"]
    for i in range(count):
        inputs = chance.sample(names, min(len(names), chance.randrange(1, 4)))

        def recipe(*values, name=f"d{i}"):
            LOG.info(name)
            return sum(v.sum() for v in values)

        mem.derive(recipe, *inputs, name=f"d{i}")
        names.append(f"d{i}")
    return names


@pytest.mark.parametrize("seed", range(3))
def test_pages_are_computed_inputs_first_and_in_the_same_order_each_time(calls, seed, edges):
    orders = []
    for _ in range(2):
        with mmsb.open() as mem:
            mem.page("x", torch.arange(4.0))
            mem.page("s", torch.tensor(1))
            random_graph(mem, seed)
            for step in range(2):
                mem.update("x", float(step))
                mem.update("s", step + 5)
                mem.propagate()
                order = calls()
                assert len(order) == len(set(order))
                place = {name: i for i, name in enumerate(order)}
                for above, below in edges(mem):
                    if above in place and below in place:
                        assert place[above] < place[below]
                orders.append(order)
    assert orders[0] == orders[2]
    assert orders[1] == orders[3]
    assert mem.closed
