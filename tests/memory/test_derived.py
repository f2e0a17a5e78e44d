"""What was decided about derived pages: recipes, who computes, what is bound, modules as inputs."""

import threading

import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(15.0).view(5, 3)


def doubled(a):
    return a * 2


def first_row(a):
    return a[:1]


def numbers(tensor):
    return tensor.detach().resolve_conj().resolve_neg().tolist()


# 8. derived pages and recipes


def test_a_derived_page_takes_no_update(ab, change, picture_of):
    ab.derive(doubled, "a", name="d")
    before = picture_of(ab)

    def commit():
        with ab.commit() as tx:
            tx.update("b", 4)
            tx.update("d", 1.0)

    attempts = (
        commit,
        lambda: ab.update("d", torch.ones(5, 3)),
        lambda: ab.update(ab["d"], 1.0, rows=[0]),
        lambda: ab.update_many([("b", None, 4), ("d", None, 1.0)]),
    )
    for attempt in attempts:
        with pytest.raises(mmsb.DerivedPageError, match=r"'d' is derived.*input") as caught:
            attempt()
        assert isinstance(caught.value, TypeError)
    assert picture_of(ab) == before


def commit_inside(memory):
    with memory.commit() as tx:
        tx.update("b", 1)


FORBIDDEN = {
    "update": lambda m: m.update("b", 1),
    "update_many": lambda m: m.update_many([("b", None, 1)]),
    "commit": commit_inside,
    "page": lambda m: m.page("new", torch.ones(1)),
    "restore": lambda m: m.restore(1),
}


