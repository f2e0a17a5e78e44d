"""R15: eight threads at everything that one memory can do; nobody stuck, nothing lost."""

import faulthandler
import itertools
import random
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

THREADS, PAGES, PATIENCE = 8, 200, 240
STUCK = Path(__file__).parents[2] / "build" / "reliability-stuck.txt"
ROOTS = ("counters", "twins", "others")


class Everything:
    """What each of eight threads does; `done` is what it knows that it did."""

    def __init__(self, mem):
        self.mem, self.errors, self.commits = mem, [], [0] * THREADS
        self.done = {name: [0] * THREADS for name in ("counters", "others")}
        for name in ROOTS:
            mem.page(name, torch.zeros(THREADS, 4, dtype=torch.int64))
        mem.derive(lambda counters, twins: counters - twins, name="zero")
        mem.derive(lambda zero, others: zero.sum() + others.sum(), name="total")
        self.made = itertools.count()

    def run(self, row, seconds):
        try:
            self._work(row, time.monotonic() + seconds)
        except BaseException as error:
            traceback.print_exc()
            self.errors.append(error)

    def _work(self, row, end):
        chance, mem, epoch, tx = random.Random(row), self.mem, 0, 0
        acts = [self.update, self.make, self.read, self.look_back, self.compare, self.ask]
        acts += [self.write_behind, self.checkpoint if row < 2 else self.propagate]
        for number in itertools.count(1):
            if time.monotonic() > end or self.errors:
                return
            value = torch.full((1, 4), number)
            with mem.commit() as changes:
                changes.update("counters", value, rows=[row])
                changes.update("twins", value, rows=[row])
            self.done["counters"][row] = number
            self.commits[row] += 1
            assert changes.number > tx
            assert mem["counters"].epoch > epoch
            epoch, tx = mem["counters"].epoch, changes.number
            chance.choice(acts)(row, number)
            assert mem["counters"].tensor[row, 0] == number

    def update(self, row, number):
        self.mem.update("others", torch.full((1, 4), number), rows=[row])
        self.done["others"][row] = number
        self.commits[row] += 1

    def write_behind(self, row, number):
        with self.mem.commit(wait=False) as tx:
            tx.update("others", torch.full((1, 4), number), rows=[row])
        self.done["others"][row] = number
        self.commits[row] += 1
        if number % 2:
            tx.wait()

    def make(self, row, number):
        if next(self.made) > PAGES:
            return self.mem.update(f"own {row}", number) if f"own {row}" in self.mem else None
        root = self.mem.page(f"own {row} {number}", torch.tensor(number))
        assert self.mem.derive(torch.neg, root, name=f"neg {row} {number}").tensor == -number
        return None

    def read(self, row, number):
        assert not self.mem["zero"].tensor.any()

    def look_back(self, row, number):
        newest = self.mem.tx
        moment = self.mem.at(random.choice((newest, max(newest - 40, 3))))
        assert torch.equal(moment["counters"], moment["twins"])
        assert not moment["zero"].any()

    def compare(self, row, number):
        found = self.mem.diff(max(self.mem.tx - 5, 3), self.mem.tx)
        assert ("counters" in found) == ("twins" in found)

    def ask(self, row, number):
        self.mem.stats(), self.mem.why("total"), repr(self.mem), self.mem.pages()
        assert self.mem.graph.nodes

    def checkpoint(self, row, number):
        self.mem.checkpoint(keep=2)

    def propagate(self, row, number):
        self.mem.propagate()

    def lost(self, mem):
        """How many rows of a memory are not what was last written there."""
        pages = [("counters", "counters"), ("counters", "twins"), ("others", "others")]
        return sum(
            int((mem[page].tensor[:, 0] != torch.tensor(self.done[name])).sum())
            for name, page in pages
        )


@pytest.fixture(autouse=True)
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def watched():
    """Ends the process if it is stuck; every thread's stack is in build/reliability-stuck.txt."""

    def watch(seconds):
        faulthandler.dump_traceback_later(seconds, exit=True, file=output)

    STUCK.parent.mkdir(exist_ok=True)
    with STUCK.open("w") as output:
        yield watch
        faulthandler.cancel_dump_traceback_later()
    STUCK.unlink()


def test_eight_threads_at_everything_lose_nothing(path, gate, watched):
    seconds = gate.trials("R15", test=4, gate=20, soak=600)
    watched(seconds + PATIENCE)
    mem = mmsb.open(path)
    everything = Everything(mem)
    threads = [
        threading.Thread(target=everything.run, args=(row, seconds), daemon=True)
        for row in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not everything.errors, everything.errors
    lost = everything.lost(mem)
    assert mem["counters"].epoch == mem["twins"].epoch == sum(everything.done["counters"])
    assert not mem["zero"].tensor.any()
    assert mem["total"].tensor == mem["others"].tensor.sum()
    for name in ROOTS:
        epochs = [change.epoch for change in mem[name].history()]
        assert epochs == list(range(len(epochs))), name
    mem.sync()
    assert mem.verify() == []
    state = {page.name: (page.epoch, page.read()) for page in mem.pages()}
    mem.close()
    with mmsb.open(path) as again:
        assert set(again) == set(state)
        lost += everything.lost(again)
        for name, (epoch, value) in state.items():
            if not again[name].derived:
                assert again[name].epoch == epoch, name
                assert same_bits(again[name].tensor, value), name
        assert again.verify() == []
    acknowledged = sum(everything.commits)
    gate.report("R15", acknowledged, acknowledged=acknowledged, lost=lost, threads=THREADS)
