"""Ctrl-C anywhere in a commit: no commit, or a whole one."""

import shutil
import sys

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import logwriter
from mmsb_torch.testing import FailingDisk, abandon, open_on


class Interrupted(FailingDisk):
    """A disk on which somebody presses Ctrl-C during the n-th call of one kind."""

    def __init__(self, name, nth):
        super().__init__()
        self._name, self._left = name, nth
        setattr(self, name, self._interrupt(getattr(self, name)))

    def _interrupt(self, call):
        def wrapper(*args):
            result = call(*args)
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
            return result

        return wrapper


@pytest.mark.parametrize("size", [4, 300_000], ids=["inline", "in a file"])
@pytest.mark.parametrize(("name", "durability"), [("datasync", "full"), ("write", "process")])
def test_an_interrupt_during_a_commit_is_no_commit_or_a_whole_one(path, name, durability, size):
    for nth in range(2, 9):
        shutil.rmtree(path, ignore_errors=True)
        memory = open_on(Interrupted(name, 10_000), path, durability=durability)
        memory.page("a", torch.zeros(size))
        memory._store._files._left = nth
        done = []
        for step in range(1, 6):
            try:
                done.append(memory.update("a", torch.full((size,), float(step))))
            except KeyboardInterrupt:
                done.append(None)
        tx, value = memory.tx, memory["a"].tensor[0].item()
        assert [number for number in done if number] == list(range(2, tx + 1))
        abandon(memory)
        with mmsb.open(path) as memory:
            assert (memory.tx, memory["a"].tensor[0].item()) == (tx, value)
            memory.update("a", 9.0)


def test_an_interrupt_between_log_and_memory_is_no_commit(path):
    memory = open_on(FailingDisk(), path)
    memory.page("a", torch.zeros(4))
    original = memory._router.log.append

    def append(transaction, kept):
        memory._router.log.append = original
        raise KeyboardInterrupt

    memory._router.log.append = append
    with pytest.raises(KeyboardInterrupt):
        memory.update("a", 1.0)
    assert (memory.tx, memory["a"].tensor[0].item()) == (1, 0.0)
    memory.update("a", 2.0)
    abandon(memory)
    with mmsb.open(path) as memory:
        assert (memory.tx, memory["a"].tensor[0].item()) == (2, 2.0)
        assert memory.at(1)["a"][0] == 0


def test_an_interrupt_at_any_line_of_an_append(path):
    code, lines = logwriter.LogWriter.append.__code__, 0

    def tracer(left):
        def local(_frame, event, _arg):
            nonlocal lines
            if event == "line":
                lines += 1
                if lines == left:
                    raise KeyboardInterrupt
            return local

        return lambda frame, _event, _arg: local if frame.f_code is code else None

    for number in range(1, 40):
        shutil.rmtree(path, ignore_errors=True)
        memory = open_on(FailingDisk(), path, durability="full")
        memory.page("a", torch.zeros(4))
        lines, before = 0, sys.gettrace()
        sys.settrace(tracer(number))
        try:
            memory.update("a", 1.0)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        tx = memory.tx
        assert memory["a"].tensor[0] == tx - 1
        memory.update("a", 5.0)
        abandon(memory)
        with mmsb.open(path) as memory:
            assert (memory.tx, memory["a"].tensor[0].item()) == (tx + 1, 5.0)
        if lines < number:
            break
    assert lines < number
    assert number > 10
