"""Recipes: every way to declare one, and that equal code keeps values and other code does not."""

import contextlib
import functools
import itertools
import logging
import operator
import random
import threading
import time

import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.graph import CallRecipe
from mmsb_torch.instrumentation.code import Definition

LOG = logging.getLogger("recipes of test_recipes")  # a digest knows a logger by its name alone


@pytest.fixture
def calls():
    """What recipes report, in order, noted where no digest looks; `calls()` takes it."""
    names = []

    def note(record):
        names.append(record.msg)
        return False

    def take():
        found, names[:] = list(names), []
        return found

    LOG.setLevel(logging.INFO)
    LOG.addFilter(note)
    yield take
    LOG.removeFilter(note)


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        memory.page("x", torch.arange(6.0).view(3, 2))
        memory.page("y", torch.full((3, 2), 10.0))
        yield memory


@pytest.fixture
def kind():
    """A name of a kind that nobody else uses."""
    return f"test_recipes/{next(_numbers)}"


_numbers = itertools.count()


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


# forms of declaration


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


# modules


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("shift", torch.zeros(2))
        self.gain = 1.0
        self.table = {"scale": [1.0]}

    def forward(self, x):
        LOG.info("forward")
        return self.drop(self.norm(self.inner(x))) * self.gain * self.table["scale"][0] + self.shift


def optimise(net, **options):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, **options)
    net(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def foreign_write(net):
    net.inner.weight.detach().numpy()[0, 0] += 1


def add_hook(net):
    net.inner.register_forward_hook(lambda module, args, result: result + 1)


def swap(net):
    net.inner = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))


def assign(net):
    state = {key: torch.ones_like(value) for key, value in net.state_dict().items()}
    net.load_state_dict(state, assign=True)


def replace_class_method(net):
    net.forward = lambda x: x * 3


MODULE_EDITS = {
    "in place": lambda net: net.inner.bias.data.add_(1),
    "no grad": lambda net: torch.no_grad()(lambda: net.inner.weight.mul_(2))(),
    "copy": lambda net: net.inner.weight.data.copy_(torch.ones(2, 2)),
    "data": lambda net: setattr(net.inner.weight, "data", torch.ones(2, 2)),
    "numpy": foreign_write,
    "loop optimizer": lambda net: optimise(net, foreach=False),
    "foreach optimizer": lambda net: optimise(net, foreach=True),
    "fused optimizer": lambda net: optimise(net, fused=True),
    "parameter": lambda net: setattr(net.inner, "bias", nn.Parameter(torch.ones(2))),
    "no parameter": lambda net: setattr(net.inner, "bias", None),
    "buffer": lambda net: net.shift.add_(1),
    "new buffer": lambda net: setattr(net, "shift", torch.ones(2)),
    "statistics": lambda net: net.norm.running_mean.add_(1),
    "attribute": lambda net: setattr(net, "gain", 2.0),
    "attribute within": lambda net: net.table["scale"].__setitem__(0, 3.0),
    "eps": lambda net: setattr(net.norm, "eps", 0.5),
    "hook": add_hook,
    "pre-hook": lambda net: net.register_forward_pre_hook(lambda module, args: (args[0] + 1,)),
    "swapped": swap,
    "assigned": assign,
    "load_state_dict": lambda net: net.load_state_dict(Net().state_dict()),
    "own forward": replace_class_method,
    "other dtype": lambda net: net.double() and net.float(),
    "reset": lambda net: net.inner.reset_parameters(),
}


@pytest.mark.parametrize("edit", MODULE_EDITS.values(), ids=MODULE_EDITS.keys())
def test_a_module_is_an_input_in_all_its_parts(mem, calls, edit):
    torch.manual_seed(0)
    net = Net().eval()
    page = mem.derive(net, "x", name="net")
    below = mem.derive(torch.abs, page, name="below")
    for wanted_runs in (1, 0):
        assert torch.equal(page.tensor, _plain(net, mem["x"].clone(), calls))
        assert calls() == ["forward"] * wanted_runs
    edit(net)
    calls()
    assert torch.equal(below.tensor, _plain(net, mem["x"].clone(), calls).abs())
    assert torch.equal(page.tensor, _plain(net, mem["x"].clone(), calls))
    assert len(calls()) <= 1
    assert mem.propagate() == []


def _plain(net, x, calls):
    """What calling the module gives, its report taken back."""
    before = calls()
    with torch.no_grad():
        result = net(x)
    calls()
    for name in before:
        LOG.info(name)
    return result


def test_train_and_eval_are_other_inputs(mem):
    net = Net().eval()
    net.drop.p = 0.0
    page = mem.derive(net, "x", name="net")
    in_eval = page.clone()
    net.train()
    with torch.no_grad():
        in_train = nn.functional.batch_norm(net.inner(mem["x"].clone()), None, None, training=True)
    assert torch.allclose(page.tensor, in_train, atol=1e-5)
    net.eval()
    assert not torch.equal(page.tensor, in_eval)  # the statistics moved while it trained
    with torch.no_grad():
        assert torch.equal(page.tensor, net(mem["x"].clone()))


