"""Every way to declare a recipe computes the same; what is none is refused."""

import functools
import logging
import operator

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone


def plus(x, y):
    return x + y


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor

    def method(self, x, y):
        return (x + y) * self.factor

    @staticmethod
    def static(x, y):
        return x / y

    @classmethod
    def of_class(cls, x):
        return x + len(cls.__name__)


def test_the_decorator_names_page_and_inputs(mem):
    @mem.derive
    def total(x, y):
        return (x + y).sum()

    assert isinstance(total, mmsb.Page)
    assert (total.name, total.derived) == ("total", True)
    assert total == mem["total"] == mem.page("total")
    assert total.tensor == 75

    @mem.derive(name="other", metadata={"unit": "m"})
    def unused(x, y=None, missing=3):
        return x * missing if y is not None else x

    assert (unused.name, dict(unused.metadata)) == ("other", {"unit": "m"})
    assert torch.equal(mem["other"].tensor, mem["x"].tensor * 3)


CALLABLES = {
    "function": lambda mem: mem.derive(plus, "x", "y", name="p"),
    "handles": lambda mem: mem.derive(plus, mem["x"], mem["y"], name="p"),
    "keywords": lambda mem: mem.derive(plus, y=mem["y"], x=mem["x"], name="p"),
    "mixed": lambda mem: mem.derive(plus, "x", y=mem["y"], name="p"),
    "parameters": lambda mem: mem.derive(plus, name="p"),
    "lambda": lambda mem: mem.derive(lambda a, b: a + b, "x", "y", name="p"),
    "builtin": lambda mem: mem.derive(torch.add, "x", "y", name="p"),
    "operator": lambda mem: mem.derive(operator.add, "x", "y", name="p"),
    "ufunc": lambda mem: mem.derive(torch.Tensor.add, "x", "y", name="p"),
    "aten": lambda mem: mem.derive(torch.ops.aten.add.Tensor, "x", "y", name="p"),
    "partial": lambda mem: mem.derive(functools.partial(torch.add, alpha=1), "x", "y", name="p"),
    "partial of one": lambda mem: mem.derive(
        functools.partial(plus, torch.full((3, 2), 10.0)), "x", name="p"
    ),
    "constant": lambda mem: mem.derive(torch.add, "x", "y", alpha=1, name="p"),
    "constant tensor": lambda mem: mem.derive(plus, "x", y=torch.full((3, 2), 10.0), name="p"),
    "star": lambda mem: mem.derive(lambda *v: sum(v), "x", "y", name="p"),
    "double star": lambda mem: mem.derive(
        lambda **v: v["a"] + v["b"], a=mem["x"], b=mem["y"], name="p"
    ),
    "bound method": lambda mem: mem.derive(Scaled(1).method, "x", "y", name="p"),
    "callable": lambda mem: mem.derive(Scaled(1), mem.derive(plus), name="p"),
}  # fmt: skip


@pytest.mark.parametrize("declare", CALLABLES.values(), ids=CALLABLES.keys())
def test_every_form_computes_the_same_and_follows_edits(mem, declare):
    page = declare(mem)
    for value in (None, 3.0, 4.0):
        if value is not None:
            mem.update("x", value)
        assert page.name == "p"
        assert same_bits(page.tensor, mem["x"].tensor + mem["y"].tensor)


def test_methods_of_every_sort(mem):
    assert torch.equal(mem.derive(Scaled.static, name="s").tensor, mem["x"].tensor / 10)
    assert torch.equal(mem.derive(Scaled.of_class, name="c").tensor, mem["x"].tensor + 6)
    assert torch.equal(mem.derive(Scaled(2), "x", name="i").tensor, mem["x"].tensor * 2)


def test_order_of_arguments_matters(mem):
    forward = mem.derive(torch.sub, "x", "y", name="f")
    backward = mem.derive(torch.sub, "y", "x", name="b")
    assert torch.equal(forward.tensor, -backward.tensor)
    mem.derive(torch.sub, "y", "x", name="f")
    assert torch.equal(forward.tensor, backward.tensor)


