"""R11: what is mutated after a commit that does not wait is not what is written."""

import threading

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.testing import abandon


class Scribbler:
    """A thread that fills tensors it is given, over and over, while others work."""

    def __init__(self):
        self.targets, self._stop = [], threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        number = 0
        while not self._stop.wait(0.0002):
            number += 1
            for target in self.targets:
                target.fill_(number % 2)

    def close(self):
        self._stop.set()
        self._thread.join()


@pytest.fixture
def scribbler():
    made = Scribbler()
    yield made
    made.close()


def test_what_is_mutated_after_an_asynchronous_commit_is_not_written(path, gate, scribbler):
    commits, numbers = gate.trials("R11", test=40, gate=200, soak=5000), torch.Generator()
    memory = mmsb.open(path)
    shapes = {
        "whole": (300,),
        "large": (300_000,),
        "rows": (50, 8),
        "some": (40,),
        "masked": (9, 9),
    }
    for name, shape in shapes.items():
        memory.page(name, torch.zeros(shape))
    wanted = {}
    for step in range(commits):
        numbers.manual_seed(step)
        rows = torch.randperm(50, generator=numbers)[:7]
        indices = torch.randperm(40, generator=numbers)[:5]
        mask = torch.rand(9, 9, generator=numbers) < 0.3
        values = [torch.randn(s, generator=numbers) for s in ((300,), (7, 8), (5,), (9, 9))]
        big = torch.full((300_000,), float(step)) if step % 9 == 0 else torch.zeros(())
        with memory.commit(step=step, wait=False) as tx:
            tx.update("whole", values[0])
            tx.update("rows", values[1], rows=rows)
            tx.update("some", values[2], indices=indices)
            tx.update("masked", values[3], mask=mask)
            if step % 9 == 0:  # in a file of its own
                tx.update("large", big)
        scribbler.targets = [rows, indices, mask, *values, big]
        for target in scribbler.targets:
            target.fill_(1)
        if step % 5 == 0 or step > commits - 20:
            wanted[step] = {name: memory[name].read() for name in shapes}
            assert wanted[step]["large"][0] == step // 9 * 9
        if step % 50 == 49:
            memory.checkpoint()
    memory.sync()
    abandon(memory)
    silent = 0
    with mmsb.open(path) as memory:
        for step, state in wanted.items():
            moment = memory.at(step=step)
            silent += not all(same_bits(moment[name], value) for name, value in state.items())
        lost = commits - (memory.tx - len(shapes))
        assert memory.verify() == []
    gate.report(
        "R11", commits, acknowledged=commits, lost=lost, silent=silent, compared=len(wanted)
    )
