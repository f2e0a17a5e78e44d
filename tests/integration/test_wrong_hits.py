"""Wrong answers that memoizers of today give silently: none by memo, by a scope, or by a replay.

One test for each that is live in others (those of pages are in test_wrong_answers.py). Rows that are
computed alone differ from the whole: that is for derived pages with rows=, and tested there.
"""

import contextlib
import random
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from mmsb_torch.instrumentation.identity import barrier
from mmsb_torch.testing import alike

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("everything_counts")]


def memoised(mem, function):
    return mem.memo(function)


def scoped(mem, function):
    def run(*args):
        with mem.incremental():
            return function(*args)

    return run


@pytest.fixture(params=[memoised, scoped], ids=["memo", "scope"])
def cached(request, mem):
    return lambda function: request.param(mem, function)


def describe(x):
    return x * 2, x.sum(0) if x.dim() else x + 1, list(x.shape), str(x.dtype)


LOOKALIKES = {
    "transposed": (torch.arange(64.0).view(8, 8), torch.arange(64.0).view(8, 8).t()),
    "made contiguous": (
        torch.arange(64.0).view(8, 8).t(),
        torch.arange(64.0).view(8, 8).t().contiguous(),
    ),
    "float and int zeros": (torch.zeros(8), torch.zeros(8, dtype=torch.int32)),
    "same bits of another dtype": (torch.full((4,), 1.0), torch.full((4,), 1.0).view(torch.int32)),
    "another shape": (torch.ones(3, 8), torch.ones(3, 4, 2)),
    "empty": (torch.ones(0, 3), torch.ones(3, 0)),
    "an edit of 1e-4": (torch.ones(8), torch.ones(8) + torch.eye(8)[3] * 1e-4),
    "swapped tokens": (torch.tensor([5, 6, 7]), torch.tensor([7, 6, 5])),
    "signed zeros": (torch.tensor([0.0, -0.0]), torch.tensor([-0.0, 0.0])),
    "conjugated": (torch.tensor([1 + 2j]), torch.tensor([1 + 2j]).conj()),
    "negated": (torch.tensor([1 + 2j]).imag, torch.tensor([1 + 2j]).conj().imag),
    "half a view": (torch.arange(8.0)[:4], torch.arange(8.0)[4:]),
    "expanded": (torch.ones(1).expand(4), torch.ones(4)),
}


@pytest.mark.parametrize("pair", LOOKALIKES.values(), ids=LOOKALIKES.keys())
def test_tensors_that_look_alike_to_others(cached, pair):
    call = cached(describe)
    for x in (*pair, *pair):
        assert alike(call(x), describe(x))


def test_random_numbers_after_a_hit(cached):
    def noisy(x):
        return x + torch.randn_like(x) + nn.functional.dropout(x, 0.5)

    call, x = cached(noisy), torch.ones(8)
    for seed in (1, 1, 2, 1):
        torch.manual_seed(seed)
        wanted = [noisy(x), torch.rand(3), noisy(x)]
        torch.manual_seed(seed)
        assert alike([call(x), torch.rand(3), call(x)], wanted)


def test_gradients_through_a_hit(cached):
    call, weight = cached(lambda x, w: torch.tanh(x @ w).square()), torch.randn(8, 8)
    x, w = torch.randn(4, 8, requires_grad=True), weight.clone().requires_grad_()
    wanted = torch.autograd.grad(torch.tanh(x @ w).square().sum(), [x, w])
    for _ in range(3):
        x.grad = w.grad = None
        call(x, w).sum().backward()
        assert alike([x.grad, w.grad], list(wanted))


def test_what_is_handed_out_may_be_spoiled(cached):
    call, x = cached(lambda x: (x * 2, (x @ x)[:2])), torch.randn(8, 8)
    held = []
    for spoil in (
        lambda t: t.add_(1),
        lambda t: t.numpy().fill(3),
        lambda t: t.data.zero_(),
        lambda t: t.view(-1)[3:].mul_(2),
        lambda t: t.untyped_storage().fill_(1),
    ):
        found = call(x)
        assert alike(found, (x * 2, (x @ x)[:2]))
        held.append(found[0].numpy())
        for tensor in found:
            spoil(tensor)
        for array in held:
            array[...] = -9


def test_writes_through_views_inside(mem, cached):
    """A replay that lost a write through a view gave [24, 24, 24, 24]."""

    def body(x):
        value = torch.full((4,), 8.0) + 0 * x.sum()
        view = value[:2]
        view.mul_(3)
        value.mul_(3)
        return value

    call, x = cached(body), torch.ones(3)
    for step in range(3):
        x.fill_(step)
        assert call(x).tolist() == [72, 72, 24, 24]
    with mem.record() as rec:
        y = body(x)
    rec.lift(inputs={"x": x}, outputs={"y": y})
    for step in range(3):
        mem.update("x", torch.full((3,), float(step)))
        assert mem["y"].tensor.tolist() == [72, 72, 24, 24]


