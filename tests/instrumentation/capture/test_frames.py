"""Which function, line and module a call comes from: by walking the stack and by call events."""

import functools
import sys
import threading

import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.errors import RecordingError

X = torch.arange(6.0).view(2, 3)


@pytest.fixture(params=["walk", "trace"])
def record(request):
    if request.param == "trace" and sys.gettrace() is not None:
        pytest.skip("something traces these tests: coverage or a debugger")
    memory = mmsb.open()
    yield functools.partial(memory.record, frames=request.param)
    memory.close()


def line_of(function, text):
    import inspect

    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, line in enumerate(lines) if text in line)


def helper(x):
    y = x.sin()
    return y.cos()  # the line of cos


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.Linear(3, 3)

    def forward(self, x):
        return helper(self.attention(x)) + 1


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleList([Block(), Block()])
        self.shared = self.layer[0].attention

    def forward(self, x):
        for layer in self.layer:
            x = layer(x)
        return self.shared(x)


def test_function_and_line_are_the_users(record):
    with record() as rec:
        helper(X)
        torch.nn.functional.gelu(X)
    sin, cos, gelu = rec.calls
    assert (sin.function, cos.function) == ("helper", "helper")
    assert cos.line == line_of(helper, "the line of cos")
    assert cos.file == __file__
    assert gelu.function.startswith("test_function_and_line_are_the_users")
    assert str(cos.site) == f"helper (test_frames.py:{cos.line})"


def test_module_paths_are_those_of_the_outermost_module(record):
    encoder = Encoder()
    with record() as rec:
        encoder(X)
    paths = [call.module for call in rec.calls if call.op == "aten.addmm.default"]
    assert paths == ["layer.0.attention", "layer.1.attention", "shared"]
    sin = [call for call in rec.calls if call.op == "aten.sin.default"]
    assert [(call.function, call.module) for call in sin] == [
        ("helper", f"layer.{i}") for i in (0, 1)
    ]
    assert {call.site.root for call in rec.calls} == {"Encoder"}
    assert "Encoder: layer.1.attention" in str(rec.by_module())


def test_backward_counts_for_its_forward_module_and_function(record):
    encoder = Encoder()
    with record() as rec:
        encoder(X).sum().backward()
    row = next(r for r in rec.by_module() if r.name == "Encoder: layer.1.attention")
    assert set(row.seconds) == {"forward", "backward"}
    assert any(share.name.startswith("helper") for share in rec.by_function())
    assert {call.module for call in rec.calls if call.phase == "backward"} == {""}


def test_two_models_of_one_class_keep_their_names(record):
    first, second = Encoder(), nn.Sequential(Encoder())
    with record() as rec:
        first(X), second(X)
    roots = {(call.site.root, call.module) for call in rec.calls}
    assert ("Encoder", "layer.0") in roots
    assert ("Sequential", "0.layer.0") in roots


def test_an_exception_in_a_module_leaves_no_trace_of_it(record):
    class Broken(nn.Module):
        def forward(self, x):
            return x @ x

    with record() as rec:
        with pytest.raises(RuntimeError):
            Broken()(X)
        X + 1
    assert [call.site.root for call in rec.calls] == ["Broken", ""]
    assert rec.calls[1].function.startswith("test_an_exception_in_a_module")


def test_generators_are_followed(record):
    def numbers():
        for number in range(3):
            yield X + number

    with record() as rec:
        for value in numbers():
            value * 2
    names = [(call.op.split(".")[1], call.function.split(".")[-1]) for call in rec.calls]
    assert names == [("add", "numbers"), ("mul", "test_generators_are_followed")] * 3


def test_off_means_off():
    with mmsb.open() as memory, memory.record(frames="off") as rec:
        Encoder()(X)
    assert {(call.function, call.module, call.line) for call in rec.calls} == {("", "", 0)}


# tracing


@pytest.fixture
def untraced():
    if sys.gettrace() is not None:
        pytest.skip("something traces these tests: coverage or a debugger")
    yield
    sys.settrace(None)


def test_trace_counts_the_users_functions(untraced):
    with mmsb.open() as memory, memory.record(frames="trace") as rec:
        for _ in range(3):
            helper(X)
    counts = {name.split(" ")[0]: count for name, (count, _) in rec.by_call().items()}
    assert counts == {"helper": 3}
    assert sys.gettrace() is None


@pytest.mark.skipif(
    hasattr(sys, "monitoring"), reason="sys.monitoring has places for several tools"
)
def test_a_plain_tracer_goes_on_and_comes_back(untraced):
    seen = []

    def mine(frame, event, arg):
        seen.append((event, frame.f_code.co_name))
        return mine

    with mmsb.open() as memory:
        rec = memory.record(frames="trace")
        sys.settrace(mine)
        with rec:
            helper(X)
        assert sys.gettrace() is mine
        sys.settrace(None)
    assert ("call", "helper") in seen
    assert ("line", "helper") in seen
    assert ("return", "helper") in seen
    assert [call.function for call in rec.calls] == ["helper", "helper"]


@pytest.mark.skipif(
    hasattr(sys, "monitoring"), reason="sys.monitoring has places for several tools"
)
def test_a_debuggers_tracer_is_refused_clearly(untraced):
    import bdb

    debugger = bdb.Bdb()
    debugger.reset()
    with mmsb.open() as memory:
        rec = memory.record(frames="trace")
        sys.settrace(debugger.trace_dispatch)
        try:
            with pytest.raises(RecordingError, match=r"bdb holds.*frames='walk'"):
                rec.__enter__()
        finally:
            sys.settrace(None)
        assert torch._C._len_torch_dispatch_stack() == 0
        with memory.record() as walked:
            X + 1
        assert len(walked.calls) == 1


def test_traces_of_threads_and_nested_ones_keep_apart(untraced):
    found = {}

    def work(number):
        with mmsb.open() as memory, memory.record(frames="trace") as rec:
            for _ in range(number):
                helper(X)
        found[number] = [call.function for call in rec.calls]

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in (1, 2, 3)]
    [thread.start() for thread in threads]
    [thread.join(20) for thread in threads]
    assert found == {n: ["helper"] * 2 * n for n in (1, 2, 3)}
    with (
        mmsb.open() as memory,
        memory.record(frames="trace"),
        memory.record(frames="trace") as inner,
    ):
        helper(X)
    assert [call.function for call in inner.calls] == ["helper"] * 2
