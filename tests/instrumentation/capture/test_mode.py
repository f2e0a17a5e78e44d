"""A scope sees every operation of its thread, generator or task, and nothing of anybody else's."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmsb_torch.errors import RecordingError
from mmsb_torch.instrumentation.capture.mode import Scope, any_scope, unseen

X = torch.arange(6.0).view(2, 3)


def test_forward_backward_and_double_backward_arrive(note):
    names = []
    x = X.clone().requires_grad_()
    with note(names):
        y = (x.sin() * x).sum()
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        (gg,) = torch.autograd.grad(g.sum(), x)
    assert {"sin", "mul", "sum", "cos", "neg"} <= set(names)
    assert torch.allclose(gg, 2 * x.cos() - x * x.sin())


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}])
def test_optimizers_arrive(note, options):
    names = []
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    model(X).sum().backward()
    with note(names):
        optimizer.step()
    wanted = "_fused_adamw_" if "fused" in options else "_foreach_add_"
    assert (wanted if options != {"foreach": False} else "addcdiv_") in names


def test_an_operation_that_raises_raises_the_same_error(note):
    names = []
    with pytest.raises(RuntimeError) as plain:
        X @ X
    with pytest.raises(RuntimeError) as seen, note(names):
        X @ X
    assert str(seen.value) == str(plain.value)
    assert names == ["mm"]


def test_a_handler_that_raises_leaves_torch_as_it_was():
    def handle(func, types, args, kwargs):
        raise KeyError("mine")

    scope = Scope(handle)
    scope.enter()
    with pytest.raises(KeyError, match="mine"):
        X + 1
    scope.leave()
    assert torch.equal(X + 1, X.add(1))


def test_nested_scopes_see_what_the_inner_one_calls(note):
    outer, inner = [], []
    with note(outer):
        X + 1
        with note(inner):
            X * 2
        X - 1
    assert (outer, inner) == (["add", "mul", "sub"], ["mul"])


def test_scopes_left_out_of_order_stop_at_once():
    names = {"a": [], "b": []}
    scopes = {}
    for key, seen in names.items():

        def handle(func, types, args, kwargs, seen=seen):
            seen.append(func.__name__)
            return func(*args, **kwargs)

        scopes[key] = Scope(handle)
        scopes[key].enter()
    scopes["a"].leave()
    X + 1
    assert names == {"a": [], "b": ["add.Tensor"]}
    scopes["b"].leave()
    assert not any_scope()


def test_a_foreign_mode_above_is_left_alone(note, state):
    class Other(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    before = state()
    scope = Scope(lambda func, types, args, kwargs: func(*args, **kwargs))
    scope.enter()
    other = Other()
    other.__enter__()
    scope.leave()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is other
    other.__exit__(None, None, None)
    names = []
    with note(names):  # takes what is over off the stack
        X + 1
    assert names == ["add"]
    assert state() == before


def test_a_scope_is_entered_once_and_left_once():
    scope = Scope(lambda func, types, args, kwargs: func(*args, **kwargs))
    scope.enter()
    with pytest.raises(RecordingError, match="already"):
        scope.enter()
    scope.leave()
    with pytest.raises(RecordingError, match="not entered"):
        scope.leave()


def test_what_is_marked_unseen_passes(note):
    names = []
    with note(names):
        X + 1
        with unseen():
            X * 2
        X - 1
    assert names == ["add", "sub"]


# threads


def test_each_thread_has_its_own_scope(note, state):
    before = state()
    rounds, seen = 20, {}
    barrier = threading.Barrier(4)

    def work(number):
        names = seen[number] = []
        for turn in range(rounds):
            barrier.wait()
            with note(names):
                barrier.wait()
                for _ in range(number + 1):
                    X + turn
                barrier.wait()
            X * 2

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert seen == {number: ["add"] * rounds * (number + 1) for number in range(4)}
    assert state() == before


def test_scopes_of_threads_that_end_in_any_order_leave_the_flags_as_they_were(state):
    before = state()
    first, second = threading.Event(), threading.Event()

    def scoped(entered, leave):
        scope = Scope(lambda func, types, args, kwargs: func(*args, **kwargs))
        scope.enter()
        entered.set()
        leave.wait()
        scope.leave()

    leave = [threading.Event(), threading.Event()]
    a = threading.Thread(target=scoped, args=(first, leave[0]), daemon=True)
    b = threading.Thread(target=scoped, args=(second, leave[1]), daemon=True)
    a.start(), first.wait(), b.start(), second.wait()
    assert state()["flags"] == (True, True, False)
    leave[0].set(), a.join()  # the older one ends first
    assert state()["flags"] == (True, True, False)
    leave[1].set(), b.join()
    assert state() == before


def test_leaving_on_another_thread_is_refused_and_stops_it(note):
    names = []

    def handle(func, types, args, kwargs):
        names.append(func.__name__)
        return func(*args, **kwargs)

    scope = Scope(handle)
    scope.enter()
    errors = []

    def leave():
        try:
            scope.leave()
        except RecordingError as error:
            errors.append(str(error))

    thread = threading.Thread(target=leave, daemon=True)
    thread.start(), thread.join()
    assert "thread" in errors[0]
    X + 1
    assert names == []
    with note([]):
        pass  # takes it off the stack


def test_autograds_own_threads_count_as_the_scopes(note):
    """Backward within backward, deeper than one thread goes: torch moves to a pool of threads."""
    threads = set()

    class Nested(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, depth):
            ctx.depth = depth
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            threads.add(threading.get_ident())
            if ctx.depth:
                with torch.enable_grad():
                    x = torch.ones(1, requires_grad=True)
                    Nested.apply(x, ctx.depth - 1).sum().backward()
            return grad.cosh(), None

    names = []
    x = torch.ones(1, requires_grad=True)
    with note(names):
        Nested.apply(x, 130).sum().backward()
    assert names.count("cosh") == 131
    assert len(threads) > 1


# generators and tasks


def test_a_suspended_generator_sees_nothing_of_others(note):
    names = []

    def generator(number):
        with note(names):
            X + number
            yield
            X * number
            yield

    steps = generator(1)
    next(steps)
    X - 1
    next(steps)
    X - 1
    steps.close()
    assert names == ["add", "mul"]


def test_scopes_in_interleaved_generators(note):
    seen = [[], []]

    def generator(names, op):
        scope = Scope(
            lambda func, types, args, kwargs: (
                names.append(func.__name__.split(".")[0]),
                func(*args, **kwargs),
            )[1]
        )
        scope.enter()
        try:
            for _ in range(3):
                op(X, 2)
                yield
        finally:
            scope.leave()

    a, b = generator(seen[0], torch.add), generator(seen[1], torch.mul)
    for _ in range(3):
        next(a), torch.sub(X, 1), next(b), torch.sub(X, 1)
    a.close(), b.close()
    assert seen == [["add"] * 3, ["mul"] * 3]


def test_a_generator_that_is_dropped_leaves_its_scope(state):
    before = state()

    def generator():
        scope = Scope(lambda func, types, args, kwargs: func(*args, **kwargs))
        scope.enter()
        try:
            yield
        finally:
            scope.leave()

    steps = generator()
    next(steps)
    del steps
    gc.collect()
    assert state() == before


def test_a_context_manager_made_of_a_generator_is_no_sleeping_owner(note):
    names = []

    @contextlib.contextmanager
    def wrapped():
        with note(names) as scope:
            yield scope

    with wrapped() as scope:
        X + 1
    assert names == ["add"]
    assert scope.passed == 0


def test_an_exit_stack_may_hold_a_scope(note):
    names = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(note(names))
        X + 1
    X * 2
    assert names == ["add"]


def test_tasks_that_take_turns_see_only_their_own(state):
    before = state()

    async def task(names, op, turns):
        scope = Scope(
            lambda func, types, args, kwargs: (
                names.append(func.__name__.split(".")[0]),
                func(*args, **kwargs),
            )[1]
        )
        scope.enter()
        try:
            for _ in range(turns):
                op(X, 2)
                await asyncio.sleep(0)
                await inner(op)
        finally:
            scope.leave()

    async def inner(op):
        await asyncio.sleep(0)
        op(X, 3)

    async def bystander():
        for _ in range(12):
            torch.sub(X, 1)
            await asyncio.sleep(0)

    a, b = [], []

    async def main():
        await asyncio.gather(task(a, torch.add, 3), bystander(), task(b, torch.mul, 5), bystander())

    asyncio.run(main())
    assert (a, b) == (["add"] * 6, ["mul"] * 10)
    assert state() == before


def test_an_unbound_scope_sees_the_whole_thread(note):
    names = []

    def generator():
        scope = Scope(
            lambda func, types, args, kwargs: (names.append(func.__name__), func(*args, **kwargs))[
                1
            ],
            bound=False,
        )
        scope.enter()
        yield
        scope.leave()

    steps = generator()
    next(steps)
    X + 1
    list(steps)
    assert names == ["add.Tensor"]


# processes

FORK = """
import os, torch
from mmsb_torch.instrumentation.capture.mode import Scope, any_scope

