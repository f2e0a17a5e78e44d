"""Ctrl-C at any line between the log and the last page: no change, or a whole one, in memory too."""

import contextlib
import itertools
import linecache
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.state import router
from mmsb_torch.testing import FailingDisk, abandon, open_on, same_values, values

PACKAGE = Path(mmsb.__file__).parent
ROOTS = ("a", "b", "c", "d")


class Interrupt:
    """Ctrl-C at the n-th line that runs in some folders of the package.

    Not at the lines of `with` and `try`: they are told at places where no signal is ever handled
    (signals are at calls, at the beginning of functions and at jumps back), such as between the end
    of a `with` and the release of its lock; nor in `graph/running.py`, for the same reason.
    """

    def __init__(self, number, *folders):
        self.left, self._folders = number, tuple(str(PACKAGE / folder) for folder in folders)

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def trace(self, frame, _event, _arg):
        file = frame.f_code.co_filename
        traced = file.startswith(self._folders) and not file.endswith("running.py")
        traced = traced and frame.f_code.co_name != "__del__"  # garbage: nobody sees it there
        return self._line if traced else None

    def _line(self, frame, event, _arg):
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not text.lstrip().startswith(("with ", "try:")):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self._line


def made(path):
    """A memory with pages that are replaced, shared, held by readers and depended on."""
    memory = mmsb.open() if path is None else open_on(FailingDisk(), path)
    memory.page("a", torch.arange(12.0).view(4, 3))
    memory.page("b", torch.zeros(400_000))  # its memory is kept for the next value
    memory.page("c", torch.arange(8, dtype=torch.int16))
    memory.derive(lambda a: a * 2, "a", name="double")
    memory.derive(lambda double: double.sum(), "double", name="sum")
    for turn in (1, 2):
        memory.update("b", torch.full((400_000,), float(turn)))
        memory.update("a", float(turn), rows=[turn])
    assert memory["sum"].tensor == 2 * memory["a"].tensor.sum()
    return memory


def together(memory):
    mask = torch.tensor([True, False] * 4)
    with memory.commit("all", step=7) as changes:
        changes.update("a", 9.0, rows=[0, 2])
        changes.update("b", torch.full((400_000,), 9.0))
        changes.update("c", torch.full((8,), 9, dtype=torch.int16), mask=mask)


def behind(memory):
    with memory.commit(wait=False) as changes:
        changes.update("a", 9.0, rows=[0, 2])
        changes.update("c", 9, indices=[1, 2])


def alone(memory):
    memory.update("a", 9.0, rows=[3])


def new(memory):
    memory.page("d", torch.ones(3))


def read(memory):
    memory.update("a", 9.0, rows=[3])
    _ = memory["sum"].tensor


def state(memory):
    roots = {name: memory[name].clone() for name in ROOTS if name in memory}
    return roots, {name: memory[name].epoch for name in roots}


def look(memory, before, after):
    """Check that everything tells of the same moment, the one before or the one after."""
    roots, epochs = state(memory)
    whole, tx = memory.tx == after[2], memory.tx
    wanted, numbers, _ = after if whole else before
    assert tx in {before[2], after[2]}
    assert same_values(roots, wanted)
    assert epochs == numbers
    assert memory["sum"].tensor == 2 * memory["a"].tensor.sum()
    assert same_values({n: t for n, t in memory.at(tx).items() if n in ROOTS}, wanted)
    assert same_values({n: t for n, t in memory.at(before[2]).items() if n in ROOTS}, before[0])
    for name in roots:
        epochs = [change.epoch for change in memory[name].history()]
        assert epochs == list(range(memory[name].epoch + 1)), name
    return whole


def go_on(memory, path):
    """What comes after an interrupt is as if there had been none, also for who opens the store."""
    held = memory["a"].tensor
    memory.update("a", 5.0, rows=[1])
    memory.update("c", 6, indices=[0])
    assert held[1, 0] != 5
    assert (memory["a"].tensor[1, 0], memory["c"].tensor[0]) == (5, 6)
    assert memory["sum"].tensor == 2 * memory["a"].tensor.sum()
    if path is not None:
        memory.sync()
        tx, roots = memory.tx, state(memory)[0]
        abandon(memory)
        with mmsb.open(path, mode="r") as again:
            assert again.tx == tx
            assert same_values({n: t for n, t in values(again).items() if n in ROOTS}, roots)


@pytest.mark.filterwarnings("ignore:Exception ignored in.*:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("work", [together, behind, alone, new, read])
def test_a_signal_at_any_time(path, gate, work):
    """The same with true signals, in all of Python: any library's lines, and none excepted."""
    before, after = expected(work, None)
    instants, trials = random.Random(5), gate.trials("R1", test=40, gate=1500, soak=10_000) // 5
    handler, whole = signal.signal(signal.SIGALRM, signal.default_int_handler), []
    try:
        for _ in range(trials):
            memory = made(None)
            try:
                signal.setitimer(signal.ITIMER_REAL, instants.uniform(2e-5, 2e-3))
                work(memory)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                whole.append(look(memory, before, after))
            go_on(memory, None)
            assert torch.is_grad_enabled()  # reading turns it off, and on again
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    gate.report("R1", trials, interrupts=len(whole), whole=sum(whole))


def expected(work, where):
    memory = made(where)
    before = (*state(memory), memory.tx)
    work(memory)
    after = (*state(memory), memory.tx)
    memory.close()
    if where is not None:
        shutil.rmtree(where)
    return before, after


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "stored"])
@pytest.mark.parametrize("holding", [False, True], ids=["alone", "held"])
@pytest.mark.parametrize("work", [together, behind, alone, new, read])
def test_an_interrupt_at_any_line_of_a_change(path, gate, work, holding, stored):
    where = path if stored else None
    before, after = expected(work, where)
    folders = ("runtime", "graph") if work is read else ("runtime",)
    step, whole = gate.choose(test=11, gate=1, soak=1), []
    for number in itertools.count(1, step):
        memory = made(where)
        held = [memory[name].tensor for name in memory] if holding else []
        with contextlib.suppress(KeyboardInterrupt), Interrupt(number, *folders) as interrupt:
            work(memory)
        whole.append(look(memory, before, after))
        del held
        go_on(memory, where)
        if where is not None:
            shutil.rmtree(where)
        if interrupt.left > 0:
            break
    gate.report("R1", len(whole), interrupts=len(whole), whole=sum(whole))
    assert len(whole) > 80 // step
    assert sum(whole) < len(whole)


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "stored"])
@pytest.mark.parametrize("work", [together, alone, new])
def test_a_second_interrupt_at_any_line_of_finishing(path, monkeypatch, work, stored):
    """The first comes while pages are changed; whoever touches the memory next finishes it."""
    where, finish = path if stored else None, router.finish
    before, after = expected(work, where)
    assert before[2] < after[2]

    def interrupted(*args):
        with second:
            finish(*args)

    for number in itertools.count(1):
        memory, second = made(where), Interrupt(number, "runtime")
        log = memory._router.log
        monkeypatch.setattr(router, "finish", interrupted)
        index = log._index

        def stop(record, log=log, index=index):
            log._index = index
            raise KeyboardInterrupt

        log._index = stop
        with pytest.raises(KeyboardInterrupt):
            work(memory)
        monkeypatch.setattr(router, "finish", finish)
        assert look(memory, before, after)
        go_on(memory, where)
        if where is not None:
            shutil.rmtree(where)
        if second.left > 0:
            break
    assert number > 10
