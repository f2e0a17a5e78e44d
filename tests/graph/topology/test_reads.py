"""What a recipe reads by itself is what it depends on."""

import logging

import pytest
import torch

import mmsb_torch as mmsb

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone


def test_what_a_kind_reads_is_what_it_depends_on(mem, kind, calls, edges):
    mem.page("t", torch.ones(4))
    mem.derive(torch.neg, "t", name="d")

    def either(memory, page):
        LOG.info(page.name)
        return memory["x"].read(rows=[0]) if memory["s"].tensor == 0 else memory["d"].clone()

    page = kind(mem, "k", either)
    assert edges(mem) == [("t", "d")]
    assert torch.equal(page.tensor, torch.zeros(1))
    assert edges(mem) == [("s", "k"), ("t", "d"), ("x", "k")]
    mem.update("t", 2.0)
    assert torch.equal(page.tensor, torch.zeros(1))
    assert calls() == ["k"]
    mem.update("s", 1)
    assert torch.equal(page.tensor, torch.full((4,), -2.0))
    assert edges(mem) == [("d", "k"), ("s", "k"), ("t", "d")]
    mem.update("x", 5.0)
    assert torch.equal(page.tensor, torch.full((4,), -2.0))
    assert calls() == ["k"]
    mem.update("t", 3.0)
    assert torch.equal(page.tensor, torch.full((4,), -3.0))
    assert calls() == ["k"]
    mem.update("s", 0)
    assert torch.equal(page.tensor, torch.full((1,), 5.0))


def test_pages_below_follow_what_a_kind_now_reads(mem, kind):
    mem.page("t", torch.ones(4))
    kind(mem, "k", lambda memory, _: memory["x" if memory["s"].tensor == 0 else "t"].clone())
    mem.derive(torch.neg, "k", name="below")
    mem.derive(torch.neg, "below", name="further")
    assert torch.equal(mem["further"].tensor, torch.arange(4.0))
    mem.update("s", 1)
    assert torch.equal(mem["k"].tensor, torch.ones(4))
    assert torch.equal(mem["further"].tensor, torch.ones(4))
    for value in (2.0, 3.0):
        mem.update("t", value)
        assert torch.equal(mem["further"].tensor, torch.full((4,), value))
    mem.update("x", 9.0)
    assert mem.propagate() == []


def test_a_recipe_with_declared_inputs_may_read_more(mem, calls, edges):
    page = mem.page("extra", torch.ones(4))

    class Adds:
        """Holds a page: what a page is does not change, what it holds is read."""

        def __call__(self, x):
            LOG.info("sum")
            return x + page.tensor

    mem.derive(Adds(), "x", name="sum")
    assert torch.equal(mem["sum"].tensor, torch.arange(4.0) + 1)
    assert ("extra", "sum") in edges(mem)
    mem.update("extra", 2.0)
    assert torch.equal(mem["sum"].tensor, torch.arange(4.0) + 2)
    mem.update("x", 0.0)
    assert torch.equal(mem["sum"].tensor, torch.full((4,), 2.0))


def test_a_failed_read_counts_as_read(mem, kind):
    """Whoever works around a failing page has to hear when it recovers."""

    def root(x):
        if x.sum() < 0:
            raise ArithmeticError
        return x + 1

    mem.derive(root, "x", name="d")

    def with_fallback(memory, _):
        try:
            return memory["d"].tensor
        except mmsb.RecipeError:
            return torch.full((4,), -1.0)

    page = kind(mem, "k", with_fallback)
    mem.derive(torch.neg, "k", name="below")
    for value in (-5.0, 1.0, -5.0, 2.0):
        mem.update("x", value)
        wanted = torch.full((4,), value + 1 if value > 0 else -1.0)
        assert torch.equal(page.tensor, wanted)
        assert torch.equal(mem["below"].tensor, -wanted)


