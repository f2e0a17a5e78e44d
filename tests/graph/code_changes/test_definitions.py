"""Changed definitions make exactly their dependants stale, and say what changed; equal ones do not."""

import logging
import sys

import numpy as np
import pytest
import torch

import mmsb_torch as mmsb

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone

SCALE = 2.0
TABLE = {"gain": [1.0, 2.0]}
WEIGHT = torch.ones(4)
ARRAY = np.ones(4, dtype=np.float32)


def normalise(x):
    return _norm(x) * 2


def _norm(x):
    return x / x.abs().max()


class Model:
    factor = 3.0

    def __init__(self, offset):
        self.offset = offset

    def apply(self, x):
        return self._helped(x) + self.offset

    def _helped(self, x):
        return x * self.factor

    @property
    def half(self):
        return self.offset / 2

    @staticmethod
    def shift(x):
        return x + 1


MODEL = Model(1.0)


def make_closure():
    offset, weights = 1.0, torch.ones(4)

    def recipe(x):
        LOG.info("page")
        return x * weights + offset

    def rebind(new):
        nonlocal offset
        offset = new

    return recipe, rebind, weights


# recipes of this module: function -> what it should give now


def of_global(x):
    LOG.info("page")
    return x * SCALE


def of_container(x):
    LOG.info("page")
    return x * TABLE["gain"][1]


def of_tensor(x):
    LOG.info("page")
    return x * WEIGHT


def of_array(x):
    LOG.info("page")
    return x * torch.from_numpy(ARRAY)


def of_helper(x):
    LOG.info("page")
    return normalise(x)


def of_method(x):
    LOG.info("page")
    return MODEL.apply(x)


def of_static_method(x):
    LOG.info("page")
    return Model.shift(x)


def of_property(x):
    LOG.info("page")
    return x + MODEL.half


def of_default(x, bias=1.0):
    LOG.info("page")
    return x + bias


def of_local_function(x):
    LOG.info("page")

    def inner(value):
        return normalise(value) + SCALE

    return inner(x)


def set_here(name, value):
    return lambda patch: patch.setattr(sys.modules[__name__], name, value)


def write(target, value):
    def act(patch):
        old = float(target[-1])
        patch.callback(lambda: target.__setitem__(-1, old))
        target[-1] = value

    return act


CHANGES = {
    "global constant": (of_global, set_here("SCALE", 5.0), "SCALE"),
    "global constant's type": (of_global, set_here("SCALE", torch.tensor(2.0)), "SCALE"),
    "container": (of_container, write(TABLE["gain"], 9.0), "TABLE"),
    "container replaced": (of_container, set_here("TABLE", {"gain": [1.0, 9.0]}), "TABLE"),
    "tensor in place": (of_tensor, write(WEIGHT, 7.0), "WEIGHT"),
    "tensor through numpy": (of_tensor, write(WEIGHT.numpy(), 7.0), "WEIGHT"),
    "tensor replaced": (of_tensor, set_here("WEIGHT", torch.full((4,), 3.0)), "WEIGHT"),
    "array": (of_array, write(ARRAY, 7.0), "ARRAY"),
    "helper": (of_helper, set_here("normalise", torch.neg), "normalise"),
    "helper of a helper": (of_helper, set_here("_norm", lambda x: x + 1), "_norm"),
    "helper's code": (
        of_helper,
        lambda p: p.setattr(_norm, "__code__", (lambda x: x - 3).__code__),
        "_norm",
    ),
    "method": (of_method, lambda p: p.setattr(Model, "apply", lambda self, x: -x), "apply"),
    "method of a method": (
        of_method,
        lambda p: p.setattr(Model, "_helped", lambda self, x: -x),
        "_helped",
    ),
    "class attribute": (of_method, lambda p: p.setattr(Model, "factor", 4.0), "factor"),
    "instance attribute": (of_method, lambda p: p.setattr(MODEL, "offset", 4.0), "offset"),
    "own method": (of_method, lambda p: p.setattr(MODEL, "apply", torch.neg), "apply"),
    "other instance": (of_method, set_here("MODEL", Model(9.0)), "MODEL"),
    "other class": (
        of_method,
        lambda p: p.setattr(MODEL, "__class__", type("Other", (Model,), {"factor": 8.0})),
        "",
    ),
    "static method": (
        of_static_method,
        lambda p: p.setattr(Model, "shift", staticmethod(lambda x: x - 1)),
        "shift",
    ),
    "property": (
        of_property,
        lambda p: p.setattr(Model, "half", property(lambda self: 100.0)),
        "half",
    ),
    "default": (of_default, lambda p: p.setattr(of_default, "__defaults__", (5.0,)), "bias"),
    "local function": (of_local_function, set_here("SCALE", 50.0), "SCALE"),
}


class Patch(pytest.MonkeyPatch):
    """A MonkeyPatch that also calls back when it is undone."""

    def __init__(self):
        super().__init__()
        self.callbacks = []

    def callback(self, function):
        self.callbacks.append(function)

    def undo(self):
        super().undo()
        while self.callbacks:
            self.callbacks.pop()()


