"""Memoised functions: a hit can never be told from a run."""

import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

BIG = 1 << 13
"""Elements of a tensor that is watched, not read."""


def test_equal_calls_are_run_once(mem):
    @mem.memo
    def f(x, k=2, *rest, flag=False, **more):
        return x * k + len(rest) + len(more)

    x = torch.randn(BIG)
    assert torch.equal(f(x), x * 2)
    for call in (
        lambda: f(x),
        lambda: f(x, 2),
        lambda: f(x=x, k=2),
        lambda: f(x.clone()),
        lambda: f(x, flag=False),
    ):
        assert torch.equal(call(), x * 2)
    assert mem.memo.stats()["misses"] == 1
    assert mem.memo.stats()["hits"] == 5
    for number, call in enumerate(
        (
            lambda: f(x, 3),
            lambda: f(x, 2.0),
            lambda: f(x, True),
            lambda: f(x.double()),
            lambda: f(x, 2, 1),
            lambda: f(x, 2, 1.0),
            lambda: f(x, flag=True),
            lambda: f(x, more=1),
            lambda: f(x.view(2, -1)),
            lambda: f(x[: BIG // 2]),
        )
    ):
        call()
        assert mem.memo.stats()["misses"] == number + 2


def results():
    base = torch.arange(24.0)
    shared = base.clone()
    return {
        "tensor": torch.randn(3, 4),
        "tuple": (torch.ones(2), [1, 2.5, None, "ä", True, 3 + 4j]),
        "dict": {"a": torch.zeros(2), 3: {"b": -0.0, "c": float("nan")}},
        "transposed": torch.randn(3, 4).T,
        "strided": base[::3],
        "expanded": torch.ones(1).expand(5),
        "chunks": shared.chunk(3),
        "overlapping": (shared[2:9], shared[5:12]),
        "empty": torch.empty(0, 3),
        "zero-dim": torch.tensor(3.0),
        "nan": torch.tensor([float("nan"), -0.0]),
        "bf16": torch.randn(7).bfloat16(),
        "fp8": torch.randn(5).to(torch.float8_e4m3fn),
        "complex": torch.randn(3, dtype=torch.complex64),
        "bool": torch.tensor([True, False]),
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "scalar array": np.array(2.5),
        "size": torch.Size([1, 2]),
        "dtype": torch.int8,
        "int": 1 << 70,
        "mixed views": (shared.view(torch.int32)[3:], shared[1:4]),
    }


def alike(a, b):
    if isinstance(a, torch.Tensor):
        assert type(b) is torch.Tensor
        assert (a.dtype, a.shape, a.stride(), a.is_inference()) == (
            b.dtype,
            b.shape,
            b.stride(),
            b.is_inference(),
        )
        assert same_bits(a.contiguous(), b.contiguous())
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif isinstance(a, list | tuple):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            alike(one, other)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        alike(list(a.values()), list(b.values()))
    else:
        assert type(a) is type(b)
        assert repr(a) == repr(b)


@pytest.mark.parametrize("name", sorted(results()))
@pytest.mark.parametrize("mode", ["memory", "path"])
def test_results_come_back_as_they_were(tmp_path, name, mode):
    path = tmp_path / "run.mmsb" if mode == "path" else None
    with mmsb.open(path) as mem:
        f = mem.memo(lambda n: results()[n])
        torch.manual_seed(5)
        first = f(name)
        torch.manual_seed(5)
        before = mem.memo.stats()["misses"]
        alike(first, f(name))
        assert mem.memo.stats()["misses"] == before, mem.memo.explain(f, name)
    if path is not None:
        with mmsb.open(path) as mem:
            torch.manual_seed(5)
            f = mem.memo(lambda n: results()[n])
            alike(first, f(name))


def test_what_is_handed_out_is_nobody_elses(mem):
    @mem.memo
    def f(n):
        whole = torch.arange(float(n))
        return whole[: n // 2], whole[n // 2 :], whole[1:3]

    first = f(10)
    again = f(10)
    again[0].fill_(7)
    first[1].fill_(8)
    third = f(10)
    assert third[0].tolist() == [0, 1, 2, 3, 4]
    third[0][1] = 50  # what shared memory shares it again
    assert third[2][0] == 50


def test_what_cannot_be_kept_is_run_each_time(mem):
    seen = []

    class Odd:
        pass

    holder = {"n": 0}

    def writes(x):
        x += 1
        return x * 2

    def returns_argument(x):
        return x.view(-1)

    def returns_object(x):
        return Odd()

    def draws(x):
        return x + random.random()

    def draws_numpy(x):
        return x + np.random.rand()  # noqa: NPY002

    def changes_a_global(x):
        holder["n"] += 1
        return x + holder["n"]

    x = torch.ones(4)
    reasons = {
        writes: "changed while it ran",
        returns_argument: "argument's own memory",
        returns_object: "Odd",
        draws: "Python or numpy",
        draws_numpy: "Python or numpy",
        changes_a_global: "changed while it ran",
    }
    for function, reason in reasons.items():
        f = mem.memo(function)
        for _ in range(3):
            f(x)
        seen.append(str(mem.memo.explain(f, x)))
        if function is not writes and function is not changes_a_global:
            assert reason in seen[-1], (function, seen[-1])
    assert mem.memo.stats()["hits"] == 0
    assert torch.equal(x, torch.full((4,), 4.0))
    assert holder["n"] == 3


def test_random_functions(mem):
    @mem.memo
    def noise(n):
        return torch.randn(n)

    torch.manual_seed(3)
    plain = [torch.randn(4) for _ in range(3)] + [torch.rand(2)]
    for _ in range(2):
        torch.manual_seed(3)
        found = [noise(4) for _ in range(3)] + [torch.rand(2)]
        assert all(map(torch.equal, found, plain))
    assert mem.memo.stats()["misses"] == 3
    assert mem.memo.stats()["hits"] == 3


def test_gradients(mem):
    @mem.memo
    def f(x):
        return x * 2

    x = torch.randn(5, requires_grad=True)
    for _ in range(2):
        y = f(x)
        y.sum().backward()
    assert torch.equal(x.grad, torch.full((5,), 4.0))
    assert "gradients are on" in str(mem.memo.explain(f, x))
    with torch.no_grad():
        assert not f(x).requires_grad
        assert mem.memo.stats()["misses"] == 1
        assert not f(x).requires_grad
        assert mem.memo.stats()["hits"] == 1
    assert f(x).requires_grad
    weight = nn.Parameter(torch.ones(5))
    closed = mem.memo(lambda x: x * weight)
    for _ in range(2):
        assert closed(torch.ones(5)).requires_grad
    assert "gradient" in str(mem.memo.explain(closed, torch.ones(5)))


def test_a_sample_of_hits_is_run_again(mem):
    state = threading.local()  # of a compiled type: but by version nobody looks
    state.n = 0

    def sly(x):
        state.n += 1
        return x + state.n

    f = mem.memo(sly, version="1", verify=1.0)
    f(torch.ones(2))
    with pytest.raises(mmsb.WrongHitError, match="run again"):
        f(torch.ones(2))
    honest = mem.memo(lambda x: tuple(x.sort()), verify=1.0)
    x = torch.randn(50)
    for _ in range(3):
        assert torch.equal(honest(x)[0], x.sort()[0])
    assert mem.memo.stats()["verified"] >= 2


def test_what_cannot_be_memoised_is_refused(mem):
    async def coroutine(x):
        return x

    def generator(x):
        yield x

    for wrong in (3, coroutine, generator, torch.add):
        with pytest.raises(mmsb.InvalidMemoError):
            mem.memo(wrong)
    for options in ({"ignore": "x"}, {"ignore": ["y"]}, {"verify": 2}, {"version": 1}):
        with pytest.raises(mmsb.InvalidMemoError):
            mem.memo(lambda x: x, **options)
    with pytest.raises(mmsb.InvalidMemoError, match="was not memoised"):
        mem.memo.explain(lambda x: x, 1)
    f = mem.memo(lambda x: x + 1)
    with pytest.raises(TypeError):
        f(1, 2, 3)
    mem.close()
    for call in (lambda: f(torch.ones(1)), lambda: mem.memo(len), mem.memo.clear):
        with pytest.raises(mmsb.ClosedError):
            call()


def test_an_exception_is_the_callers_and_nothing_is_kept(mem):
    @mem.memo
    def f(x):
        if x.sum() > 3:
            raise ArithmeticError("large")
        return x

    for _ in range(2):
        with pytest.raises(ArithmeticError):
            f(torch.ones(4))
    assert mem.memo.stats()["results"] == 0


def test_methods_and_modules(mem):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(BIG))

        @mem.memo
        def twice(self, x):
            return (x * self.weight).sum() * 2

    model = Model()
    with torch.no_grad():
        assert model.twice(torch.ones(BIG)) == 2 * BIG
        model.twice(torch.ones(BIG))
        assert mem.memo.stats() | {"hits": 1, "misses": 1} == mem.memo.stats()
        model.weight[0] = 5
        assert model.twice(torch.ones(BIG)) == 2 * BIG + 8
        linear = nn.Linear(16, 16)
        run = mem.memo(linear)
        assert torch.equal(run(torch.ones(1, 16)), linear(torch.ones(1, 16)))
        linear.bias.fill_(3)
        assert torch.equal(run(torch.ones(1, 16)), linear(torch.ones(1, 16)))


def test_explanations_name_what_differs(mem):
    @mem.memo
    def f(x, k):
        return x * k

    x = torch.randn(BIG)
    assert str(mem.memo.explain(f, x, 1)) == "miss: never computed in this process"
    f(x, 1)
    assert str(mem.memo.explain(f, x, 1)).startswith("hit: kept, ")
    assert str(mem.memo.explain(f, x, 2)) == "miss: argument 'k' changed"
    assert str(mem.memo.explain(f, x + 1, 1)) == "miss: argument 'x' changed"
    torch.set_num_threads(2)
    try:
        assert "number of threads" in str(mem.memo.explain(f, x, 1))
    finally:
        torch.set_num_threads(1)
    assert "<Memo: 0 hits, 1 misses" in repr(mem.memo)
    model = nn.Linear(64, 64)
    g = mem.memo(lambda model, x: model(x))
    with torch.no_grad():
        g(model, torch.ones(64))
        model.weight.mul_(2)
        assert "weight" in str(mem.memo.explain(g, model, torch.ones(64)))


def test_a_function_that_calls_itself(mem):
    @mem.memo(version="1")
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(30) == 832040
    assert mem.memo.stats()["misses"] == 31


def test_files_are_where_they_should_be(tmp_path):
    path = tmp_path / "run.mmsb"
    with mmsb.open(path) as mem:
        f = mem.memo(lambda x: x * 2)
        f(torch.ones(8))
        files = [p for p in Path(path, "objects").rglob("*") if p.is_file()]
        assert len(files) == 1
        from safetensors.torch import load_file

        assert torch.equal(load_file(files[0])["result"], torch.full((8,), 2.0))
        assert mem.verify() == []
        mem.memo.clear()
        assert not [p for p in Path(path, "objects").rglob("*") if p.is_file()]
