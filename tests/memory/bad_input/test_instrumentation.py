"""What cannot be memoised, recorded or entered is refused by type; strange arguments are executed."""

import ctypes
import functools
import io
import operator
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

import mmsb_torch as mmsb

ONES = torch.ones(3)


async def coroutine(x):
    return x


def generator(x):
    yield x


async def async_generator(x):
    yield x


class AsyncCall:
    async def __call__(self, x):
        return x


class AsyncModule(nn.Module):
    async def forward(self, x):
        return x


class Plain:
    """Something of the user's."""

    def __call__(self, x):
        return x + 1

    def method(self, x):
        return x + 2

    @classmethod
    def of_class(cls, x):
        return x + 3

    @staticmethod
    def static(x):
        return x + 4


class Hostile:
    """Refuses to be asked anything."""

    def __getattribute__(self, name):
        raise RuntimeError(f"no {name}")


class Shy:
    """Cannot be compared, hashed, shown or tested."""

    def __eq__(self, other):
        raise RuntimeError("eq")

    def __hash__(self):
        raise RuntimeError("hash")

    def __repr__(self):
        raise RuntimeError("repr")

    def __bool__(self):
        raise RuntimeError("bool")


IN_PIECES = {
    "coroutine": coroutine,
    "generator": generator,
    "async generator": async_generator,
    "partial": functools.partial(functools.partial(generator)),
    "object": AsyncCall(),
    "module": AsyncModule(),
}
NO_SIGNATURE = {
    "builtin": torch.sin,
    "method of a tensor": ONES.sin,
    "itemgetter": operator.itemgetter(0),
    "C function": ctypes.CDLL(None).abs,
    "partial": functools.partial(torch.sin),
}
NO_CALLABLE = {
    "number": 3,
    "text": "abs",
    "tensor": ONES,
    "ellipsis": ...,
    "classmethod": vars(Plain)["of_class"],
    "shy": Shy(),
}
CLASSES = {"class": Plain, "module": nn.Linear, "builtin": int}


def ids(table):
    return [name.replace(" ", "_") for name in table]


@pytest.mark.parametrize("function", IN_PIECES.values(), ids=ids(IN_PIECES))
def test_what_runs_in_pieces(mem, function):
    mem.page("x", ONES)
    with pytest.raises(mmsb.InvalidMemoError, match=r"coroutine or generator.*Memoise"):
        mem.memo(function)
    with pytest.raises(mmsb.InvalidRecipeError, match=r"coroutine or generator.*Declare"):
        mem.derive(function, "x", name="y")
    with pytest.raises(mmsb.RecordingError, match=r"runs in pieces.*with mem\.record"):
        mem.record(function)
    with pytest.raises(mmsb.InvalidRecipeError, match="expected fn"):
        mmsb.register_recomputation("in pieces", function)
    assert list(mem) == ["x"]


@pytest.mark.parametrize("function", NO_SIGNATURE.values(), ids=ids(NO_SIGNATURE))
def test_what_tells_no_parameters(mem, function):
    with pytest.raises(mmsb.InvalidMemoError, match=r"no Python code.*wrap it"):
        mem.memo(function)


@pytest.mark.parametrize("function", NO_CALLABLE.values(), ids=ids(NO_CALLABLE))
def test_what_is_not_callable(mem, function):
    with pytest.raises(mmsb.InvalidMemoError, match="is not callable") as caught:
        mem.memo()(function)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("function", CLASSES.values(), ids=ids(CLASSES))
def test_a_class_makes_objects(mem, function):
    with pytest.raises(mmsb.InvalidMemoError, match="is a class"):
        mem.memo(function)


CALLABLES = {
    "builtin with a signature": abs,
    "method": Plain().method,
    "classmethod": Plain.of_class,
    "staticmethod": Plain.static,
    "object": Plain(),
    "operator": torch.ops.aten.sin.default,
    "memoised": functools.lru_cache(lambda x: x + 1),
    "partial": functools.partial(lambda x, y: x + y, y=2),
}


@pytest.mark.parametrize("function", CALLABLES.values(), ids=ids(CALLABLES))
def test_callables_that_are_no_functions(mem, function):
    f = mem.memo(function)
    for _ in range(2):
        assert torch.equal(f(ONES), function(ONES))
    assert mem.memo.stats()["hits"] + mem.memo.stats()["refused"] >= 1
    assert mem.worlds().number == 0


def freed():
    tensor = torch.ones(8)
    tensor.untyped_storage().resize_(0)
    return tensor


def in_itself():
    values = [1]
    values.append(values)
    return values


def deep():
    values = []
    for _ in range(5000):
        values = [values]
    return values


FOREIGN = {
    "hostile": Hostile,
    "shy": Shy,
    "in itself": in_itself,
    "deep": deep,
    "lock": threading.Lock,
    "thread": threading.current_thread,
    "generator": lambda: generator(1),
    "text stream": lambda: io.StringIO("a"),
    "memoryview": lambda: memoryview(b"abc"),
    "ctypes": lambda: ctypes.c_int(3),
    "module": lambda: sys,
    "exception": lambda: ValueError("x"),
    "set": lambda: {1, (2,)},
    "array of objects": lambda: np.array([Shy()]),
    "freed tensor": freed,
    "sparse tensor": lambda: torch.eye(3).to_sparse(),
    "meta tensor": lambda: torch.ones(3, device="meta"),
    "subclass": lambda: ONES.as_subclass(type("Sub", (torch.Tensor,), {})),
    "tensor with attributes": lambda: with_attribute(torch.ones(3)),
    "nan": lambda: float("nan"),
}


