"""Chains, ladders and fans of thousands of pages need no deep stack and little time."""

import json
import sys
import time

import pytest
import torch

import mmsb_torch as mmsb


def ladder(mem, name, rungs):
    """Diamonds in a row: two pages a rung, each from both pages of the rung before."""
    left, right = f"{name} left 0", f"{name} right 0"
    mem.derive(torch.neg, "x", name=left)
    mem.derive(torch.abs, "x", name=right)
    for rung in range(1, rungs):
        above = left, right
        left, right = f"{name} left {rung}", f"{name} right {rung}"
        mem.derive(torch.maximum, *above, name=left)
        mem.derive(torch.minimum, *above, name=right)
    return left, right


@pytest.fixture
def limits():
    """The recursion limit stays, and is too low for whoever recurses over a large graph."""
    limit = sys.getrecursionlimit()
    began = time.perf_counter()

    def within(seconds):
        nonlocal began
        took, began = time.perf_counter() - began, time.perf_counter()
        assert took < seconds, f"took {took:.1f} s"

    yield within
    assert sys.getrecursionlimit() == limit


def look_at(mem, name, wanted, moment):
    """Every way to look at one page of a large graph."""
    assert torch.equal(mem[name].tensor, wanted)
    drawn = mem.graph
    assert len(drawn.nodes) == len(mem)
    assert "fresh" in drawn.text()
    answer = mem.why(name)
    assert repr(name) in str(answer)
    json.dumps(answer.as_dict())
    assert mem.at(moment)[name].shape == wanted.shape
    assert len(mem.at(moment)) == len(mem)
    repr(mem[name]), mem.stats(), repr(mem)


@pytest.mark.timeout(150)
def test_a_fan_in_of_ten_thousand(mem, limits):
    for i in range(5_000):
        mem.page(f"r{i}", torch.tensor(1.0))
        mem.derive(torch.neg, f"r{i}", name=f"d{i}")
    inputs = [f"{kind}{i}" for i in range(5_000) for kind in "rd"]
    mem.derive(lambda *values: torch.stack(values).sum(), *inputs, name="sum")
    limits(20)
    moment = mem.tx
    assert mem["sum"].tensor == 0
    limits(20)
    mem.update("r77", 3.0)
    mem.derive(torch.abs, "r78", name="d78")
    assert mem["sum"].tensor == 2
    limits(20)
    look_at(mem, "sum", torch.tensor(2.0), moment)
    limits(20)


@pytest.mark.timeout(150)
def test_a_ladder_of_a_thousand_diamonds(mem, limits):
    left, _ = ladder(mem, "ladder", 1_000)
    moment, x = mem.tx, mem["x"].clone()
    assert torch.equal(mem[left].tensor, x)
    limits(20)
    mem.update("x", 2.0)
    assert torch.equal(mem[left].tensor, torch.full((3, 2), 2.0))
    limits(20)
    look_at(mem, left, torch.full((3, 2), 2.0), moment)
    limits(60)
    with pytest.raises(mmsb.CycleDetectedError):
        mem.derive(torch.neg, left, name="ladder left 0")
    limits(20)


@pytest.mark.timeout(60)
def test_a_long_chain_of_kinds_needs_no_deep_stack(mem):
    def plus_one(memory, page):
        above = page.metadata["of"]
        return memory[above].tensor + 1

    mmsb.register_recomputation("engine/plus one", plus_one)
    for i in range(400):
        of = f"n{i - 1}" if i else "x"
        mem.page(f"n{i}", kind="engine/plus one", metadata={"of": of})
    assert torch.equal(mem["n399"].tensor, mem["x"].tensor + 400)
    mem.update("x", 1.0)
    assert torch.equal(mem["n399"].tensor, torch.full((3, 2), 401.0))


@pytest.mark.timeout(150)
def test_a_chain_of_ten_thousand(mem, limits):
    for i in range(10_000):
        mem.derive(torch.neg, f"n{i - 1}" if i else "x", name=f"n{i}")
    limits(20)
    moment, x = mem.tx, mem["x"].clone()
    assert torch.equal(mem["n9999"].tensor, x)
    limits(20)
    mem.update("x", 2.0)
    assert len(mem.propagate()) == 10_000
    limits(20)
    for _ in range(5):
        _ = mem["n9999"].tensor
    limits(20)
    look_at(mem, "n9999", torch.full((3, 2), 2.0), moment)
    limits(20)
    mem.derive(torch.abs, "x", name="n0")
    assert torch.equal(mem["n9999"].tensor, torch.full((3, 2), -2.0))
    limits(20)
    with pytest.raises(mmsb.CycleDetectedError):
        mem.derive(torch.neg, "n9999", name="n0")
    limits(20)