RATE = 2.0


def helper(x):
    return x * RATE


def test_edited_helpers_globals_closures_and_imports(cached, monkeypatch):
    users = types.ModuleType("users_of_wrong_hits")
    exec("RATE = 1.0\ndef f(x):\n    return x * RATE", users.__dict__)
    monkeypatch.setitem(sys.modules, users.__name__, users)
    offset, here = [0.0], sys.modules[__name__]

    def body(x):
        return users.f(helper(x)) + offset[0]

    call, x = cached(body), torch.randn(8)
    for edit in (
        lambda: None,
        lambda: monkeypatch.setattr(here, "RATE", 5.0),
        lambda: monkeypatch.setattr(users, "RATE", 3.0),
        lambda: offset.__setitem__(0, 4.0),
        lambda: monkeypatch.setattr(users, "f", torch.abs),
        lambda: monkeypatch.setattr(here, "helper", lambda x: x - 100),
    ):
        edit()
        for _ in range(2):
            assert alike(call(x), body(x))


def fused(net):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
    with torch.enable_grad():
        net(torch.ones(3, 4)).square().sum().backward()
        optimizer.step()


CHANGES = {
    "fused optimizer": fused,
    "statistics": lambda net: net.train()(torch.randn(4, 4)) is None or net.eval(),
    "data": lambda net: net[0].weight.data.add_(1),
    "numpy": lambda net: net[0].weight.detach().numpy().__setitem__((0, 0), 5.0),
    "numpy held before": lambda net: net.alias.__setitem__((1, 1), net.alias[1, 1] + 5.0),
    "dlpack": lambda net: torch.from_dlpack(net[0].weight.detach()).add_(1),
    "storage": lambda net: net[0].weight.untyped_storage().fill_(1),
    "replaced": lambda net: setattr(net[0], "weight", nn.Parameter(torch.ones(4, 4))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_weights_whose_version_does_not_move(cached, change):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    object.__setattr__(net, "alias", net[0].weight.detach().numpy())
    x, call = torch.randn(3, 4), cached(lambda net, x: net(x))
    with torch.no_grad():
        for act in (lambda _: None, lambda _: None, change, change):
            act(net)
            assert alike(call(net, x), net(x))


# the state of torch is afterwards what it was before


def state():
    generator = np.random.mtrand._rand.get_state()
    return (
        torch._C._len_torch_dispatch_stack(),
        torch._C._len_torch_function_stack(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch._C._is_torch_function_enabled(),
        torch.get_rng_state().tolist(),
        generator[1].tolist(),
        generator[2:],
        random.getstate(),
        sys.gettrace(),
        sys.getprofile(),
    )


@pytest.mark.parametrize("fails", [False, True], ids=["ends", "raises"])
@pytest.mark.parametrize("way", ["record", "trace", "incremental", "memo"])
def test_the_state_of_torch_is_as_before(mem, way, fails):
    x, w = torch.randn(8, 8), torch.randn(8, 8, requires_grad=True)

    def body(x):
        y = (x @ x).tanh() + x
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            _ = x @ x
            if fails:
                raise ArithmeticError
        (y @ w).sum().backward()
        return y

    ways = {
        "record": mem.record,
        "trace": lambda: mem.record(frames="trace"),
        "incremental": mem.incremental,
        "memo": contextlib.nullcontext,
    }
    call = mem.memo(body) if way == "memo" else body
    before = state()
    told = [(t.data_ptr(), t._version, t.requires_grad, barrier.is_armed(t)) for t in (x, w)]
    for _ in range(2):
        with contextlib.suppress(ArithmeticError), ways[way]():
            call(x)
        assert state() == before
        w.grad = None
    if way in ("record", "trace"):  # the others leave the flag, as evidence for the next time
        assert [barrier.is_armed(t) for t in (x, w)] == [armed for *_, armed in told]
    assert [(t.data_ptr(), t._version, t.requires_grad) for t in (x, w)] == [
        tuple(rest) for *rest, _ in told
    ]
    x.add_(1)
    assert not barrier.is_armed(x)


def test_flags_are_gone_when_a_thread_begins(mem):
    import threading

    x, found = torch.randn(8, 8), []
    memo = mem.memo(lambda x: x @ x)
    memo(x)
    with mem.incremental():
        made = x @ x
    with mem.incremental():
        hit = x @ x
    assert all(map(barrier.is_armed, (x, made, hit)))
    look = lambda: found.extend(map(barrier.is_armed, (x, made, hit)))
    hook = threading.getprofile()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [False, False, False]
    assert threading.getprofile() is hook
    seen = []
    threading.setprofile(lambda *event: seen.append(event[1]))  # somebody's profiler
    try:
        memo(x)
        assert barrier.is_armed(x)
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    finally:
        threading.setprofile(None)
    assert not any(found)
    assert "call" in seen
    assert alike(memo(x), x @ x)
