"""What counts when a memoised function is called again: contents, code, settings, files."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.testing import alike

BIG = 1 << 13
"""Elements of a tensor that is watched, not read."""


WRITES = {
    "add_": lambda t: t.add_(1),
    "setitem": lambda t: t.__setitem__(3, 7.0),
    "data": lambda t: t.data.mul_(2),
    "numpy": lambda t: t.numpy().__setitem__(5, 3.0),
    "out": lambda t: torch.add(t, 1, out=t),
    "view": lambda t: t.view(2, -1)[1, 3:5].fill_(9),
    "detached": lambda t: t.detach().zero_(),
    "dlpack": lambda t: torch.from_dlpack(t).fill_(4),
    "storage": lambda t: t.untyped_storage().fill_(1),
    "set_": lambda t: t.set_(torch.full_like(t, 5.0)),
    "data =": lambda t: setattr(t, "data", torch.full_like(t, 6.0)),
    "swapped halves": lambda t: t.copy_(torch.cat([t[4:], t[:4]])),
    "copy_": lambda t: t.copy_(torch.randn_like(t)),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("size", [8, BIG])
def test_every_write_is_seen(mem, write, size):
    @mem.memo
    def f(x):
        return x.cumsum(0)

    x = torch.arange(float(size))
    f(x)
    f(x)
    WRITES[write](x)
    assert torch.equal(f(x), x.cumsum(0))
    WRITES[write](x)
    assert torch.equal(f(x), x.cumsum(0))


def test_arrays_that_were_there_before_write_too(mem):
    @mem.memo
    def f(x):
        return x * 2

    x = torch.arange(float(BIG))
    array, view = x.numpy(), x[5:9]
    f(x)
    array[0] = 99
    assert f(x)[0] == 198
    view.fill_(-1)
    assert f(x)[6] == -2
    shared = torch.from_numpy(array)
    f(shared)
    array[1] = 55
    assert f(shared)[1] == 110


def test_weights_of_a_module_count(mem):
    @mem.memo
    def run(model, x):
        return model(x)

    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.Linear(256, 64)).eval()
    x = torch.randn(4, 64)
    with torch.no_grad():
        for change in (
            lambda: None,
            lambda: model[0].weight.add_(1),
            lambda: model[0].weight.data.mul_(0.5),
            lambda: model[0].weight.numpy().fill(0.1),
            lambda: setattr(model[2], "bias", nn.Parameter(torch.ones(64))),
            lambda: model[1].running_mean.add_(1),
            lambda: model.append(nn.ReLU()),
            lambda: model[0].register_forward_hook(lambda module, args, out: out * 2),
        ):
            change()
            before = mem.memo.stats()["misses"]
            assert torch.equal(run(model, x), model(x))
            assert mem.memo.stats()["misses"] == before + 1
            assert torch.equal(run(model, x), model(x))
            assert mem.memo.stats()["misses"] == before + 1
        assert "training flag" in str(mem.memo.explain(run, model.train(), x))


def test_code_globals_and_helpers_count(mem):
    def make(body):
        space = {"SCALE": 2.0, "torch": torch, "__name__": "cell"}
        exec(
            f"def helper(x):\n    return x + 1\ndef f(x):\n    {body}\n",
            space,
        )
        return space

    space = make("return helper(x) * SCALE")
    f = mem.memo(space["f"])
    x = torch.ones(4)
    assert f(x)[0] == 4
    space["SCALE"] = 3.0
    assert str(mem.memo.explain(f, x)) == (
        "miss: code changed (global 'SCALE' changed), in world 1; computed in world 0"
    )
    assert f(x)[0] == 6
    exec("def helper(x):\n    return x + 2", space)
    assert f(x)[0] == 9
    again = make("return helper(x) * SCALE")  # the cell is run again, with equal code
    again["SCALE"], before = 3.0, mem.memo.stats()["misses"]
    exec("def helper(x):\n    return x + 2", again)
    assert mem.memo(again["f"])(x)[0] == 9
    assert mem.memo.stats()["misses"] == before


def test_settings_and_modes_count(mem):
    @mem.memo
    def f(x):
        return x @ x, torch.ones(2)

    x = torch.randn(8, 8)

    def misses(count):
        f(x)
        assert mem.memo.stats()["misses"] == count
        f(x)
        assert mem.memo.stats()["misses"] == count

    misses(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        misses(2)
        assert f(x)[0].dtype is torch.bfloat16
    with torch.no_grad():
        misses(3)
    with torch.inference_mode():
        misses(4)
        assert f(x)[0].is_inference()
    assert not f(x)[0].is_inference()
    torch.set_default_dtype(torch.float64)
    try:
        misses(5)
        assert f(x)[1].dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert f(x)[1].is_meta
        assert "function mode" in str(mem.memo.explain(f, x))
    misses(5)


def test_paths_count_by_what_is_in_them(mem, tmp_path):
    @mem.memo
    def lines(path):
        return len(path.read_text().splitlines())

    file = tmp_path / "text"
    file.write_text("a\nb")
    assert lines(file) == 2
    assert "cannot be kept" not in str(mem.memo.explain(lines, file))
    file.write_text("a\nb\nc")
    assert lines(file) == 3
    with pytest.raises(OSError, match="text2"):
        lines(tmp_path / "text2")
    assert "no regular file" in str(mem.memo.explain(lines, tmp_path))


def test_version_and_ignore(mem):
    def make(factor):
        return lambda x, verbose=False: x * factor

    f = mem.memo(make(2), version="1", ignore=("verbose",))
    g = mem.memo(make(3), version="1", ignore=("verbose",))
    x = torch.ones(2)
    assert f(x)[0] == g(x, verbose=True)[0] == 2  # the user said so
    h = mem.memo(make(3), version="2")
    assert h(x)[0] == 3


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from([*WRITES, "swap", "new", "alias", "nothing"]),
        st.integers(0, 2),
        st.booleans(),
    ),
    max_size=12,
)


@given(OPERATIONS)
@settings(deadline=None)
def test_whatever_happens_between_calls(operations):
    with mmsb.open() as mem:

        @mem.memo
        def f(x, y):
            return x.cumsum(0) - y.flip(0), x.sum()

        tensors = [torch.arange(float(BIG)) * (n + 1) for n in range(3)]
        held = []
        for name, number, call_before in operations:
            x, y = tensors[number], tensors[(number + 1) % 3]
            if call_before:
                assert alike(f(x, y), (x.cumsum(0) - y.flip(0), x.sum()))
            if name == "swap":
                tensors[number], tensors[0] = tensors[0], tensors[number]
            elif name == "new":
                tensors[number] = torch.randn(BIG)
            elif name == "alias":
                held += [x.numpy(), x[2:], x.detach()]
                if len(held) > 3:
                    held[0][1] = 77
            elif name != "nothing":
                WRITES[name](x)
            assert alike(f(x, y), (x.cumsum(0) - y.flip(0), x.sum()))