def with_attribute(tensor):
    tensor.note = "mine"
    return tensor


@pytest.mark.parametrize("make", FOREIGN.values(), ids=ids(FOREIGN))
def test_strange_arguments_are_executed_or_known_by_value(mem, make):
    """Never an error of ours, and never the result of something else."""
    f = mem.memo(lambda value, number: number)
    value = make()
    for number in (1, 2, 1):
        assert f(value, number) == number
        assert f(number=number, value=[value]) == number
    assert str(mem.memo.explain(f, value, 1)).startswith(("hit: kept", "miss: executed and not"))


def test_a_page_or_a_memory_as_an_argument_is_executed(mem):
    page = mem.page("x", ONES)
    f = mem.memo(lambda page: page.tensor.sum())
    assert f(page) == 3
    mem.update(page, torch.zeros(3))
    assert f(page) == 0
    assert "Page" in str(mem.memo.explain(f, page))


def test_arguments_that_do_not_fit_are_the_functions_to_refuse(mem):
    f = mem.memo(lambda x, y=1: x)
    for call in (lambda: f(), lambda: f(1, 2, 3), lambda: f(z=1)):
        with pytest.raises(TypeError, match=r"<lambda>\(\)"):
            call()
    with pytest.raises(mmsb.InvalidMemoError, match="do not fit: missing"):
        mem.memo.explain(f)
    with pytest.raises(mmsb.InvalidMemoError, match="was not memoised"):
        mem.memo.explain(Shy(), 1)


OPTIONS = [
    {"ignore": 3}, {"ignore": "x"}, {"ignore": [3]}, {"ignore": [[]]}, {"ignore": ["nobody"]},
    {"verify": "1"}, {"verify": None}, {"verify": 2}, {"verify": float("nan")}, {"verify": True},
    {"version": 1}, {"version": ("a",)},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_that_say_nothing(mem, options):
    with pytest.raises(mmsb.InvalidMemoError, match="expected"):
        mem.memo(lambda x: x, **options)


# scopes


X = torch.rand(128, 128)


def test_a_scope_is_left_by_who_entered_it(mem):
    with mmsb.open() as other:
        scope, second = mem.incremental(), other.incremental()
        with pytest.raises(mmsb.RecordingError, match="not entered"):
            scope.__exit__(None, None, None)
        with scope:
            for refused in (scope, second):
                with pytest.raises(mmsb.RecordingError, match="is active"):
                    refused.__enter__()
            with pytest.raises(mmsb.RecordingError, match="not entered"):
                second.__exit__(None, None, None)
            with pytest.raises(mmsb.RecordingError, match="is active"):
                second.__enter__()  # the first is still there
        with pytest.raises(mmsb.RecordingError, match="left already"):
            scope.__exit__(None, None, None)
        with second, pytest.raises(mmsb.RecordingError, match="left already"):
            scope.__exit__(None, None, None)
        with scope:  # once more, in order
            assert torch.equal(X @ X, X @ X)
    assert torch._C._len_torch_dispatch_stack() == 0


def test_a_scope_that_another_thread_leaves_has_ended(mem):
    scope, caught = mem.incremental(), []

    def leave():
        try:
            scope.__exit__(None, None, None)
        except mmsb.RecordingError as error:
            caught.append(str(error))

    scope.__enter__()
    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    assert "on the thread that entered it" in caught[0]
    with mem.incremental() as after:
        assert torch.equal(X @ X, X @ X)
    assert sum(after.counts.values()) > 0
    assert torch._C._len_torch_dispatch_stack() == 0


def test_scopes_and_recordings_left_out_of_order(mem):
    for first_out in (0, 1):
        both = [mem.incremental(), mem.record()]
        for item in both:
            item.__enter__()
        value = X @ X
        both[first_out].__exit__(None, None, None)
        assert torch.equal(X @ X, value)
        both[1 - first_out].__exit__(None, None, None)
        with mem.incremental():
            assert torch.equal(X @ X, value)
        assert torch._C._len_torch_dispatch_stack() == 0


def test_a_memory_that_is_closed_meanwhile(mem):
    kept = mem.incremental()
    with mem.incremental():
        value = X @ X
        mem.close()
        assert torch.equal(X @ X, value)
    with pytest.raises(mmsb.ClosedError):
        kept.__enter__()
    assert torch._C._len_torch_dispatch_stack() == 0


def test_a_memoised_function_of_a_closed_memory():
    with mmsb.open() as mem:
        f, memo = mem.memo(lambda x: x + 1), mem.memo
        f(ONES)
    for call in (lambda: f(ONES), lambda: memo.explain(f, ONES), memo.stats, memo.clear):
        with pytest.raises(mmsb.ClosedError, match="closed"):
            call()
    assert "Memo" in repr(memo)
    assert "MemoFunction" in repr(f)


def test_functions_of_two_memories(mem):
    """Each keeps its own; a function memoised twice is right."""
    with mmsb.open() as other:
        f, g = mem.memo(lambda x: x * 2), other.memo(lambda x: x * 3)
        assert torch.equal(mem.memo(g)(ONES), ONES * 3)
        assert torch.equal(other.memo(f)(ONES), ONES * 2)
        with pytest.raises(mmsb.InvalidMemoError):
            mem.memo.explain(g, ONES)
