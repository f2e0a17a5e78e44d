"""Recipes and kinds declared again: equal code keeps values, other code does not, at any moment."""

import logging
import threading

import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.graph import CallRecipe
from mmsb_torch.instrumentation.code import Definition

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone


def make_recipe(report, offset, helper=None):
    def recipe(x):
        LOG.info(report)
        return (helper or torch.neg)(x) + offset

    return recipe


def test_equal_code_keeps_values_and_computes_nothing(mem, calls):
    page = mem.derive(make_recipe("r", 1.0), "x", name="p")
    mem.derive(torch.neg, "p", name="below")
    mem.propagate()
    assert calls() == ["r"]
    epochs = page.epoch, mem["below"].epoch
    for _ in range(3):
        assert mem.derive(make_recipe("r", 1.0), "x", name="p") == page
        assert mem.propagate() == []
        assert torch.equal(mem["below"].tensor, mem["x"].tensor - 1)
    assert calls() == []
    assert (page.epoch, mem["below"].epoch) == epochs


def test_other_code_computes_exactly_the_dependants(mem, calls):
    mem.derive(make_recipe("a", 1.0), "x", name="a")
    mem.derive(make_recipe("b", 1.0), "a", name="b")
    mem.derive(make_recipe("c", 1.0), "b", name="c")
    mem.derive(make_recipe("other", 1.0), "x", name="other")
    mem.propagate()
    assert calls() == ["a", "b", "c", "other"]
    mem.derive(make_recipe("b2", 5.0), "a", name="b")
    assert [p.name for p in mem.propagate()] == ["b", "c"]
    assert calls() == ["b2", "c"]
    mem.derive(make_recipe("b3", 5.0), "a", name="b")
    assert mem.propagate() == []
    assert calls() == ["b3"]
    assert torch.equal(mem["c"].tensor, -(-(-mem["x"].tensor + 1) + 5) + 1)


def test_other_inputs_are_other_code(mem, calls):
    page = mem.derive(make_recipe("r", 1.0), "x", name="p")
    assert torch.equal(page.tensor, -mem["x"].tensor + 1)
    mem.derive(make_recipe("r", 1.0), "y", name="p")
    assert torch.equal(page.tensor, -mem["y"].tensor + 1)
    mem.update("x", 3.0)
    assert mem.propagate() == []
    assert calls() == ["r", "r"]
    assert mem.graph.ancestors("p") == ["y"]


def test_pages_of_equal_bits_are_not_taken_for_one_another(mem):
    mem.page("z", mem["x"].clone())
    page = mem.derive(torch.neg, "x", name="p")
    _ = page.tensor
    mem.derive(torch.neg, "z", name="p")
    _ = page.tensor
    mem.update("z", 1.0)
    assert torch.equal(page.tensor, torch.full((3, 2), -1.0))


def test_a_failed_page_may_be_declared_anew(mem):
    page = mem.derive(lambda x: x.rubbish, "x", name="p")
    with pytest.raises(mmsb.RecipeError, match="rubbish"):
        _ = page.tensor
    mem.derive(torch.neg, "x", name="p")
    assert torch.equal(page.tensor, -mem["x"].tensor)
    assert mem.why("p").status == "fresh"


def test_derived_pages_of_two_memories_do_not_meet(mem):
    with mmsb.open() as other:
        other.page("x", torch.ones(2))
        pages = [m.derive(make_recipe("r", 1.0), "x", name="p") for m in (mem, other)]
        assert torch.equal(pages[0].tensor, -mem["x"].tensor + 1)
        assert torch.equal(pages[1].tensor, torch.zeros(2))
        other.update("x", 5.0)
        assert torch.equal(pages[0].tensor, -mem["x"].tensor + 1)
        assert torch.equal(pages[1].tensor, torch.full((2,), -4.0))


# kinds


def make_kind(report, offset):
    def function(memory, page):
        LOG.info(report)
        return memory[page.metadata["of"]].tensor + offset

    return function


def test_a_kind_has_many_pages_told_apart_by_metadata(mem, kind, calls):
    mmsb.register_recomputation(kind, make_kind("k", 1.0))
    for name in "xy":
        page = mem.page(f"of {name}", kind=kind, metadata={"of": name})
        assert page.derived
        assert torch.equal(page.tensor, mem[name].tensor + 1)
    mem.update("y", 0.0)
    assert [p.name for p in mem.propagate()] == ["of y"]
    assert calls() == ["k", "k", "k"]
    assert mem.page("of y", kind=kind) == mem["of y"]
    assert mem.propagate() == []
    assert calls() == []


def test_registering_equal_code_again_keeps_values(mem, kind, calls):
    mmsb.register_recomputation(kind, make_kind("k", 1.0))
    page = mem.page("p", kind=kind, metadata={"of": "x"})
    below = mem.derive(torch.neg, page, name="below")
    _ = below.tensor
    assert calls() == ["k"]
    for _ in range(2):
        mmsb.register_recomputation(kind, make_kind("k", 1.0))
        assert torch.equal(below.tensor, -mem["x"].tensor - 1)
        assert mem.propagate() == []
    assert calls() == []
    mem.update("x", 1.0)
    assert torch.equal(below.tensor, torch.full((3, 2), -2.0))
    assert calls() == ["k"]


def test_registering_other_code_makes_stale_in_every_memory(mem, kind, calls):
    mmsb.register_recomputation(kind, make_kind("old", 1.0))
    with mmsb.open() as other:
        other.page("x", torch.ones(2))
        for memory in (mem, other):
            memory.page("p", kind=kind, metadata={"of": "x"})
            memory.derive(torch.neg, "p", name="below")
            memory.propagate()
        assert calls() == ["old", "old"]
        mmsb.register_recomputation(kind, make_kind("new", 2.0))
        for memory in (mem, other):
            assert torch.equal(memory["below"].tensor, -memory["x"].tensor - 2)
            assert "p" in str(memory.why("below"))
        assert calls() == ["new", "new"]