def test_a_page_that_is_not_read_any_more_may_fail(mem, kind):
    def fragile(x):
        if x.sum() < 0:
            raise ArithmeticError
        return x.sum()

    mem.derive(fragile, "x", name="fragile")
    kind(
        mem,
        "k",
        lambda memory, _: memory["fragile" if memory["s"].tensor == 0 else "s"].tensor + 0,
    )
    mem.derive(torch.neg, "k", name="below")
    assert mem["below"].tensor == -6
    with mem.commit() as tx:
        tx.update("s", 1)
        tx.update("x", -1.0)
    assert mem["below"].tensor == -1
    assert mem["k"].tensor == 1


def test_a_failed_lookup_counts_as_read(mem, kind):
    def with_fallback(memory, _):
        try:
            return memory["later"].tensor
        except mmsb.PageNotFoundError:
            return torch.zeros(1)

    page = kind(mem, "k", with_fallback)
    assert torch.equal(page.tensor, torch.zeros(1))
    mem.page("later", torch.ones(1))
    assert torch.equal(page.tensor, torch.ones(1))


LOOKS = {
    "names": lambda memory, page: len(list(memory)),
    "number": lambda memory, page: len(memory),
    "pages": lambda memory, page: len(memory.pages()),
    "name": lambda memory, page: "new" in memory,
    "transaction": lambda memory, page: memory.tx,
    "epoch": lambda memory, page: memory["x"].epoch,
    "history": lambda memory, page: len(memory["x"].history()),
    "label": lambda memory, page: memory.at("latest").tx,
    "moment": lambda memory, page: memory.at(memory.tx)["x"].sum(),
    "graph": lambda memory, page: len(memory.graph.nodes),
    "region": lambda memory, page: memory["x"].mask.sum(),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
def test_whatever_a_kind_asks_the_memory_is_up_to_date(mem, kind, look):
    """What cannot be tracked is executed, never guessed."""
    with mem.commit("latest") as tx:
        tx.update("x", 0.0)
    page = kind(mem, "k", lambda memory, page: torch.as_tensor(look(memory, page)))
    assert page.tensor == torch.as_tensor(look(mem, page))
    with mem.commit("latest") as tx:
        tx.update("x", torch.ones(1), rows=[2])
    mem.page("new", torch.ones(1))
    assert page.tensor == torch.as_tensor(look(mem, page))


def test_pages_of_another_memory_are_followed(mem, kind):
    with mmsb.open() as other:
        other.page("far", torch.ones(4))
        page = kind(mem, "k", lambda memory, _: memory["x"].tensor + other["far"].tensor)
        mem.derive(lambda x: x + other["far"].tensor, "x", name="d")
        for value in (1.0, 2.0, 3.0):
            other.update("far", value)
            assert torch.equal(page.tensor, torch.arange(4.0) + value)
            assert torch.equal(mem["d"].tensor, torch.arange(4.0) + value)


def test_getting_the_page_by_its_kind_inside_the_recipe_comes_to_an_end(mem, calls):
    def function(memory, page):
        LOG.info(page.name)
        memory.page(page.name, kind="topology/get")
        return memory["x"].tensor + 1

    mmsb.register_recomputation("topology/get", function)
    page = mem.page("k", kind="topology/get")
    assert torch.equal(page.tensor, torch.arange(4.0) + 1)
    assert calls() == ["k"]


def test_what_a_subscriber_reads_is_no_input_of_the_recipe_at_work(mem, kind):
    heard = []

    def look(event):
        heard.append(int(mem["s"].tensor))
        mem.update("noted", float(len(heard)))

    mem.page("noted", torch.tensor(0.0))
    mem.derive(lambda x: x * 2, name="double")
    kind(mem, "k", lambda memory, _: memory["double"].tensor + 1)
    mem.subscribe(look, [mmsb.EventType.RECOMPUTED])
    for value in (1.0, 2.0):
        mem.update("x", value)
        assert mem["k"].tensor[0] == 2 * value + 1
    assert len(heard) == 4
    assert mem["noted"].tensor == 4
    assert mem.graph.ancestors("k") == ["x", "double"]
    mem.update("s", 5)
    assert mem.propagate() == []
