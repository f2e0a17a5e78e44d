"""Commits that do not wait for the disk."""

import errno
import threading
import time

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.testing import FailingDisk, abandon, open_on


class Slow(FailingDisk):
    """A disk whose log writes wait until they may go on."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def write(self, fd, data):
        self.go.wait(20)
        return super().write(fd, data)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.mmsb"


def later(memory, **updates):
    with memory.commit(wait=False) as tx:
        for name, value in updates.items():
            tx.update(name, value)
    return tx


def test_what_is_written_is_what_was_committed(path):
    disk = Slow()
    memory = open_on(disk, path)
    memory.page("a", torch.zeros(3000))
    memory.page("b", torch.zeros(4, 4))
    wanted = {}
    for step in range(1, 60):
        a, b = torch.full((3000,), float(step)), torch.full((4, 4), -float(step))
        if step % 7 == 0:
            memory.sync()
            disk.go.clear()
        with memory.commit(step=step, wait=False) as tx:
            tx.update("a", a)
            tx.update("b", b)
            tx.update("b", b[:1] * 2, rows=[1])
        a.fill_(99)
        b.fill_(99)
        seen = memory["a"].tensor
        assert seen[0] == step
        if step % 3 == 0:
            memory_b = memory["b"]
            disk.go.set()
            memory.update(memory_b, 5.0, rows=[3])
        wanted[step] = memory.at(step=step)["b"].clone()
        disk.go.set()
    abandon_when_written(memory)
    with mmsb.open(path) as memory:
        for step, b in wanted.items():
            moment = memory.at(step=step)
            assert bool((moment["a"] == step).all())
            assert torch.equal(moment["b"], b)


def abandon_when_written(memory):
    memory.sync()
    abandon(memory)


def test_it_does_not_wait_and_two_may_be_on_their_way(path):
    disk = Slow()
    memory = open_on(disk, path)
    memory.page("a", torch.zeros(4))
    disk.go.clear()
    first, second = later(memory, a=1.0), later(memory, a=2.0)
    assert memory["a"].tensor[0] == 2
    assert memory.at(first.number)["a"][0] == 1
    assert memory.at(second.number).tx == 3
    waiting = threading.Thread(target=lambda: later(memory, a=3.0))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()  # a third has to wait
    assert memory["a"].tensor[0] == 2  # but readers do not
    disk.go.set()
    waiting.join(10)
    for tx in (first, second):
        tx.wait()
    memory.sync()
    abandon(memory)
    with mmsb.open(path) as memory:
        assert (memory.tx, float(memory["a"].tensor[0])) == (4, 3.0)


def test_an_error_comes_with_the_next_call_and_nothing_after_it_is_taken(path):
    disk = FailingDisk(only=("write",))
    memory = open_on(disk, path)
    memory.page("a", torch.zeros(4))
    later(memory, a=1.0).wait()
    disk._nth, disk._code, disk._persistent = len(disk.calls), errno.ENOSPC, True
    failed = later(memory, a=2.0)
    with pytest.raises(mmsb.StoreError, match="wait=False"):
        failed.wait()
    for call in (
        lambda: memory.update("a", 3.0),
        lambda: later(memory, a=3.0),
        memory.sync,
        lambda: memory.page("b", torch.zeros(1)),
    ):
        with pytest.raises(mmsb.StoreError, match="No space"):
            call()
    assert memory["a"].tensor[0] == 2
    assert memory.tx == 3
    disk._nth = None
    info = memory.checkpoint()  # the state in memory can still be kept
    assert info.tx == 3
    with pytest.raises(mmsb.StoreError):
        memory.close()
    memory.close()
    with mmsb.open(path) as memory:
        assert (memory.tx, float(memory["a"].tensor[0])) == (3, 2.0)
        memory.update("a", 4.0)
    with mmsb.open(path) as memory:  # the log has all but transaction 3, the checkpoint that
        assert [float(memory.at(tx)["a"][0]) for tx in (1, 2, 3, 4)] == [0, 1, 2, 4]


def test_closing_writes_what_is_on_its_way(path):
    disk = Slow()
    memory = open_on(disk, path)
    memory.page("a", torch.zeros(4))
    disk.go.clear()
    later(memory, a=1.0)
    threading.Timer(0.1, disk.go.set).start()
    began = time.monotonic()
    memory.close()
    assert time.monotonic() - began > 0.05
    with mmsb.open(path) as memory:
        assert memory["a"].tensor[0] == 1
        assert memory.at(1)["a"][0] == 0


def test_without_a_path_there_is_nothing_to_wait_for():
    with mmsb.open() as memory:
        memory.page("a", torch.zeros(4))
        tx = later(memory, a=1.0)
        tx.wait()
        memory.sync()
        assert memory["a"].tensor[0] == 1


def test_many_threads_waiting_and_not(path):
    memory = mmsb.open(path)
    for number in range(4):
        memory.page(f"p{number}", torch.zeros(2000))

    def work(number):
        for step in range(40):
            if step % 3:
                later(memory, **{f"p{number}": float(step)})
            else:
                memory.update(f"p{number}", float(step), rows=[step])
            assert memory[f"p{number}"].tensor[step] == step

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wanted = {name: memory[name].read() for name in memory}
    assert memory.tx == 4 + 160
    memory.sync()
    abandon(memory)
    with mmsb.open(path) as memory:
        assert memory.tx == 164
        assert all(torch.equal(memory[name].tensor, value) for name, value in wanted.items())
