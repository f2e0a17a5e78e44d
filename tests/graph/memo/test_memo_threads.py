"""Memoised functions in threads: one computes and the others wait; nobody waits for ever."""

import contextlib
import threading
import time

import torch


def test_one_thread_computes_and_the_others_wait(mem):
    barrier = threading.Barrier(6)

    def slow(x):
        time.sleep(0.2)
        return x + 1

    f, found = mem.memo(slow), []

    def work():
        barrier.wait()
        found.append(f(torch.ones(3)))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert mem.memo.stats()["misses"] == 1


def test_functions_that_need_each_other_in_threads_do_not_wait_for_ever(mem):
    barrier = threading.Barrier(2, timeout=5)

    def meet():
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait()

    @mem.memo(version="1")
    def f(n):
        if n == 0:
            meet()
        return n if n > 2 else g(n + 1) + 1

    @mem.memo(version="1")
    def g(n):
        if n == 0:
            meet()
        return n if n > 2 else f(n + 1) + 1

    found = []
    threads = [threading.Thread(target=lambda h=h: found.append(h(0))) for h in (f, g)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert found == [6, 6]
