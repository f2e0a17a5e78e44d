"""Recipes that cannot be declared, and recipes that fail."""

import functools
import warnings

import pytest
import torch

import mmsb_torch as mmsb


def doubled(a):
    return a * 2


def table(cases):
    """Parametrise over {id: (call, class, words)}."""
    return pytest.mark.parametrize(
        ("call", "kind", "words"), cases.values(), ids=[name.replace(" ", "_") for name in cases]
    )


class Sub(torch.Tensor):
    """A tensor of a class of somebody's own."""


def quietly(make):
    """A tensor of a layout that torch warns about once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def quantised(*shape):
    return quietly(lambda: torch.quantize_per_tensor(torch.zeros(*shape), 1.0, 0, torch.quint8))


def not_found(call, *words):
    return call, mmsb.PageNotFoundError, words


def invalid(call, *words):
    return call, mmsb.InvalidPageError, words


def make(*args, **options):
    return lambda memory: memory.page(*args, **options)


# recipes that cannot be declared


def recipe(call, *words):
    return call, mmsb.InvalidRecipeError, words


def derive(*args, **options):
    return lambda memory: memory.derive(*args, **options)


def two(a, b):
    return a


def only_positional(a, /):
    return a


RECIPES = {
    "number": recipe(derive(5, "a", name="x"), "callable", "5"),
    "string": recipe(derive("doubled", "a", name="x"), "callable", "'doubled'"),
    "page": recipe(lambda m: m.derive(m["a"], name="x"), "callable"),
    "None with pages": recipe(derive(None, "a"), "callable"),
    "lambda without a name": recipe(derive(lambda a: a, "a"), "name="),
    "partial without a name": recipe(derive(functools.partial(two, b=1), "a"), "name="),
    "too many": recipe(derive(doubled, "a", "b", name="x"), "doubled", "too many"),
    "too few": recipe(derive(two, "a", name="x"), "two", "'b'"),
    "unknown keyword": recipe(derive(doubled, "a", name="x", factor=2), "doubled", "factor"),
    "given twice": recipe(lambda m: m.derive(doubled, "a", a=m["a"], name="x"), "doubled", "'a'"),
    "positional-only by name": recipe(derive(only_positional, name="x"), "'a'", "positional-only"),
    "no signature": recipe(derive(min, name="x"), "min"),
    "unknown page": not_found(derive(doubled, "nobody", name="x"), "'nobody'"),
    "unknown parameter": not_found(derive(lambda a, nobody: a, name="x"), "'nobody'"),
    "a tensor": not_found(derive(doubled, torch.ones(2), name="x"), "Page or a page's name"),
    "a number as a page": not_found(derive(doubled, 1, name="x"), "1"),
    "name of a root": (derive(doubled, "a", name="b"), mmsb.PageExistsError, ["'b'", "name="]),
    "own input": (derive(doubled, "a", name="a"), mmsb.PageExistsError, ["'a'"]),
    "empty name": invalid(derive(doubled, "a", name=""), "name", "0 characters"),
    "name of another type": invalid(derive(doubled, "a", name=5), "name", "int"),
    "newline": invalid(derive(doubled, "a", name="a\nb"), "name", "\\n"),
    "reserved": invalid(derive(doubled, "a", name="__metadata__"), "name", "__metadata__"),
    "metadata": invalid(derive(doubled, "a", name="x", metadata={1: 2}), "'x'", "metadata"),
    "itself": (derive(doubled, "d", name="d"), mmsb.CycleDetectedError, ["'d'"]),
}


@table(RECIPES)
def test_recipes_that_cannot_be_declared(refused, call, kind, words):
    refused(call, kind, words)


def test_a_cycle_is_refused_with_its_path(room, picture_of):
    room.derive(doubled, "d", name="e")
    room.derive(doubled, "e", name="f")
    room.propagate()
    before = picture_of(room)
    with pytest.raises(mmsb.CycleDetectedError) as caught:
        room.derive(doubled, "f", name="d")
    assert isinstance(caught.value, ValueError)
    assert all(f"'{name}'" in str(caught.value) for name in "def")
    assert picture_of(room) == before
    assert torch.equal(room["f"].tensor, room["a"].tensor * 8)


@pytest.mark.parametrize("kind", ["", None, 5, ["k"]], ids=repr)
def test_kinds_that_are_none(kind):
    with pytest.raises(mmsb.InvalidRecipeError, match="kind"):
        mmsb.register_recomputation(kind, lambda memory, page: None)


@pytest.mark.parametrize("function", [None, 5, "f"], ids=repr)
def test_a_kind_needs_a_function(function):
    with pytest.raises(mmsb.InvalidRecipeError, match=r"fn\(memory, page\)"):
        mmsb.register_recomputation("kind without function", function)


# recipes that fail


def returning(make_value):
    def failing(a):
        return make_value(a)

    return failing


def raising(a):
    raise ZeroDivisionError("by nothing")


def asserting(a):
    raise AssertionError


def stopping(a):
    raise StopIteration


def writing(a):
    a.add_(1)
    return a * 1


def writing_elsewhere(a):
    a.view(-1)[0] = 99
    return torch.zeros(1)


def yielding(a):
    yield a


def deep(a):
    return deep(a)


RUNS = {
    "None": (returning(lambda a: None), ["NoneType", "torch.Tensor"]),
    "number": (returning(lambda a: 5.0), ["float", "torch.Tensor"]),
    "tuple": (returning(lambda a: (a, a)), ["tuple", "torch.Tensor"]),
    "list": (returning(lambda a: [a]), ["list", "torch.Tensor"]),
    "dict": (returning(lambda a: {"a": a}), ["dict", "torch.Tensor"]),
    "numpy": (returning(lambda a: a.numpy()), ["ndarray", "torch.Tensor"]),
    "named tuple": (returning(lambda a: a.max(0)), ["max", "torch.Tensor"]),
    "sparse": (returning(lambda a: a.to_sparse()), ["sparse"]),
    "meta": (returning(lambda a: a.to("meta")), ["meta"]),
    "subclass": (returning(lambda a: a.as_subclass(Sub)), ["subclass", "Sub"]),
    "quantised": (returning(lambda a: quantised(2)), ["quantised"]),
    "raises": (raising, ["raising", "ZeroDivisionError", "by nothing"]),
    "asserts": (asserting, ["asserting", "AssertionError"]),
    "stops": (stopping, ["StopIteration"]),
    "wrong shapes": (returning(lambda a: a @ a), ["RuntimeError"]),
    "writes into its input": (writing, ["'a'", "clone()"]),
    "writes into a view of it": (writing_elsewhere, ["'a'", "clone()"]),
    "hidden generator": (lambda a: yielding(a), ["generator"]),
    "recursion": (deep, ["RecursionError"]),
}


@pytest.mark.parametrize(("function", "words"), RUNS.values(), ids=RUNS.keys())
def test_a_recipe_that_fails_leaves_its_page_stale_and_the_rest_alone(
    room, function, words, picture_of
):
    before = picture_of(room)
    page = room.derive(function, "a", name="x")
    below = room.derive(doubled, "x", name="below")
    for target in (page, page, below):
        with pytest.raises(mmsb.RecipeError) as caught:
            _ = target.tensor
        assert isinstance(caught.value, RuntimeError)
        assert len(str(caught.value)) < 800
        for word in ["'x'", *words]:
            assert word in str(caught.value), str(caught.value)
    assert room.why(page).status == "failed"
    assert "failed" in repr(page)
    assert room.stats()["failed"] >= 2
    room.derive(doubled, "a", name="x")
    assert torch.equal(below.tensor, room["a"].tensor * 4)
    after = picture_of(room)
    assert {name: after[0][name] for name in before[0]} == before[0]
    assert after[2] == before[2]


def test_the_cause_of_a_failure_is_kept(room):
    page = room.derive(raising, "a")
    with pytest.raises(mmsb.RecipeError) as caught:
        _ = page.tensor
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.page_id == page.id


def test_a_failed_page_keeps_nobody_from_the_others(room):
    room.derive(raising, "a", name="bad")
    good = room.derive(doubled, "b", name="good")
    with pytest.raises(mmsb.RecipeError, match="'bad'"):
        room.propagate()
    assert room.why(good).status == "fresh"
    assert good.tensor.tolist() == [0, 2, 4, 6]


def test_a_failure_passes_with_its_cause(room):
    page = room.derive(lambda b: 12 // b, "b", name="ratio")
    page_of_one = room.derive(lambda ratio: ratio + 1, "ratio", name="more")
    room.update("b", torch.tensor([1, 2, 3, 4]))
    assert page.tensor.tolist() == [12, 6, 4, 3]
    room.update("b", 0)
    with pytest.raises(mmsb.RecipeError, match="ZeroDivisionError"):
        _ = page_of_one.tensor
    assert page.epoch == 1
    room.update("b", torch.tensor([1, 2, 3, 4]))
    assert page_of_one.tensor.tolist() == [13, 7, 5, 4]


def test_an_interrupt_in_a_recipe_passes_and_the_next_read_computes(room):
    interrupt = [True]

    def touchy(a):
        if interrupt:
            interrupt.clear()
            raise KeyboardInterrupt
        return a + 1

    page = room.derive(touchy, "a")
    with pytest.raises(KeyboardInterrupt):
        _ = page.tensor
    assert torch.equal(page.tensor, room["a"].tensor + 1)


def test_a_recipe_that_reads_itself_is_a_cycle(room, bounded):
    page = room.derive(lambda a: room["x"].tensor, "a", name="x")

    def read():
        with pytest.raises((mmsb.CycleDetectedError, mmsb.RecipeError), match="'x'"):
            _ = page.tensor

    bounded(read)
    room.derive(doubled, "a", name="x")
    assert torch.equal(page.tensor, room["a"].tensor * 2)


def test_a_recipe_that_reads_an_unknown_page_fails(room):
    page = room.derive(lambda a: room["nobody"].tensor, "a", name="x")
    with pytest.raises(mmsb.RecipeError, match="'nobody'"):
        _ = page.tensor


def test_a_kind_that_writes_into_what_it_reads_fails(room):
    def recompute(memory, page):
        value = memory["a"].tensor
        value.add_(1)
        return value * 1

    mmsb.register_recomputation("kind that writes", recompute)
    before = room["a"].clone()
    page = room.page("k", kind="kind that writes")
    with pytest.raises(mmsb.RecipeError, match=r"'k'.*'a'"):
        _ = page.tensor
    assert torch.equal(room["a"].tensor, before)
