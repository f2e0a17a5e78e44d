"""Incremental scopes beside one another: threads, generators, forked children."""

import os
import threading
import warnings

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.graph.scope import operations

SIZE = 96


@pytest.fixture(autouse=True)
def everything_is_kept(monkeypatch):
    monkeypatch.setattr(operations, "is_worth_keeping", lambda *_: True)


def randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(mem, function, **options):
    with mem.incremental(**options) as scope:
        value = function()
    return value, scope.counts


def test_one_scope_at_a_time(mem):
    with mmsb.open() as other, mem.incremental() as scope:
        for memory in (mem, other):
            with pytest.raises(mmsb.RecordingError, match="is active in this thread"):
                memory.incremental().__enter__()
        x = randn(1, SIZE, SIZE)
        assert torch.equal(x @ x, x @ x)
        assert scope.counts["hit"] == 1
    with mem.incremental():
        pass
    mem.close()
    with pytest.raises(mmsb.ClosedError):
        mem.incremental()


def test_threads_have_scopes_of_their_own(mem):
    x, failures = randn(1, SIZE, SIZE), []
    wanted = torch.tanh(x @ x) + x

    def work():
        try:
            with mmsb.open() as own:
                for _ in range(30):
                    value = run(own, lambda: torch.tanh(x @ x) + x)[0]
                    assert torch.equal(value, wanted)
                    value.zero_()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        assert torch.equal(run(mem, lambda: torch.tanh(x @ x) + x)[0], wanted)
    for thread in threads:
        thread.join()
    assert failures == []


def test_writes_of_another_thread_are_seen(mem):
    x = randn(1, SIZE, SIZE)
    run(mem, lambda: x @ x)
    thread = threading.Thread(target=lambda: x.add_(1))
    thread.start()
    thread.join()
    assert torch.equal(run(mem, lambda: x @ x)[0], x @ x)


def test_generators_see_only_their_own(mem):
    x = randn(1, SIZE, SIZE)

    def steps():
        with mem.incremental() as scope:
            yield scope
            _ = x @ x
            yield scope

    generator = steps()
    scope = next(generator)
    _ = x + x  # of the caller: the scope sleeps
    assert sum(scope.counts.values()) == 0
    next(generator)
    assert sum(scope.counts.values()) == 1
    generator.close()
    assert torch._C._len_torch_dispatch_stack() == 0


def test_forked_children_run_plainly(mem):
    x = randn(1, SIZE, SIZE)
    with mem.incremental(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        wanted = x @ x
        pid = os.fork()
        if pid == 0:
            os._exit(0 if torch.equal(x @ x, wanted) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
