"""Pages that grow: rows that were appended are computed, and appended to what follows from them."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

N = 100


@pytest.mark.parametrize("rows", [True, None], ids=["claimed", "proved"])
def test_only_what_was_appended_is_computed(mem, rows):
    net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    x = mem.page("x", torch.randn(N, 6))
    y = mem.derive(net, x, name="y", rows=rows)
    z = mem.derive(lambda y: y * 2, y, name="z", rows=rows)
    z.tensor  # noqa: B018
    mem.update(x, torch.randn(1, 6), rows=[3])
    z.tensor  # noqa: B018
    kept = z.tensor
    bits = kept.clone()
    mem.append(x, torch.randn(2, 6))
    with torch.no_grad():
        assert same_bits(z.tensor, net(x.tensor) * 2)
    assert z.shape == (N + 2, 3)
    assert (mem.why("y").engine, mem.why("y").computed_rows) == ("slice", 2)
    assert mem.why("z").computed_rows == 2
    assert torch.equal(kept, bits)  # an alias taken before keeps its rows


def test_appended_and_edited_between_two_reads(mem):
    x = mem.page("x", torch.randn(N, 6))
    y = mem.derive(torch.exp, x, name="y", rows=True)
    y.tensor  # noqa: B018
    mem.append(x, torch.randn(3, 6))
    mem.update(x, torch.randn(2, 6), rows=[0, N + 1])
    mem.append(x, torch.randn(1, 6))
    assert torch.equal(y.tensor, x.tensor.exp())
    assert mem.why("y").computed_rows == 5


def test_inputs_that_grow_together_and_apart(mem):
    a, b = mem.page("a", torch.randn(N, 2)), mem.page("b", torch.randn(N, 2))
    y = mem.derive(lambda a, b: a + b, a, b, name="y", rows=True)
    y.tensor  # noqa: B018
    with mem.commit() as tx:
        tx.append(a, torch.ones(1, 2))
        tx.append(b, torch.ones(1, 2))
    assert torch.equal(y.tensor, a.tensor + b.tensor)
    assert mem.why("y").engine == "slice"
    mem.append(a, torch.ones(1, 2))
    with pytest.raises(mmsb.RecipeError):
        y.tensor  # noqa: B018
    mem.append(b, torch.ones(1, 2))
    assert torch.equal(y.tensor, a.tensor + b.tensor)


def test_going_back_to_fewer_rows(mem):
    x = mem.page("x", torch.randn(N, 2))
    y = mem.derive(torch.exp, x, name="y", rows=True)
    y.tensor  # noqa: B018
    then = mem.tx
    mem.append(x, torch.randn(4, 2))
    y.tensor  # noqa: B018
    mem.restore(then)
    assert torch.equal(y.tensor, x.tensor.exp())
    assert len(y.tensor) == N
    mem.append(x, torch.randn(1, 2))
    assert torch.equal(y.tensor, x.tensor.exp())


def test_a_table_that_grows_is_no_row_input(mem):
    ids, table = mem.page("ids", torch.arange(N) % 10), mem.page("table", torch.randn(10, 3))
    y = mem.derive(lambda ids, table: table[ids], ids, table, name="y")
    y.tensor  # noqa: B018
    mem.append(table, torch.randn(1, 3))
    mem.update(ids, torch.tensor([10]), rows=[5])
    assert torch.equal(y.tensor, table.tensor[ids.tensor])
    mem.update(ids, torch.tensor([3]), rows=[7])
    assert torch.equal(y.tensor, table.tensor[ids.tensor])


@pytest.mark.parametrize("seed", range(5))
def test_any_mix_of_appends_and_edits(mem, seed):
    chance = random.Random(seed)
    torch.manual_seed(seed)
    net = nn.Linear(4, 4)
    x = mem.page("x", torch.randn(N, 4))
    y = mem.derive(net, x, name="y")
    z = mem.derive(lambda y: y.sigmoid() + 1, y, name="z", rows=True)
    for _ in range(25):
        kind = chance.randrange(5)
        if kind == 0:
            mem.append(x, torch.randn(chance.choice([0, 1, 20]), 4))
        elif kind == 1:
            mem.restore(chance.randrange(1, mem.tx + 1))
        else:
            rows = chance.sample(range(len(x.tensor)), chance.choice([1, 17]))
            mem.update(x, torch.randn(len(rows), 4), rows=rows)
        if chance.random() < 0.6:
            with torch.no_grad():
                expected = net(x.tensor)
            assert torch.allclose(y.tensor, expected, atol=1e-5)
            assert torch.allclose(z.tensor, y.tensor.sigmoid() + 1, rtol=1e-6)