def test_a_default_holds_until_there_is_a_page_of_that_name(mem):
    def scaled(x, gain=2.0):
        return x * gain

    page = mem.derive(scaled)
    assert torch.equal(page.tensor, mem["x"].tensor * 2)
    mem.page("gain", torch.tensor(5.0))
    assert torch.equal(page.tensor, mem["x"].tensor * 2)
    mem.derive(scaled)
    assert torch.equal(page.tensor, mem["x"].tensor * 5)
    mem.update("gain", 7.0)
    assert torch.equal(page.tensor, mem["x"].tensor * 7)


def test_constants_count_by_value_and_may_be_written(mem, calls):
    weights = torch.ones(2)

    def weighted(x, w, offsets):
        LOG.info("run")
        return x * w + offsets[0]

    offsets = [1.0]
    page = mem.derive(weighted, "x", w=weights, offsets=offsets, name="p")
    assert torch.equal(page.tensor, mem["x"].tensor + 1)
    mem.derive(weighted, "x", w=torch.ones(2), offsets=[1.0], name="p")
    assert torch.equal(page.tensor, mem["x"].tensor + 1)
    assert calls() == ["run"]
    mem.derive(weighted, "x", w=weights, offsets=offsets, name="p")
    weights[0] = 3
    assert torch.equal(page.tensor, mem["x"].tensor * weights + 1)
    offsets[0] = 2.0
    assert torch.equal(page.tensor, mem["x"].tensor * weights + 2)
    assert calls() == ["run", "run"]


def test_constants_that_are_pages_are_followed(mem):
    page = mem.derive(
        lambda pages: sum(p.tensor for p in pages), pages=[mem["x"], mem["y"]], name="p"
    )
    for value in (1.0, 2.0):
        mem.update("y", value)
        assert torch.equal(page.tensor, mem["x"].tensor + value)


REFUSED = {
    "no callable": (lambda mem: mem.derive(3, "x", name="p"), mmsb.InvalidRecipeError),
    "no name": (lambda mem: mem.derive(lambda x: x), mmsb.InvalidRecipeError),
    "no page": (lambda mem: mem.derive(plus, "x", "nothing", name="p"), mmsb.PageNotFoundError),
    "no parameter": (lambda mem: mem.derive(lambda q: q, name="p"), mmsb.PageNotFoundError),
    "too many": (lambda mem: mem.derive(plus, "x", "y", "x", name="p"), mmsb.InvalidRecipeError),
    "too few": (lambda mem: mem.derive(plus, "x", name="p"), mmsb.InvalidRecipeError),
    "unknown": (lambda mem: mem.derive(plus, "x", "y", z=1, name="p"), mmsb.InvalidRecipeError),
    "a root": (lambda mem: mem.derive(torch.neg, "x", name="y"), mmsb.PageExistsError),
    "bad name": (lambda mem: mem.derive(torch.neg, "x", name="\n"), mmsb.InvalidPageError),
    "no signature": (lambda mem: mem.derive(torch.add, name="p"), mmsb.InvalidRecipeError),
    "unknown kind": (lambda mem: mem.page("p", kind="?"), mmsb.InvalidRecipeError),
    "kind of a root": (lambda mem: mem.page("x", kind="?"), mmsb.MMSBError),
    "kind no text": (lambda mem: mmsb.register_recomputation("", plus), mmsb.InvalidRecipeError),
    "kind no fn": (lambda mem: mmsb.register_recomputation("k", 3), mmsb.InvalidRecipeError),
}


@pytest.mark.parametrize(("declare", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_declared_is_refused_and_leaves_nothing(mem, declare, error):
    with pytest.raises(error):
        declare(mem)
    assert list(mem) == ["x", "y"]
    assert mem.tx == 2
    assert mem.graph.edges == ()


def test_a_page_of_another_memory_is_no_input(mem):
    with mmsb.open() as other, pytest.raises(mmsb.PageNotFoundError, match="another memory"):
        mem.derive(torch.neg, other.page("x", torch.ones(2)), name="p")
