"""A call that is the one before again is told by looks alone; anything else makes a new key."""

import gc
import weakref

import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.graph.memo import keys
from mmsb_torch.instrumentation.identity import LEDGER

SCALE = 2.0


def f(model, x, factor=1.0, **more):
    return model(x) * factor * SCALE


@pytest.fixture
def mem():
    with mmsb.open() as memory, torch.no_grad():
        yield memory


@pytest.fixture
def call(mem):
    """(memoised function, model, x), called twice."""
    run = mem.memo(f)
    model, x = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)).eval(), torch.randn(64, 64)
    run(model, x)
    run(model, x)
    return run, model, x


def made(monkeypatch):
    """How many keys were made from now on."""
    count = []
    plain = keys.Key
    monkeypatch.setattr(keys, "Key", lambda *parts: count.append(1) or plain(*parts))
    return count


def test_the_same_call_makes_no_key_and_reads_no_weights(call, mem, monkeypatch):
    run, model, x = call
    wanted, count, read = f(model, x), made(monkeypatch), LEDGER.read
    for _ in range(5):
        assert torch.equal(run(model, x), wanted)
    assert not count
    assert LEDGER.read - read == 5 * 8  # what is smaller than asking: num_batches_tracked
    run(model, x, factor=1.0)
    run(model, x, factor=1.0)
    assert len(count) == 1
    assert mem.memo.stats()["misses"] == 1


CHANGES = {
    "x": lambda m, x: x.add_(1),
    "x past torch": lambda m, x: x.numpy().fill(1),
    "x through .data": lambda m, x: setattr(x, "data", x.data.T),
    "an attribute of x": lambda m, x: setattr(x, "tag", 1),
    "a weight": lambda m, x: m[0].weight.data.mul_(2),
    "a weight past torch": lambda m, x: m[0].weight.numpy().fill(1),
    "a small weight": lambda m, x: m[0].bias.add_(1),
    "a weight's strides": lambda m, x: setattr(m[0].weight, "data", m[0].weight.data.T),
    "another weight": lambda m, x: setattr(m[0], "weight", nn.Parameter(torch.ones(64, 64))),
    "a buffer": lambda m, x: m[1].running_mean.add_(1),
    "a counter": lambda m, x: m[1].num_batches_tracked.add_(1),
    "whether it trains": lambda m, x: m.train(),
    "a part": lambda m, x: m.append(nn.ReLU()),
    "an attribute": lambda m, x: setattr(m[1], "eps", 0.5),
    "a hook": lambda m, x: m.register_forward_hook(lambda m, a, out: out + 1),
    "a weight that wants a gradient": lambda m, x: m[0].weight.requires_grad_(False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_makes_a_new_key(call, mem, monkeypatch, change):
    run, model, x = call
    count = made(monkeypatch)
    CHANGES[change](model, x)
    found = run(model, x)
    assert count or mem.memo.stats()["refused"]
    assert torch.equal(found, f(model, x))


def test_code_globals_settings_and_modes_make_a_new_key(call, monkeypatch):
    run, model, x = call
    count = made(monkeypatch)

    def again():
        before = len(count)
        assert torch.equal(run(model, x), f(model, x))
        return len(count) > before

    assert not again()
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert again()
    torch.set_float32_matmul_precision("high")
    assert again()
    torch.set_float32_matmul_precision("highest")
    assert again()
    with torch.inference_mode():
        assert again()
    with torch.autocast("cpu", torch.bfloat16):
        assert again()
        assert not again()
    with torch.device("cpu"):  # a function mode: nothing can be said
        assert torch.equal(run(model, x), f(model, x))
    monkeypatch.setattr(f, "__defaults__", (5.0,))
    assert again()


def test_equal_arguments_of_other_kinds_are_another_call(mem):
    run = mem.memo(lambda x, k, **more: (x * k, sorted(more)))
    x = torch.ones(64, 64, dtype=torch.int64)
    for k in (1, True, 1.0, None, 1):
        if k is not None:
            assert run(x, k)[0].dtype == (x * k).dtype
    assert run(x, 1, a=2)[1] == ["a"]
    assert run(x, 1, b=2)[1] == ["b"]
    assert run(x, 1)[1] == []


def test_files_and_lists_are_read_each_time(mem, tmp_path):
    path, numbers = tmp_path / "scale.txt", [1.0]
    run = mem.memo(lambda path, numbers: float(path.read_text()) * numbers[0])
    path.write_text("2")
    assert run(path, numbers) == run(path, numbers) == 2
    path.write_text("3")
    assert run(path, numbers) == 3
    numbers[0] = 2.0
    assert run(path, numbers) == 6


def test_no_tensor_is_held(mem):
    run, x = mem.memo(lambda x: x.sum()), torch.randn(64, 64)
    run(x)
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None