def test_a_module_in_training_runs_at_each_read(mem, calls):
    net = nn.BatchNorm1d(2)
    net.register_forward_hook(lambda *_: LOG.info("run"))
    page = mem.derive(net, "x", name="net")
    for number in range(1, 4):
        assert page.tensor.shape == (3, 2)
        assert net.num_batches_tracked == number
        assert calls() == ["run"]


def test_hooks_for_all_modules_count(mem):
    page = mem.derive(nn.Linear(2, 2), "x", name="net")
    before = page.clone()
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, result: result + 1)
    try:
        assert torch.equal(page.tensor, before + 1)
    finally:
        handle.remove()
    assert torch.equal(page.tensor, before)


def test_a_closure_over_a_module_counts_as_much_as_the_module(mem):
    net = nn.Linear(2, 2)
    page = mem.derive(lambda x: net(x) * 2, "x", name="p")
    _ = page.tensor
    with torch.no_grad():
        net.weight.fill_(1.0)
        assert torch.equal(page.tensor, net(mem["x"].clone()) * 2)


# declared again


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


# puzzles


class Puzzle:
    """Pages that read what other pages' values tell them to; some fail for some values."""

    def __init__(self, seed):
        self.chance = chance = random.Random(seed)
        self.state = {f"r{i}": chance.randrange(6) for i in range(4)}
        names, self.plans = list(self.state), {}
        for i in range(14):
            self.plans[f"k{i}"] = (
                chance.sample(names, 3),
                chance.randrange(2, 5),
                chance.random() < 0.2,
            )
            names.append(f"k{i}")

    def value(self, read, name):
        """What page `name` should be; `read` gives other pages."""
        (switch, left, right), modulus, picky = self.plans[name]
        chosen = read(switch)
        if picky and chosen % modulus == 1:
            raise ArithmeticError(name)
        found = read(left if chosen % modulus else right)
        return (found + read(right)) % 6 if chosen % 2 else found

    def full(self, name):
        """The value of a page by plain calls; None if it has none."""
        try:
            return self._full(name)
        except ArithmeticError:
            return None

    def _full(self, name):
        return self.state[name] if name in self.state else self.value(self._full, name)

    def declare(self, mem, kind):
        """Its pages in a memory."""
        value = functools.partial(Puzzle.value, Plans(self.plans))

        def function(memory, page):
            return torch.tensor(value(lambda n: int(memory[n].tensor), page.metadata["name"]))

        mmsb.register_recomputation(kind, function)
        for name, number in self.state.items():
            mem.page(name, torch.tensor(number))
        for name in self.plans:
            mem.page(name, kind=kind, metadata={"name": name})

    def work(self, mem, seed, end):
        """What one of several threads does until `end`."""
        chance = random.Random(seed)
        while time.monotonic() < end:
            name = chance.choice(list(self.plans))
            with contextlib.suppress(mmsb.RecipeError):
                if seed < 2:
                    mem.update(chance.choice(list(self.state)), chance.randrange(6))
                if seed == 5:
                    mem.propagate()
                elif seed == 6:
                    assert 0 <= int(mem.at(mem.tx)[name]) < 6
                else:
                    assert 0 <= int(mem[name].tensor) < 6


@pytest.mark.parametrize("seed", range(8))
def test_random_kinds_equal_full_recomputation(mem, kind, seed):
    puzzle = Puzzle(seed)
    puzzle.declare(mem, kind)
    for _ in range(40):
        root = puzzle.chance.choice(list(puzzle.state))
        puzzle.state[root] = puzzle.chance.randrange(6)
        mem.update(root, puzzle.state[root])
        for name in puzzle.chance.sample(list(puzzle.plans), 3):
            wanted = puzzle.full(name)
            if wanted is None:
                with pytest.raises(mmsb.RecipeError, match="ArithmeticError"):
                    _ = mem[name].tensor
            else:
                assert int(mem[name].tensor) == wanted, name


class Plans:
    """The part of a puzzle that does not change."""

    def __init__(self, plans):
        self.plans = plans


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(2))
def test_random_kinds_in_many_threads(mem, kind, seed):
    """Nobody waits for ever, nothing unexpected is raised, and in the end everything is right."""
    puzzle, errors = Puzzle(seed), []
    puzzle.declare(mem, kind)

    def work(number, end):
        try:
            puzzle.work(mem, number, end)
        except BaseException as error:
            errors.append(error)

    end = time.monotonic() + 2.0
    threads = [threading.Thread(target=work, args=(i, end), daemon=True) for i in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    puzzle.state = {name: int(mem[name].tensor) for name in puzzle.state}
    for name in puzzle.plans:
        wanted = puzzle.full(name)
        if wanted is None:
            with pytest.raises(mmsb.RecipeError, match="ArithmeticError"):
                _ = mem[name].tensor
        else:
            assert int(mem[name].tensor) == wanted
