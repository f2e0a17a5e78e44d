"""Recipes declared again: equal code computes nothing, other code does."""

import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(6.0).view(3, 2)
FACTOR = 2.0


def doubled(a):
    return a * 2


def tripled(a):
    return a * 3


def helper(a):
    return a + 1


def by_helper(a):
    return helper(a)


def by_global(a):
    return a * FACTOR


def by_closure(factor):
    def recipe(a):
        return a * factor

    return recipe


@pytest.mark.parametrize("mode", ["w", "r"])
@pytest.mark.parametrize("recipe", [doubled, by_helper, by_global, by_closure(4.0)])
def test_equal_code_attaches_and_computes_nothing(path, recipe, mode, make):
    make(path, recipe)
    with mmsb.open(path, mode=mode) as memory:
        page = memory.derive(recipe, "a", name="d")
        assert page is memory["d"]
        assert torch.equal(page.tensor, recipe(A))
        memory.propagate()
        assert memory.stats()["recomputed"] == 0
        assert (memory.tx, page.epoch) == (1, 1)
        assert "kept" in str(memory.why(page))


def test_attached_again_it_follows_its_inputs(made):
    with mmsb.open(made) as memory:
        memory.derive(doubled, "a", name="d")
        memory.update("a", 3.0, rows=[2])
        assert memory["d"].tensor[2].tolist() == [6, 6]
        assert memory.stats()["recomputed"] == 1
        assert "'a'" in str(memory.why("d"))


def test_a_function_defined_again_with_equal_code_attaches(made):
    namespace = {}
    source = "def doubled(a):\n    return a * 2\n"
    exec(compile(source, __file__, "exec"), namespace)
    with mmsb.open(made) as memory:
        memory.derive(namespace["doubled"], "a", name="d")
        assert torch.equal(memory["d"].tensor, A * 2)
        assert memory.stats()["recomputed"] == 0


CHANGES = {
    "other function": (doubled, tripled),
    "closure": (by_closure(2.0), by_closure(5.0)),
    "constant": (lambda a: a + 1, lambda a: a + 2),
    "partial": (by_closure(torch.tensor(2.0)), by_closure(torch.tensor(3.0))),
}


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES.keys())
def test_other_code_recomputes(path, before, after, make):
    make(path, before)
    with mmsb.open(path) as memory:
        page = memory.derive(after, "a", name="d")
        assert torch.equal(page.tensor, after(A))
        assert memory.stats()["recomputed"] == 1
    with mmsb.open(path) as memory:
        memory.derive(after, "a", name="d")
        assert torch.equal(memory["d"].tensor, after(A))
        assert memory.stats()["recomputed"] == 0


def test_a_changed_global_recomputes(path, monkeypatch, make):
    make(path, by_global)
    monkeypatch.setitem(globals(), "FACTOR", 7.0)
    with mmsb.open(path) as memory:
        assert torch.equal(memory.derive(by_global, "a", name="d").tensor, A * 7)
        assert memory.stats()["recomputed"] == 1


def test_a_changed_helper_recomputes(path, monkeypatch, make):
    make(path, by_helper)
    monkeypatch.setitem(globals(), "helper", lambda a: a - 1)
    with mmsb.open(path) as memory:
        assert torch.equal(memory.derive(by_helper, "a", name="d").tensor, A - 1)
        assert memory.stats()["recomputed"] == 1


def test_other_constants_recompute(path):
    def scaled(a, factor):
        return a * factor

    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(scaled, "a", name="d", factor=2.0).tensor
    for factor, recomputed in ((2.0, 0), (3.0, 1), (3.0, 0)):
        with mmsb.open(path) as memory:
            page = memory.derive(scaled, "a", name="d", factor=factor)
            assert torch.equal(page.tensor, A * factor)
            assert memory.stats()["recomputed"] == recomputed


def test_other_inputs_recompute(path, make):
    make(path)
    with mmsb.open(path) as memory:
        memory.page("b", A + 10)
        page = memory.derive(doubled, "b", name="d")
        assert torch.equal(page.tensor, (A + 10) * 2)
        memory.update("a", 0.0)
        assert torch.equal(page.tensor, (A + 10) * 2)
    with mmsb.open(path) as memory:
        memory.derive(doubled, "b", name="d")
        assert torch.equal(memory["d"].tensor, (A + 10) * 2)
        assert memory.stats()["recomputed"] == 0


def net(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))


def test_the_weights_of_a_module_count(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        value = memory.derive(net(0), "a", name="out").tensor
    with mmsb.open(path) as memory:
        page = memory.derive(net(0), "a", name="out")
        assert torch.equal(page.tensor, value)
        assert memory.stats()["recomputed"] == 0
    with mmsb.open(path) as memory:
        other = net(0)
        with torch.no_grad():
            other[2].bias.add_(1)
        page = memory.derive(other, "a", name="out")
        assert torch.equal(page.tensor, value + 1)
        assert memory.stats()["recomputed"] == 1


def test_a_root_is_there_with_its_epoch_mask_and_metadata(path):
    with mmsb.open(path) as memory:
        memory.page("a", A, metadata={"unit": "m"})
        memory.update("a", 1.0, rows=[1])
        before = memory["a"].clone()
    with mmsb.open(path) as memory:
        page = memory.page("a", torch.zeros(3, 2))
        assert torch.equal(page.tensor, before)
        assert (page.epoch, page.id, memory.tx) == (1, 1, 2)
        assert not bool(page.mask.any())
        assert dict(page.metadata) == {"unit": "m"}
        with pytest.raises(mmsb.PageExistsError, match=r"\[3, 2\]"):
            memory.page("a", torch.zeros(2, 2))