@pytest.fixture
def patch():
    with Patch.context() as patching:
        yield patching


@pytest.mark.parametrize(("recipe", "change", "named"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_makes_its_dependants_stale_and_names_itself(
    mem, calls, patch, recipe, change, named, surround, check
):
    surround(mem, recipe)
    check(mem, recipe, calls, [])
    before = mem["page"].clone()
    change(patch)
    assert mem.why("page").status == "stale"
    assert named in str(mem.why("page"))
    assert mem.why("below").status == "stale"
    assert named in str(mem.why("below"))
    assert mem.why("beside").status == "fresh"
    same = torch.equal(recipe(mem["x"].clone()), before)
    check(mem, recipe, calls, ["page"] if same else ["below", "page"])
    assert named in str(mem.why("page"))
    patch.undo()
    check(mem, recipe, calls, ["page"] if same else ["below", "page"])
    assert torch.equal(mem["page"].tensor, before)


def test_there_and_back_unseen_computes_nothing(mem, calls, patch, surround, check):
    surround(mem, of_helper)
    calls()
    patch.setattr(sys.modules[__name__], "_norm", torch.neg)
    patch.undo()
    check(mem, of_helper, calls, [])


def test_equal_definitions_made_again_keep_every_value(mem, calls, patch, surround, check):
    here = sys.modules[__name__]
    surround(mem, of_helper)
    mem.derive(of_container, "x", name="container")
    mem.derive(of_tensor, "x", name="tensor")
    mem.derive(of_method, "x", name="method")
    mem.propagate()
    calls()
    for function in (normalise, _norm, Model.apply):
        code = function.__code__.replace(co_firstlineno=1, co_filename="elsewhere.py")
        again = type(function)(code, function.__globals__, function.__name__)
        owner = Model if function is Model.apply else here
        patch.setattr(owner, function.__name__, again)
    patch.setattr(here, "TABLE", {"gain": [1.0, 2.0]})
    patch.setattr(here, "WEIGHT", WEIGHT.clone())
    patch.setattr(here, "MODEL", Model(1.0))
    assert mem.propagate() == []
    check(mem, of_helper, calls, [])


def test_closures_count_by_value(mem, calls, surround, check):
    recipe, rebind, weights = make_closure()
    surround(mem, recipe)
    check(mem, recipe, calls, [])
    rebind(5.0)
    assert "offset" in str(mem.why("page"))
    check(mem, recipe, calls, ["below", "page"])
    rebind(5.0)
    check(mem, recipe, calls, [])
    weights[1] = 3.0
    assert "weights" in str(mem.why("page"))
    check(mem, recipe, calls, ["below", "page"])


def test_one_helper_of_many_pages_makes_them_all_stale_and_no_other(mem, calls, patch, beside):
    def recipe(offset):
        def inner(x):
            LOG.info("one of them")
            return normalise(x) + offset

        return inner

    for i in range(70):  # more than a quick check holds
        mem.derive(recipe(i), "x", name=f"p{i}")
    mem.derive(lambda *values: sum(values), *(f"p{i}" for i in range(70)), name="sum")
    mem.derive(beside)
    _ = mem["sum"].tensor, mem["beside"].tensor
    assert len(calls()) == 71
    patch.setattr(sys.modules[__name__], "_norm", torch.neg)
    wanted = sum(-2 * mem["x"].clone() + i for i in range(70))
    assert torch.equal(mem["sum"].tensor, wanted)
    assert len(calls()) == 70
    assert mem.propagate() == []
    assert calls() == []


def test_code_that_was_changed_while_it_ran_does_not_count(mem, patch, below):
    """What a recipe computed from half-changed code is not kept."""
    here, values = sys.modules[__name__], [100.0]

    def change(record):
        if values:
            patch.setattr(here, "SCALE", values.pop())
        return True

    LOG.filters.insert(0, change)
    try:
        page = mem.derive(of_global, "x", name="page")
        mem.derive(below)
        _ = mem["below"].tensor
        patch.undo()  # SCALE is 2 again, as before the recipe ran
        assert torch.equal(page.tensor, mem["x"].tensor * 2)
        assert torch.equal(mem["below"].tensor, mem["x"].tensor * 2 + 1)
    finally:
        LOG.removeFilter(change)


def test_code_that_breaks_and_is_mended(mem, calls, patch, surround):
    surround(mem, of_helper)
    calls()
    before = mem["below"].clone()
    patch.setattr(sys.modules[__name__], "_norm", lambda x: x.rubbish)
    for name in ("page", "below"):
        with pytest.raises(mmsb.RecipeError, match="rubbish"):
            _ = mem[name].tensor
    assert torch.equal(mem["beside"].tensor, mem["x"].tensor - 1)
    patch.undo()
    assert torch.equal(mem["below"].tensor, before)
    assert calls() == ["page"] * 3
