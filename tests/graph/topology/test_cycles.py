"""Cycles are refused with their path, and nothing changes."""

import sys

import pytest
import torch

import mmsb_torch as mmsb


def chain(mem, length):
    for i in range(length):
        mem.derive(torch.neg, f"c{i - 1}" if i else "x", name=f"c{i}")


@pytest.mark.parametrize("read_before", [True, False])
@pytest.mark.parametrize(
    ("page", "inputs", "path"),
    [
        ("c0", ["c0"], "'c0' -> 'c0'"),
        ("c0", ["c1"], "'c0' -> 'c1' -> 'c0'"),
        ("c0", ["c3"], "'c0' -> 'c3' -> 'c2' -> 'c1' -> 'c0'"),
        ("c1", ["x", "c3"], "'c1' -> 'c3' -> 'c2' -> 'c1'"),
        ("c1", ["c0", "s", "c2"], "'c1' -> 'c2' -> 'c1'"),
    ],
)
def test_declaring_a_cycle_is_refused_with_its_path(
    mem, page, inputs, path, read_before, everything
):
    chain(mem, 4)
    if read_before:
        mem.propagate()
    before, values = everything(mem), {n: mem.at(mem.tx)[n].clone() for n in mem}
    with pytest.raises(mmsb.CycleDetectedError) as told:
        mem.derive(lambda *v: v[0], *inputs, name=page)
    assert _cycles(path, str(told.value)), told.value
    assert told.value.page_id == mem[page].id
    assert everything(mem) == before
    assert all(torch.equal(mem[n].tensor, value) for n, value in values.items())
    mem.update("x", 7.0)
    assert torch.equal(mem["c3"].tensor, torch.full((4,), 7.0))


def _cycles(path, message):
    """Whether the message has the path, told in either direction."""
    names = path.split(" -> ")
    return path in message or " -> ".join(reversed(names)) in message


def test_a_parameter_that_names_the_page_itself_is_refused(mem):
    mem.derive(lambda x: x + 1, name="loop")

    def loop(loop):
        return loop

    with pytest.raises(mmsb.CycleDetectedError, match="'loop' -> 'loop'"):
        mem.derive(loop)
    assert torch.equal(mem["loop"].tensor, torch.arange(4.0) + 1)


def test_a_page_cannot_be_its_own_input_before_it_exists(mem):
    with pytest.raises(mmsb.PageNotFoundError, match="'new'"):
        mem.derive(torch.neg, "new", name="new")
    assert "new" not in mem


def test_a_long_cycle_is_found_without_recursion(mem):
    chain(mem, 3_000)
    limit = sys.getrecursionlimit()
    with pytest.raises(mmsb.CycleDetectedError, match="'c2999'"):
        mem.derive(torch.neg, "c2999", name="c0")
    assert sys.getrecursionlimit() == limit


def test_edges_turned_round_one_by_one_are_no_cycle(mem, edges):
    mem.derive(torch.neg, "x", name="a")
    mem.derive(torch.neg, "a", name="b")
    assert torch.equal(mem["b"].tensor, torch.arange(4.0))
    mem.derive(torch.abs, "x", name="b")
    mem.derive(torch.neg, "b", name="a")
    assert torch.equal(mem["a"].tensor, -torch.arange(4.0))
    assert edges(mem) == [("b", "a"), ("x", "b")]


# cycles by reading


def test_a_kind_that_reads_itself_is_refused(mem, kind, edges):
    page = kind(mem, "self", lambda memory, page: memory[page.name].tensor)
    for _ in range(2):
        with pytest.raises(mmsb.CycleDetectedError, match="'self'"):
            _ = page.tensor
    assert edges(mem) == []


def test_kinds_that_read_each_other_are_refused_and_nothing_else_suffers(mem, kind, edges):
    a = kind(mem, "a", lambda memory, _: memory["b"].tensor + 1)
    b = kind(mem, "b", lambda memory, _: memory["c"].tensor + 1)
    kind(mem, "c", lambda memory, _: memory["a"].tensor + 1)
    mem.derive(torch.neg, "x", name="beside")
    for _ in range(2):
        for page in (a, b):
            with pytest.raises(mmsb.CycleDetectedError) as told:
                _ = page.tensor
            text = str(told.value)
            assert any(_cycles(p, text) for p in _rotations("a", "b", "c")), text
    assert torch.equal(mem["beside"].tensor, -torch.arange(4.0))
    kind(mem, "c", lambda memory, _: memory["x"].tensor)
    assert torch.equal(a.tensor, torch.arange(4.0) + 2)
    assert edges(mem) == [("b", "a"), ("c", "b"), ("x", "beside"), ("x", "c")]


def _rotations(*names):
    for i in range(len(names)):
        turned = names[i:] + names[:i]
        yield " -> ".join(map(repr, (*turned, turned[0])))


def test_a_kind_that_reads_what_depends_on_it_is_refused(mem, kind):
    page = kind(mem, "k", lambda memory, _: memory["x"].tensor)
    mem.derive(torch.neg, "k", name="below")
    assert torch.equal(mem["below"].tensor, -torch.arange(4.0))
    kind(mem, "k", lambda memory, _: memory["below"].tensor)
    with pytest.raises(mmsb.CycleDetectedError) as told:
        _ = page.tensor
    assert _cycles("'k' -> 'below' -> 'k'", str(told.value))
    with pytest.raises(mmsb.MMSBError):
        _ = mem["below"].tensor
    kind(mem, "k", lambda memory, _: memory["x"].tensor * 2)
    assert torch.equal(mem["below"].tensor, -torch.arange(4.0) * 2)


def test_a_declared_recipe_that_reads_its_dependant_is_refused(mem, kind, edges):
    mem.derive(torch.neg, "x", name="d")
    kind(mem, "k", lambda memory, _: memory["d"].tensor)
    assert torch.equal(mem["k"].tensor, -torch.arange(4.0))
    before = edges(mem)
    with pytest.raises(mmsb.CycleDetectedError):
        mem.derive(torch.neg, "k", name="d")
    assert edges(mem) == before
    assert torch.equal(mem["k"].tensor, -torch.arange(4.0))


def _read_if(memory, turn, other):
    if int(memory["s"].tensor) == turn:
        return memory[other].tensor + 1
    return memory["x"].tensor


def test_a_cycle_that_only_old_values_make_is_none(mem, kind):
    """`s` says who reads whom; what was read under another `s` binds nobody."""
    kind(mem, "a", lambda memory, _: _read_if(memory, 1, "b"))
    kind(mem, "b", lambda memory, _: _read_if(memory, 0, "a"))
    x = torch.arange(4.0)
    for turn, first in [(1, "a"), (0, "b"), (1, "a"), (1, "b"), (0, "a"), (0, "b")]:
        mem.update("s", turn)
        assert mem[first].tensor.shape == (4,)
        assert torch.equal(mem["a"].tensor, x + turn)
        assert torch.equal(mem["b"].tensor, x + 1 - turn)