names = []
def handle(func, types, args, kwargs):
    names.append(func.__name__)
    return func(*args, **kwargs)

scope = Scope(handle)
scope.enter()
torch.ones(2) + 1
child = os.fork()
if child == 0:
    torch.ones(2) * 2
    fine = names == ["ones.default", "add.Tensor"] and not any_scope()
    fine = fine and torch._C._len_torch_dispatch_stack() == 0
    os._exit(0 if fine else 1)
_, status = os.waitpid(child, 0)
torch.ones(2) - 1
scope.leave()
print(status, names[2:])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_leaves_the_scope():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORK)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "0 ['ones.default', 'sub.Tensor']"


# what torch builds on operations


def test_cond_arrives_as_one_operation(note):
    names = []
    with note(names):
        y = torch.cond(X.sum() > 0, lambda a: a + 1, lambda a: a - 1, (X,))
    assert "cond" in names
    assert torch.equal(y, X + 1)


def test_custom_operations_arrive_as_one(note):
    with torch.library._scoped_library("mmsb_test_mode", "DEF"):

        @torch.library.custom_op("mmsb_test_mode::twice", mutates_args=())
        def twice(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        names = []
        with note(names):
            y = torch.ops.mmsb_test_mode.twice(X)
    assert names == ["twice"]
    assert torch.equal(y, X * 2)


def test_compiled_functions_run_compiled_inside_and_afterwards(note):
    """Under a mode of another kind torch runs them eagerly, and never compiled again."""
    ran = []

    def backend(graph, inputs):
        def run(*args):
            ran.append(len(graph.graph.nodes))
            return graph.forward(*args)

        return run

    @torch.compile(backend=backend)
    def function(x):
        return (x.sin() + 1).cos()

    @torch.compile(backend=backend)
    def first_compiled_inside(x):
        return x * 2

    plain = function(X)
    names = []
    with note(names):
        inside = function(X)
        twice = first_compiled_inside(X)
    assert names == ["sin", "add", "cos", "mul"]
    assert len(ran) == 3
    assert torch.equal(inside, plain)
    assert torch.equal(function(X), plain)
    assert torch.equal(first_compiled_inside(X), twice)
    assert len(ran) == 5
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch imports for it
@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad, torch.func.hessian])
def test_function_transforms_work_inside(note, transform):
    def function(x):
        return (x.sin() * x).sum()

    row = X[0] if transform is not torch.func.vmap else X
    plain = transform(function)(row)
    names = []
    with note(names):
        seen = transform(function)(row)
    assert torch.equal(seen, plain)
    assert "sin" in names
