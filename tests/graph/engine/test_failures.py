"""What fails, is interrupted or writes its inputs disturbs nothing else."""

import logging
import types

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone


def writes(x):
    x.add_(1)
    return x.sum()


def writes_through_a_view(x):
    x[0].view(-1)[1:].zero_()
    return x.sum()


def writes_as_output(x):
    return torch.neg(x, out=x)


def writes_and_fails(x):
    x.add_(1)
    raise ValueError("after the write")


def writes_and_fixes(x):
    x.add_(1)
    x.sub_(1)
    return x.sum()


@pytest.mark.parametrize("input_name", ["x", "d"])
@pytest.mark.parametrize(
    "recipe",
    [writes, writes_through_a_view, writes_as_output, writes_and_fails, writes_and_fixes],
    ids=lambda f: f.__name__,
)
def test_a_recipe_that_writes_its_input_is_refused_and_the_value_is_back(mem, recipe, input_name):
    mem.derive(lambda x: x + 1, "x", name="d")
    wanted = mem[input_name].clone()
    page = mem.derive(recipe, input_name, name="p")
    for _ in range(2):
        with pytest.raises(mmsb.RecipeError, match="'p'"):
            _ = page.tensor
        assert same_bits(mem[input_name].tensor, wanted)
    mem.derive(torch.sum, input_name, name="p")
    assert page.tensor == wanted.sum()


def test_every_input_that_was_written_is_back(mem):
    def writes_all(x, y, d):
        for value in (x, y, d):
            value.fill_(9)
        return x + y

    mem.derive(lambda x: x + 1, "x", name="d")
    mem.derive(writes_all, name="p")
    for _ in range(2):
        with pytest.raises(mmsb.RecipeError, match="'p'"):
            _ = mem["p"].tensor
        assert torch.equal(mem["x"].tensor, torch.arange(6.0).view(3, 2))
        assert torch.equal(mem["y"].tensor, torch.ones(3, 2))
        assert torch.equal(mem["d"].tensor, torch.arange(6.0).view(3, 2) + 1)


@pytest.mark.parametrize("input_name", ["x", "d"])
def test_a_kind_that_writes_what_it_reads_is_refused_and_the_value_is_back(mem, input_name):
    mem.derive(lambda x: x + 1, "x", name="d")
    wanted = mem[input_name].clone()
    mmsb.register_recomputation(
        "engine/writes", lambda memory, page: writes(memory[page.metadata["of"]].tensor)
    )
    page = mem.page("p", kind="engine/writes", metadata={"of": input_name})
    with pytest.raises(mmsb.RecipeError, match="'p'"):
        _ = page.tensor
    assert same_bits(mem[input_name].tensor, wanted)


def test_a_recipe_cannot_change_the_memory(mem):
    before = mem.tx
    acts = {
        "update": lambda: mem.update("y", 3.0),
        "create": lambda: mem.page("new", torch.ones(1)),
        "restore": lambda: mem.restore(1),
        "commit": lambda: mem.commit().__enter__(),
    }
    held = types.SimpleNamespace(act=None)

    def acting(x):
        held.act()
        return x

    page = mem.derive(acting, "x", name="acting")
    for held.act in acts.values():
        with pytest.raises(mmsb.RecipeError, match="a recipe tried to change a page"):
            _ = page.tensor
    assert mem.tx == before
    assert "new" not in mem
    mem.update("y", 3.0)


def test_a_failing_recipe_leaves_everything_else_right_and_recovers(mem, spy, derive):
    def picky(x):
        LOG.info("picky")
        if x[0, 0] < 0:
            raise ArithmeticError("no negatives")
        return x + 1

    page = mem.derive(picky, "x", name="picky")
    below = derive(mem, "below", lambda p: p * 2, "picky")
    beside = derive(mem, "beside", lambda x: x - 1, "x")
    mem.propagate()
    spy.taken()
    mem.update("x", -1.0)
    for number in range(2):
        for name in ("picky", "below"):
            with pytest.raises(mmsb.RecipeError, match=r"'picky'.*ArithmeticError: no neg") as told:
                _ = mem[name].tensor
            assert isinstance(told.value.__cause__, ArithmeticError)
            assert told.value.page_id == page.id
        assert torch.equal(beside.tensor, torch.full((3, 2), -2.0))
        assert spy.taken() == ["beside", "picky", "picky"][number:]
    assert mem.why("picky").status == "failed"
    assert mem.why("below").status == "stale"
    assert mem.stats()["failed"] == 4
    mem.update("x", 5.0)
    assert torch.equal(below.tensor, torch.full((3, 2), 12.0))
    assert spy.taken() == ["below", "picky"]
    assert (mem.why("picky").status, mem.why("below").status) == ("fresh", "fresh")


