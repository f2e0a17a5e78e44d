"""Wrong answers that tensor caches of today give silently: none of them is given here."""

import importlib.util
import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

GAIN = 2.0


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        memory.page("x", torch.arange(6.0).view(3, 2) + 1)
        yield memory


# keys


def test_a_transposed_input(mem):
    square = torch.arange(9.0).view(3, 3)
    mem.page("a", square)
    mem.page("turned", torch.tensor(False))
    once = mem.derive(lambda a, turned: a.t() if turned else a, name="maybe")
    rows = mem.derive(lambda maybe: maybe.sum(1), name="rows")
    assert torch.equal(rows.tensor, square.sum(1))
    mem.update("turned", True)
    assert torch.equal(once.tensor, square.t())
    assert torch.equal(rows.tensor, square.sum(0))
    mem.update("a", square.t())
    assert torch.equal(rows.tensor, square.sum(1))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32)),
        (torch.zeros(4), torch.zeros(2, 2)),
        (torch.ones(3, 8), torch.ones(3, 4, 2)),
        (torch.ones(2, 3), torch.ones(3, 2)),
        (torch.zeros(0, 3), torch.zeros(3, 0)),
        (torch.zeros(1), torch.zeros(())),
        (torch.tensor([0.0, -0.0]), torch.tensor([-0.0, 0.0])),
        (torch.tensor([1, 0]), torch.tensor([1])),
        (torch.tensor([True]), torch.tensor([1], dtype=torch.uint8)),
        (torch.ones(4, dtype=torch.bfloat16), torch.full((4,), 0x3F80, dtype=torch.int16)),
        (torch.tensor([float("nan")]), torch.tensor([-float("nan")])),
    ],
    ids=lambda t: f"{t.dtype}{list(t.shape)}".removeprefix("torch."),
)
def test_values_that_look_alike_to_others(mem, a, b):
    """Of a derived page, of a constant, of a global: same bytes or same numbers, another value."""
    mem.page("which", torch.tensor(0))
    middle = mem.derive(lambda which: (a, b)[int(which)].clone(), name="middle")
    described = mem.derive(lambda middle: describe(middle), name="described")
    for which in (0, 1, 0):
        mem.update("which", which)
        assert torch.equal(described.tensor, describe((a, b)[which]))
        assert same_bits(middle.tensor, (a, b)[which])
    for value in (a, b, a):
        page = mem.derive(lambda x, constant: describe(constant), "x", constant=value, name="c")
        assert torch.equal(page.tensor, describe(value))


def describe(value):
    sign = torch.signbit(value.flatten()[:2].double()).tolist()
    kind = sorted(map(str, [torch.float32, torch.bool, torch.uint8, value.dtype])).index(
        str(value.dtype)
    )
    return torch.tensor([kind, value.dtype.itemsize, *value.shape, -1, *sign])


@pytest.mark.parametrize(
    "values",
    [(1, 1.0, True, 1), ((1, 2), [1, 2], (1.0, 2)), ("1", b"1", 1), (None, False, 0), ({1: 2}, {1.0: 2})],
    ids=str,
)  # fmt: skip
def test_constants_that_are_equal_to_python(mem, values):
    for value in values:
        page = mem.derive(lambda x, k: spelled(k), "x", k=value, name="p")
        assert torch.equal(page.tensor, spelled(value))


def spelled(value):
    return torch.tensor([ord(c) for c in repr(value)])


def test_one_element_and_two_swapped_tokens(mem):
    tokens = torch.tensor([[5, 6, 7], [7, 6, 5]])
    mem.page("tokens", tokens)
    page = mem.derive(lambda tokens: tokens * torch.arange(3), name="p")
    tiny = mem.derive(lambda x: x * 1, "x", name="tiny")
    _ = page.tensor, tiny.tensor
    mem.update("tokens", tokens.flip(0))
    assert torch.equal(page.tensor, tokens.flip(0) * torch.arange(3))
    changed = mem["x"].clone()
    changed[2, 1] += 1e-4
    mem.update("x", changed)
    assert same_bits(tiny.tensor, changed)


# code


def helper(x):
    return deeper(x) * GAIN


def deeper(x):
    return x + 1


def test_an_edited_helper_global_closure_and_import(mem, monkeypatch, tmp_path):
    (tmp_path / "users.py").write_text("def f(x):\n    return x * RATE\nRATE = 1.0\n")
    spec = importlib.util.spec_from_file_location("users_of_wrong_answers", tmp_path / "users.py")
    users = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "users_of_wrong_answers", users)
    spec.loader.exec_module(users)
    offset = [0.0]

    def recipe(x):
        return users.f(helper(x)) + offset[0]

    page, here = mem.derive(recipe, "x", name="p"), sys.modules[__name__]
    edits = [
        lambda: monkeypatch.setattr(here, "deeper", torch.neg),
        lambda: monkeypatch.setattr(here, "GAIN", 5.0),
        lambda: monkeypatch.setattr(users, "RATE", 3.0),
        lambda: offset.__setitem__(0, 4.0),
        lambda: monkeypatch.setattr(users, "f", torch.abs),
        lambda: monkeypatch.setattr(here, "helper", lambda x: x - 100),
        monkeypatch.undo,
    ]
    for edit in (lambda: None, *edits):
        edit()
        assert torch.equal(page.tensor, recipe(mem["x"].clone()))


