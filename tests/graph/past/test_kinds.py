"""Kinds of the past read the pages of their moment."""

import random

import pytest
import torch

import mmsb_torch as mmsb


def test_kinds_read_the_pages_of_the_moment(mem, kind, present):
    mem.derive(lambda x: x * 10, name="tens")

    def function(memory, _):
        name = "tens" if memory["s"].tensor == 1 else "x"
        return memory[name].tensor + memory.page("x").tensor

    page = kind(mem, "k", function)
    mem.derive(torch.neg, "k", name="below")
    for fresh in (False, True):
        if fresh:
            mem.propagate()
        before = present(mem)
        for value in (3, 1, 4, 2, 5):
            wanted = value * (11 if value % 2 else 2)
            assert mem.at(f"value {value}")["k"][0] == wanted
            assert mem.at(f"value {value}")["below"][0] == -wanted
        assert present(mem) == before
    assert page.tensor[0] == 55


def test_who_reads_whom_then_is_no_cycle_today(mem, kind):
    def read_if(turn, other):
        def function(memory, _):
            if int(memory["s"].tensor) == turn:
                return memory[other].tensor + 1
            return memory["x"].tensor

        return function

    kind(mem, "a", read_if(1, "b"))
    kind(mem, "b", read_if(0, "a"))
    assert (mem["a"].tensor[0], mem["b"].tensor[0]) == (6, 5)
    for value in (4, 3, 2):
        moment = mem.at(f"value {value}")
        wanted = (value + 1, value) if value % 2 else (value, value + 1)
        assert (moment["a"][0], moment["b"][0]) == wanted


def test_a_page_needed_today_but_not_then_may_fail(mem, kind):
    def fragile(x):
        if x[0] < 5:
            raise ArithmeticError
        return x

    mem.derive(fragile, "x", name="fragile")
    kind(
        mem,
        "k",
        lambda memory, _: memory["fragile" if memory["s"].tensor == 1 else "s"].tensor + 0.0,
    )
    assert mem["k"].tensor[0] == 5
    assert mem.at("value 4")["k"] == 0
    with pytest.raises(mmsb.RecipeError, match=r"'fragile'.*ArithmeticError"):
        _ = mem.at("value 3")["k"]


def test_a_cycle_of_the_past_is_refused(mem, kind):
    kind(mem, "a", lambda memory, _: memory["b"].tensor)
    kind(mem, "b", lambda memory, _: memory["a"].tensor)
    kind(mem, "self", lambda memory, page: memory[page.name].tensor)
    for name in ("a", "b", "self"):
        with pytest.raises(mmsb.CycleDetectedError, match=f"'{name}'"):
            _ = mem.at(4)[name]


@pytest.mark.parametrize("seed", range(3))
def test_random_histories_of_random_graphs(kind, seed):
    chance = random.Random(seed)
    with mmsb.open() as mem:
        names = ["r0", "r1", "r2"]
        for name in names:
            mem.page(name, torch.tensor(0))
        plans = {}
        for i in range(12):
            plans[f"d{i}"] = chance.sample(names, 3)
            if i % 2:
                kind(
                    mem,
                    f"d{i}",
                    lambda memory, page: _choose(
                        lambda n: memory[n].tensor, page.metadata["inputs"]
                    ),
                    metadata={"inputs": plans[f"d{i}"]},
                )
            else:
                mem.derive(lambda a, b, c: a * 3 + b - c, *plans[f"d{i}"], name=f"d{i}")
            names.append(f"d{i}")
        states = {}
        for _ in range(30):
            mem.update(chance.choice(names[:3]), chance.randrange(-3, 4))
            states[mem.tx] = {name: int(mem[name].tensor) for name in names[:3]}
            if chance.random() < 0.4:
                _ = mem[chance.choice(names)].tensor
        for tx in chance.sample(list(states), 12):
            moment = mem.at(tx)
            for name in chance.sample(list(plans), 4):
                assert int(moment[name]) == _full(states[tx], plans, name)


def _choose(read, inputs):
    switch, left, right = inputs
    return read(left if read(switch) > 0 else right) + 1


def _full(state, plans, name):
    if name in state:
        return state[name]
    read = lambda n: _full(state, plans, n)
    if int(name[1:]) % 2:
        return _choose(read, plans[name])
    a, b, c = map(read, plans[name])
    return a * 3 + b - c