def test_code_behind_a_kind_counts(mem, kind):
    net = nn.Linear(2, 2)
    mmsb.register_recomputation(kind, lambda memory, page: net(memory["x"].tensor))
    page = mem.page("p", kind=kind)
    for _ in range(2):
        with torch.no_grad():
            net.bias.add_(1.0)
            assert torch.equal(page.tensor, net(mem["x"].clone()))


def test_a_page_may_turn_from_kind_to_recipe_and_back(mem, kind, calls):
    mmsb.register_recomputation(kind, make_kind("k", 1.0))
    page = mem.page("p", kind=kind, metadata={"of": "x"})
    below = mem.derive(torch.neg, page, name="below")
    assert torch.equal(below.tensor, -mem["x"].tensor - 1)
    mem.derive(make_recipe("r", 0.0), "y", name="p")
    assert torch.equal(below.tensor, mem["y"].tensor)
    assert mem.graph.ancestors("p") == ["y"]
    mem.page("p", kind=kind)
    assert torch.equal(below.tensor, -mem["x"].tensor - 1)
    assert mem.graph.ancestors("p") == ["x"]
    assert calls() == ["k", "r", "k"]


def test_derived_pages_are_read_at_one_moment(mem, kind):
    """Whatever is read dynamically is of the same transaction as everything else."""
    mem.derive(lambda x, y: x - y, "x", "y", name="difference")
    mem.derive(lambda x: x.clone(), "x", name="copy")

    def zero(memory, page):
        x, y = memory["x"].tensor, memory["y"].tensor
        with pytest.raises(mmsb.DerivedPageError):
            memory.update("x", 100.0)
        return (x - memory["copy"].tensor) + memory["difference"].tensor - (x - y)

    mmsb.register_recomputation(kind, zero)
    page = mem.page("zero", kind=kind)
    for step in range(3):
        with mem.commit() as tx:
            tx.update("x", float(step))
            tx.update("y", 2.0 * step)
        assert not page.tensor.any()
        assert page.epoch == 1


# declared again at the worst moment


def elsewhere(act):
    """Does `act` on another thread, and waits a while for it."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(1)


def once_during(monkeypatch, owner, name, act):
    """After the returned function is called, the next `owner.name` lets another thread `act`."""
    acts, original = [], getattr(owner, name)

    def interrupted(self, *args):
        result = original(self, *args)
        if acts:
            elsewhere(acts.pop())
        return result

    monkeypatch.setattr(owner, name, interrupted)
    return lambda: acts.append(act)


def test_a_declaration_while_changed_code_is_looked_at_is_kept(mem, monkeypatch):
    offsets = [1.0]
    page = mem.derive(lambda x: x + offsets[0], "x", name="p")
    _ = page.tensor
    offsets[0] = 2.0
    arm = once_during(
        monkeypatch, CallRecipe, "refreshed", lambda: mem.derive(torch.neg, "x", name="p")
    )
    arm()
    _ = page.tensor
    for value in (3.0, 4.0):
        assert torch.equal(page.tensor, -mem["x"].tensor)
        mem.update("x", value)


def test_a_registration_while_changed_code_is_looked_at_is_kept(mem, kind, monkeypatch):
    offsets = [1.0]
    mmsb.register_recomputation(kind, lambda memory, _: memory["x"].tensor + offsets[0])
    page = mem.page("p", kind=kind)
    _ = page.tensor
    offsets[0] = 2.0
    arm = once_during(
        monkeypatch,
        Definition,
        "refresh",
        lambda: mmsb.register_recomputation(kind, lambda memory, _: -memory["x"].tensor),
    )
    arm()
    _ = page.tensor
    for value in (3.0, 4.0):
        assert torch.equal(page.tensor, -mem["x"].tensor)
        mem.update("x", value)


@pytest.mark.parametrize(
    ("first", "second"),
    [(["x"], ["y"]), (["x"], ["x", "y"]), (["x", "y"], ["y"]), (["x", "y"], ["y", "x"])],
    ids=str,
)
def test_other_inputs_while_a_page_is_settled(mem, monkeypatch, first, second):
    """The page is computed of all the old inputs or of all the new ones, and watches those."""
    for _ in range(5):
        mem.update("x", 1.0)
    mem.update("y", 2.0)
    arm = once_during(
        monkeypatch, Definition, "changed", lambda: mem.derive(first_of, *second, name="p")
    )
    page = mem.derive(first_of, *first, name="p")
    arm()
    assert float(page.tensor[0, 0]) in {1.0, 2.0}
    for value in range(3, 12):
        mem.update("y", float(value))
        assert torch.equal(page.tensor, mem[second[0]].tensor), value


@pytest.mark.parametrize("updates", range(8))
def test_epochs_of_one_input_are_not_taken_for_those_of_another(mem, monkeypatch, updates):
    for value in range(5):
        mem.update("x", float(value))
    arm = once_during(
        monkeypatch, Definition, "changed", lambda: mem.derive(first_of, "y", name="p")
    )
    page = mem.derive(first_of, "x", name="p")
    mem.update("x", 100.0)
    arm()
    _ = page.tensor
    for value in range(updates):
        mem.update("y", 50.0 + value)
    assert torch.equal(page.tensor, mem["y"].tensor)


def first_of(value, *_):
    return value + 0
