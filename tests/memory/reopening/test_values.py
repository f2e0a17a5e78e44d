"""Values of derived pages whose recipe is not there: given while nothing changed, refused after."""

import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(6.0).view(3, 2)
FACTOR = 2.0


def doubled(a):
    return a * 2


def tripled(a):
    return a * 3


def by_global(a):
    return a * FACTOR


@pytest.mark.parametrize("mode", ["w", "r"])
def test_a_fresh_page_gives_its_last_value_without_its_recipe(made, mode):
    with mmsb.open(made, mode=mode) as memory:
        page = memory["d"]
        assert torch.equal(page.tensor, A * 2)
        assert torch.equal(page.read([1]), A[1:2] * 2)
        assert (page.epoch, page.dtype, page.shape) == (1, torch.float32, (3, 2))
        assert memory.why(page).status == "fresh"
        assert memory.stats()["recomputed"] == 0


def test_a_page_that_became_stale_needs_its_recipe(made, refused_read):
    with mmsb.open(made) as memory:
        memory.update("a", 1.0, rows=[0])
        refused_read(memory, "d", "doubled", "'a' changed")
        with pytest.raises(mmsb.RecipeNotLoadedError, match="'d'"):
            memory.propagate()
        assert memory.why("d").status == "unbound"
        assert "unbound" in repr(memory["d"])
        memory.update("a", A)
        assert torch.equal(memory["a"].tensor, A)
        memory.derive(doubled, "a", name="d")
        assert torch.equal(memory["d"].tensor, A * 2)


def test_a_page_that_was_stale_when_it_was_closed_needs_its_recipe(path, refused_read):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(doubled, "a", name="d").tensor
        memory.update("a", 1.0)
    with mmsb.open(path) as memory:
        refused_read(memory, "d", "doubled", "'a' changed")


def test_a_page_that_was_never_computed_needs_its_recipe(path, refused_read):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.derive(doubled, "a", name="d")
    with mmsb.open(path) as memory:
        refused_read(memory, "d", "doubled", "no value yet")
        memory.derive(doubled, "a", name="d")
        assert torch.equal(memory["d"].tensor, A * 2)


def test_an_update_that_changed_no_bit_keeps_the_last_value(made):
    with mmsb.open(made) as memory:
        memory.update("a", A)
        assert torch.equal(memory["d"].tensor, A * 2)
    with mmsb.open(made) as memory:
        assert torch.equal(memory["d"].tensor, A * 2)
        assert memory["a"].epoch == 1


def test_a_page_whose_code_was_exchanged_was_not_fresh(path, refused_read):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(doubled, "a", name="d").tensor
        memory.derive(tripled, "a", name="d")
    with mmsb.open(path) as memory:
        refused_read(memory, "d", "tripled")
        memory.derive(tripled, "a", name="d")
        assert torch.equal(memory["d"].tensor, A * 3)


def test_a_page_whose_global_had_changed_was_not_fresh(path, monkeypatch, refused_read):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(by_global, "a", name="d").tensor
        monkeypatch.setitem(globals(), "FACTOR", 5.0)
    with mmsb.open(path) as memory:
        refused_read(memory, "d", "by_global")
        memory.derive(by_global, "a", name="d")
        assert torch.equal(memory["d"].tensor, A * 5)


def test_a_page_whose_recipe_failed_was_not_fresh(path, refused_read):
    def choosy(a, *, enough=True):
        if not enough:
            raise ValueError
        return a

    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(choosy, "a", name="d").tensor
        page = memory.derive(choosy, "a", name="d", enough=False)
        with pytest.raises(mmsb.RecipeError):
            _ = page.tensor
    with mmsb.open(path) as memory:
        refused_read(memory, "d", "choosy")


def test_a_stale_page_in_a_chain_names_what_changed(path, refused_read):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.derive(doubled, "a", name="d")
        _ = memory.derive(lambda d: d + 1, "d", name="e").tensor
    with mmsb.open(path) as memory:
        assert torch.equal(memory["e"].tensor, A * 2 + 1)
        memory.update("a", 0.0)
        refused_read(memory, "d", "'a' changed")
        with pytest.raises(mmsb.RecipeNotLoadedError, match="'a'"):
            _ = memory["e"].tensor
        memory.derive(doubled, "a", name="d")
        refused_read(memory, "e", "'d' changed")


def test_a_cut_off_upstream_keeps_a_page_without_recipe(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.derive(lambda a: a[:1], "a", name="head")
        _ = memory.derive(lambda head: head + 1, "head", name="more").tensor
    with mmsb.open(path) as memory:
        memory.derive(lambda a: a[:1], "a", name="head")
        memory.update("a", 9.0, rows=[2])
        assert memory["more"].tensor.tolist() == [[1, 2]]


def test_the_past_of_a_page_without_recipe(made):
    with mmsb.open(made) as memory:
        assert torch.equal(memory.at(1)["d"], A * 2)
        memory.update("a", 0.0)
        moment = memory.at(2)
        assert "d" in moment
        with pytest.raises(mmsb.RecipeNotLoadedError, match="'d'"):
            _ = moment["d"]
        memory.derive(doubled, "a", name="d")
        assert not bool(memory.at(2)["d"].any())
        assert torch.equal(memory.at(1)["d"], A * 2)