# weights


def optimised(net, **options):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, **options)
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.ones(3, 2)).square().sum().backward()
        optimizer.step()


WRITES = {
    "fused": lambda net: optimised(net, fused=True),
    "foreach": lambda net: optimised(net, foreach=True),
    "loop": lambda net: optimised(net, foreach=False),
    "data": lambda net: net[0].weight.data.add_(1),
    "numpy": lambda net: net[0].weight.detach().numpy().__setitem__((0, 0), 5.0),
    "numpy held before": lambda net: net.alias.__setitem__((1, 1), 5.0),
    "dlpack": lambda net: torch.from_dlpack(net[0].weight.detach()).add_(1),
    "storage": lambda net: net[0].weight.untyped_storage().fill_(0),
    "replaced": lambda net: setattr(net[0], "weight", nn.Parameter(torch.ones(2, 2))),
    "vector": lambda net: nn.utils.vector_to_parameters(torch.ones(10), net.parameters()),
    "statistics": lambda net: net.train()(torch.ones(4, 2)) is None or net.eval(),
    "momentum": lambda net: net[1].running_var.mul_(3.0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize("sort", ["module", "closure"])
def test_weights_and_batch_statistics(mem, write, sort):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    net.alias = net[0].weight.detach().numpy()
    function = net if sort == "module" else lambda x: net(x)
    page = mem.derive(function, "x", name="p")
    for act in (lambda _: None, write, write):
        act(net)
        with torch.no_grad():
            wanted = net(mem["x"].clone())
        assert same_bits(page.tensor, wanted)
        assert mem.propagate() == []


def test_gradients_do_not_come_from_a_cache(mem):
    weight = torch.ones(2, 2, requires_grad=True)
    page = mem.derive(lambda x: x @ weight, "x", name="p")
    with torch.enable_grad():
        found = page.tensor
    assert not found.requires_grad
    assert found.grad_fn is None
    with pytest.raises(RuntimeError, match="does not require grad"):
        found.sum().backward()
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(page.tensor, mem["x"].tensor @ weight.detach())


# random numbers


def states():
    return (
        torch.get_rng_state().tolist(),
        repr(np.random.mtrand._rand.get_state()),
        random.getstate(),
    )


def test_hits_leave_every_generator_where_it_was(mem):
    page = mem.derive(lambda x: nn.functional.dropout(x, 0.5), "x", name="noisy")
    below = mem.derive(lambda noisy: noisy + 1, name="below")
    torch.manual_seed(3)
    first = page.clone()
    torch.manual_seed(3)
    assert same_bits(first, nn.functional.dropout(mem["x"].clone(), 0.5))
    _ = below.tensor
    before = states()
    for _ in range(3):
        assert same_bits(page.tensor, first)
        assert torch.equal(below.tensor, first + 1)
        mem.update("x", mem["x"].tensor)
        mem.propagate(), mem.why("below"), mem.graph, mem.stats()
    mem.derive(lambda x: nn.functional.dropout(x, 0.5), "x", name="noisy")
    assert same_bits(page.tensor, first)
    assert states() == before


def test_looking_at_random_pages_is_repeatable(mem):
    page = mem.derive(lambda x: x + torch.rand(3, 2), "x", name="noisy")
    below = mem.derive(lambda noisy: noisy.sum(), name="below")
    for _ in range(3):
        assert torch.equal(below.tensor, page.tensor.sum())
        mem.update("x", torch.rand(3, 2))


def test_a_generator_of_the_users_is_an_input(mem):
    generator = torch.Generator().manual_seed(5)
    page = mem.derive(lambda x: torch.rand(2, generator=generator), "x", name="noisy")
    first = page.clone()
    generator.manual_seed(5)
    assert same_bits(page.tensor, first)
    generator.manual_seed(6)
    assert not same_bits(page.tensor, first)


def test_what_was_handed_in_is_not_looked_at_again(mem):
    array = np.zeros((3, 2), dtype=np.float32)
    for value in (array, torch.from_numpy(array)):
        mem.update("x", value)
        page = mem.derive(lambda x: x + 1, "x", name="p")
        array.fill(9)
        assert torch.equal(page.tensor, torch.ones(3, 2))
        array.fill(0)


def test_a_default_dtype(mem):
    page = mem.derive(lambda x: x.sum() * torch.ones(1) + torch.tensor([0.1]), "x", name="p")
    before = torch.get_default_dtype()
    assert page.tensor.dtype is torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert same_bits(page.tensor, mem["x"].tensor.sum() * torch.ones(1) + torch.tensor([0.1]))
    finally:
        torch.set_default_dtype(before)
    assert page.tensor.dtype is torch.float32
