"""A scope sees what its own thread, generator or task does, and nothing of others."""

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

from mmsb_torch.errors import RecordingError
from mmsb_torch.instrumentation.capture.mode import Scope

X = torch.arange(6.0).view(2, 3)


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
