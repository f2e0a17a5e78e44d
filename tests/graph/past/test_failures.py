"""What goes wrong in the past disturbs neither the moment nor the present."""

import logging

import pytest
import torch

import mmsb_torch as mmsb

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone


def test_a_recipe_that_fails_for_then_only(mem, calls, present):
    def picky(x):
        LOG.info("picky")
        if x[0] == 3:
            raise ArithmeticError("three")
        return x

    page = mem.derive(picky)
    mem.derive(lambda picky: picky + 1, name="below")
    mem.propagate()
    before = present(mem)
    moment = mem.at("value 3")
    for name in ("picky", "below", "picky"):
        with pytest.raises(mmsb.RecipeError, match=r"'picky'.* transaction 5.*three") as told:
            _ = moment[name]
        assert told.value.page_id == page.id
    assert mem.at("value 2")["below"][0] == 3
    assert moment["x"][0] == 3
    assert present(mem) == before
    assert page.tensor[0] == 5


def test_a_recipe_that_fails_today_only(mem):
    def picky(x):
        if x[0] == 5:
            raise ArithmeticError("five")
        return x

    page = mem.derive(picky)
    with pytest.raises(mmsb.RecipeError, match="five"):
        _ = page.tensor
    assert mem.at("value 3")["picky"][0] == 3
    assert mem.why("picky").status == "failed"


@pytest.mark.parametrize("at", [4, 7], ids=["then", "now"])
@pytest.mark.parametrize("input_name", ["x", "d"])
@pytest.mark.parametrize("sort", ["recipe", "kind"])
def test_a_recipe_that_writes_its_input_spoils_nothing(mem, kind, sort, input_name, at):
    mem.derive(lambda x: x.clone(), "x", name="d")
    mem.propagate()

    def writes(value):
        value.add_(100)
        return value.sum()

    if sort == "recipe":
        mem.derive(writes, input_name, name="w")
    else:
        kind(
            mem,
            "w",
            lambda memory, page: writes(memory[page.metadata["of"]].tensor),
            metadata={"of": input_name},
        )
    moment = mem.at(at)
    with pytest.raises(mmsb.RecipeError, match="'w'"):
        _ = moment["w"]
    value = at - 2.0
    assert torch.equal(moment[input_name], torch.full((2,), value))
    assert torch.equal(mem.at(at)[input_name], torch.full((2,), value))
    assert torch.equal(mem["x"].tensor, torch.full((2,), 5.0))
    assert torch.equal(mem["d"].tensor, torch.full((2,), 5.0))


def test_a_recipe_cannot_change_the_memory_from_the_past(mem):
    number = mem.tx

    def acting(x):
        mem.update("s", 3)
        return x

    mem.derive(acting)
    with pytest.raises(mmsb.MMSBError, match="a recipe tried to change a page"):
        _ = mem.at(4)["acting"]
    assert mem.tx == number
    mem.update("s", 3)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_the_moment_and_the_present_usable(mem, error):
    def interrupt(record):
        raise error

    def recipe(x):
        LOG.warning("run")
        return x * 2

    page = mem.derive(recipe, "x", name="d")
    moment = mem.at(4)
    LOG.addFilter(interrupt)
    try:
        with pytest.raises(error):
            _ = moment["d"]
    finally:
        LOG.removeFilter(interrupt)
    LOG.addFilter(silent)
    try:
        assert moment["d"][0] == 4
        assert page.tensor[0] == 10
        mem.update("x", 1.0)
    finally:
        LOG.removeFilter(silent)


def silent(_):
    return False