def test_a_recipe_that_recovers_by_itself_is_tried_again(mem, spy):
    def flaky(x):
        LOG.info("flaky")
        return x + 1

    def fail():
        raise OSError("not now")

    page = mem.derive(flaky, "x", name="flaky")
    spy.act["flaky"] = fail
    for _ in range(3):
        with pytest.raises(mmsb.RecipeError, match="OSError: not now"):
            _ = page.tensor
    del spy.act["flaky"]
    assert torch.equal(page.tensor, mem["x"].tensor + 1)
    assert spy.taken() == ["flaky"] * 4


def test_propagate_computes_the_rest_and_raises(mem, spy, derive):
    derive(mem, "a", lambda x: x + 1, "x")
    derive(mem, "b", lambda a: a.nonsense, "a")
    derive(mem, "c", lambda b: b + 1, "b")
    derive(mem, "d", lambda a: a + 1, "a")
    derive(mem, "e", lambda y: y.rubbish, "y")
    derive(mem, "f", lambda c, d: c + d, "c", "d")
    with pytest.raises(mmsb.RecipeError, match=r"'b'.*nonsense") as told:
        mem.propagate()
    assert "'e'" in "".join(told.value.__notes__)
    assert spy.taken() == ["a", "b", "d", "e"]
    assert {n: mem.why(n).status for n in "abcdef"} == {
        "a": "fresh", "b": "failed", "c": "new", "d": "fresh", "e": "failed", "f": "new",
    }  # fmt: skip
    assert spy.taken() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_inside_a_recipe_leaves_the_graph_usable(mem, spy, error, derive):
    page = derive(mem, "p", lambda x: x + 1, "x")
    below = derive(mem, "below", lambda p: p + 1, "p")

    def interrupt():
        raise error

    spy.act["p"] = interrupt
    for read in (lambda: page.tensor, lambda: below.tensor, mem.propagate):
        with pytest.raises(error):
            read()
    del spy.act["p"]
    assert torch.equal(below.tensor, mem["x"].tensor + 2)
    mem.update("x", 1.0)
    assert torch.equal(below.tensor, torch.full((3, 2), 3.0))


def test_derived_pages_are_changed_by_nobody_else(mem):
    page = mem.derive(lambda x: x + 1, "x", name="p")
    with pytest.raises(mmsb.DerivedPageError, match="'p'"):
        mem.update("p", 1.0)
    with pytest.raises(mmsb.DerivedPageError), mem.commit() as tx:
        tx.update(page, 1.0)
    assert torch.equal(page.tensor, mem["x"].tensor + 1)
    page.tensor.zero_()
    with pytest.raises(mmsb.PageMutatedError, match="'p'"):
        _ = page.tensor
    assert torch.equal(page.tensor, mem["x"].tensor + 1)


@pytest.mark.timeout(10)
def test_whoever_else_reads_what_a_recipe_writes_into_is_right(mem):
    mem.derive(lambda x: x + 1, "x", name="d")
    mem.derive(writes, "d", name="writer")
    mem.derive(lambda d: d * 2, "d", name="other")
    for step in range(2):
        with pytest.raises(mmsb.RecipeError, match="'writer'"):
            mem.propagate()
        assert torch.equal(mem["other"].tensor, (mem["x"].tensor + 1) * 2)
        assert torch.equal(mem["d"].tensor, mem["x"].tensor + 1)
        mem.update("x", float(step))