@pytest.mark.parametrize("forbidden", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_a_recipe_changes_no_page(ab, forbidden):
    def meddling(a):
        forbidden(ab)
        return a

    page = ab.derive(meddling, "a")
    with pytest.raises(mmsb.RecipeError, match=r"'meddling'.*recipe tried to change a page"):
        _ = page.tensor
    assert list(ab) == ["a", "b", "meddling"]
    assert ab.tx == 2
    assert torch.equal(ab["a"].tensor, A)
    assert torch.equal(ab["b"].tensor, torch.arange(4))
    assert ab["a"].epoch == ab["b"].epoch == 0


def test_a_page_can_be_changed_again_after_a_recipe_raised(ab):
    def meddling(a):
        ab.update("b", 1)
        return a

    with pytest.raises(mmsb.RecipeError):
        _ = ab.derive(meddling, "a").tensor
    ab.update("b", 2)
    assert ab["b"].tensor.tolist() == [2, 2, 2, 2]


def test_a_recipe_runs_without_grad_and_autocast_on_the_readers_thread(ab, context):
    seen = []

    def recipe(a, found=None):
        seen.append(
            (
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch.is_autocast_enabled("cpu"),
                threading.get_ident(),
                a.requires_grad,
            )
        )
        return a @ a.t()

    page = ab.derive(recipe, "a")
    with context():
        value = page.tensor
    assert set(seen) == {(False, False, False, threading.get_ident(), False)}
    assert value.dtype is torch.float32
    assert torch.equal(value, A @ A.t())


RESULTS = {
    "the input itself": lambda a: a,
    "a view": lambda a: a[1:],
    "transposed": lambda a: a.t(),
    "expanded": lambda a: a[0].expand(4, 3),
    "requires grad": lambda a: (a * 2).requires_grad_(),
    "parameter": lambda a: torch.nn.Parameter(a * 2),
    "neg view": lambda a: torch.complex(a, a).conj().imag,
    "conj view": lambda a: torch.complex(a, a).conj(),
    "borrowed": lambda a: torch.from_numpy(a.numpy() * 2),
    "part of more": lambda a: torch.cat([a, a])[5:],
    "0-dim": lambda a: a.sum(),
    "empty": lambda a: a[:0],
}


@pytest.mark.parametrize("function", RESULTS.values(), ids=RESULTS.keys())
def test_a_result_is_detached_and_a_memory_of_its_own(ab, function):
    page = ab.derive(function, "a", name="result")
    value = page.tensor
    assert value.tolist() == numbers(function(A))
    assert type(value) is torch.Tensor
    assert value.is_contiguous()
    assert not value.requires_grad
    assert not value.is_neg()
    assert not value.is_conj()
    before = value.clone()
    ab.update("a", -1.0)
    assert torch.equal(value, before)
    assert page.tensor.tolist() == numbers(function(torch.full((5, 3), -1.0)))


def test_a_result_made_in_inference_mode_is_a_normal_tensor(ab):
    def recipe(a):
        with torch.inference_mode():
            return a + 1

    page = ab.derive(recipe, "a")
    assert torch.equal(page.tensor, A + 1)
    assert not page.tensor.is_inference()
    ab.update("a", 0.0)
    assert torch.equal(page.tensor, torch.ones(5, 3))


def test_a_recipe_that_keeps_its_result_cannot_change_the_page(ab):
    table = torch.arange(3.0)

    def looked_up(a):
        return table

    page = ab.derive(looked_up, "a")
    held = page.tensor
    table.add_(1)
    assert held.tolist() == [0, 1, 2]
    assert page.tensor.tolist() == [1, 2, 3]
    table.numpy()[...] = 50
    assert held.tolist() == [0, 1, 2]


# 9. reading


def test_one_thread_computes_and_the_others_wait(ab):
    started, go = threading.Event(), threading.Event()
    runs = []

    def slow(a):
        runs.append(threading.get_ident())
        started.set()
        assert go.wait(20)
        return a + 1

    page = ab.derive(slow, "a")
    results = []
    threads = [threading.Thread(target=lambda: results.append(page.tensor)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(20)
    ab.update("b", 7)  # nobody else is held up
    assert ab["b"].tensor.tolist() == [7, 7, 7, 7]
    go.set()
    for thread in threads:
        thread.join(20)
    assert len(results) == 4
    assert all(torch.equal(result, A + 1) for result in results)


def test_a_read_equals_the_inputs_at_one_moment(mem, bounded):
    mem.page("x", torch.zeros(64, dtype=torch.int64))
    mem.page("y", torch.zeros(64, dtype=torch.int64))
    total = mem.derive(lambda x, y: torch.stack([x, y]), "x", "y", name="both")
    stop = threading.Event()

    def write():
        for number in range(1, 400):
            mem.update_many([("x", None, number), ("y", None, -number)])
            if stop.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()

    def read():
        last = 0
        for _ in range(60):
            low, value = mem["x"].tensor[0].item(), total.tensor
            assert bool((value[0] == value[0, 0]).all())
            assert torch.equal(value[0], -value[1])
            assert value[0, 0] >= max(low, last)
            last = value[0, 0].item()

    try:
        bounded(read)
    finally:
        stop.set()
        writer.join()


def test_reading_never_adds_a_transaction(ab, twin, picture_of):
    for memory, look in ((ab, True), (twin, False)):
        memory.derive(doubled, "a", name="d")
        memory.derive(first_row, "d", name="e")
        for number in range(3):
            memory.update("a", float(number), rows=[number])
            if look:
                _ = memory["e"].tensor, memory.at(2)["e"], memory.why("e"), str(memory.graph)
                memory.propagate()
    assert ab.tx == twin.tx == 5
    for tx in range(2, 6):
        for name in ("a", "b", "d", "e"):
            assert torch.equal(ab.at(tx)[name], twin.at(tx)[name]), (tx, name)
    assert [str(c.region) for c in ab["a"].history()] == [
        str(c.region) for c in twin["a"].history()
    ]


# 11. what derive binds


def test_parameters_without_a_page_use_their_default(ab):
    def scaled(a, factor=3.0, *, missing=None):
        assert missing is None
        return a * factor

    assert torch.equal(ab.derive(scaled).tensor, A * 3)
    ab.page("factor", torch.tensor(5.0))
    assert torch.equal(ab.derive(scaled, name="again").tensor, A * 5)
    assert torch.equal(ab.derive(scaled, "a", name="third", factor=2.0).tensor, A * 2)
    assert torch.equal(ab.derive(scaled, a=ab["a"], factor=ab["factor"], name="4").tensor, A * 5)


def test_a_parameter_without_page_or_default_is_not_found(ab, picture_of):
    before = picture_of(ab)
    with pytest.raises(mmsb.PageNotFoundError, match=r"'bb'.*Did you mean 'b'"):
        ab.derive(lambda a, bb: a, name="x")
    assert picture_of(ab) == before


def test_derive_is_a_decorator_with_and_without_options(ab):
    @ab.derive
    def tripled(a):
        return a * 3

    @ab.derive(name="named", metadata={"unit": "m"})
    def halved(a):
        return a / 2

    assert isinstance(tripled, mmsb.Page)
    assert (tripled.name, halved.name) == ("tripled", "named")
    assert torch.equal(tripled.tensor, A * 3)
    assert torch.equal(ab["named"].tensor, A / 2)
    assert dict(halved.metadata) == {"unit": "m"}


# 12. modules are inputs


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.register_buffer("scale", torch.ones(2))
        self.drop = torch.nn.Dropout(0.5)
        self.factor = 1.0

    def forward(self, x):
        return self.drop(self.linear(x)) * self.scale * self.factor


def replace_weight(net):
    net.linear.weight = torch.nn.Parameter(torch.ones(2, 3))


def write_weight(net):
    with torch.no_grad():
        net.linear.weight.mul_(2)


def replace_buffer(net):
    net.scale = torch.full((2,), 3.0)


def load(net):
    net.load_state_dict({key: torch.ones_like(value) for key, value in net.state_dict().items()})


def step(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def replace_child(net):
    net.linear = torch.nn.Linear(3, 2)


MODULE_CHANGES = {
    "parameter replaced": replace_weight,
    "parameter written": write_weight,
    "buffer replaced": replace_buffer,
    "buffer written": lambda net: net.scale.add_(1),
    "train": lambda net: net.linear.train(),
    "attribute": lambda net: setattr(net, "factor", 2.0),
    "child": replace_child,
    "state dict": load,
    "optimizer": step,
    "hook": lambda net: net.linear.register_forward_hook(lambda *args: args[2] + 1),
    "pre-hook": lambda net: net.register_forward_pre_hook(lambda module, args: (args[0] * 0,)),
}


@pytest.mark.parametrize("alter", MODULE_CHANGES.values(), ids=MODULE_CHANGES.keys())
def test_a_changed_module_makes_its_results_stale(ab, alter):
    torch.manual_seed(0)
    net = Net().eval()
    page = ab.derive(net, "a", name="out")
    below = ab.derive(lambda out: out + 1, "out", name="below")
    for _ in range(3):
        with torch.no_grad():
            assert torch.equal(below.tensor, net(A) + 1)
    assert ab.stats()["recomputed"] == 2
    alter(net)
    with torch.no_grad():
        assert torch.equal(page.tensor, net(A))
        assert torch.equal(below.tensor, net(A) + 1)
    assert ab.stats()["recomputed"] >= 3
    assert ab.tx == 2
