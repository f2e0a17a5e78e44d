"""Scopes and memo among threads, forks, tasks and generators: never a wrong value, never an abort.

Each runs in a process of its own, so that an abort is a failed test. `MMSB_STRESS_S` sets for how
many seconds each goes on.
"""

import os
import subprocess
import sys
import textwrap

import pytest

SECONDS = os.environ.get("MMSB_STRESS_S") or ("60" if os.environ.get("MMSB_GATE") else "1.5")

COMMON = """
import asyncio, ctypes, random, sys, threading, time, warnings
import numpy as np
import torch
import mmsb_torch as mmsb
from mmsb_torch.graph.scope import opkeys, operations

warnings.simplefilter("ignore")
torch.set_num_threads(1)
operations.is_worth_keeping = lambda *_: True  # however quick
END = time.monotonic() + float(sys.argv[1])
SHAPE = (4, 8192)
failures = []


def going():
    return time.monotonic() < END and not failures


def guarded(function):
    def run(*args):
        try:
            function(*args)
        except BaseException as error:
            failures.append(repr(error)[:500])
            raise
    return run


def compute(x):
    return (x * 2).cumsum(1) + x.flip(0)


def same(found, x):
    assert torch.equal(found, (x * 2).cumsum(1) + x.flip(0)), "a wrong value"


WRITES = [
    lambda row: row.add_(1),
    lambda row: row.numpy().__iadd__(1),
    lambda row: ctypes.memset(row.data_ptr(), 0, 64),
    lambda row: row.data.mul_(0.5),
    lambda row: row.copy_(torch.randn(row.shape)),
]
"""

WRITERS_THAT_TAKE_TURNS = """
# writers and readers never overlap, but all tensors are known to the memory
tensors, locks = [torch.randn(SHAPE) for _ in range(3)], [threading.Lock() for _ in range(3)]

@guarded
def write(seed):
    draw = random.Random(seed)
    while going():
        number = draw.randrange(3)
        with locks[number]:
            draw.choice(WRITES)(tensors[number][draw.randrange(4)])

with mmsb.open() as mem:
    memo = mem.memo(compute)
    for x in tensors:  # before there is any thread
        memo(x)
        with mem.incremental():
            compute(x)
    turns = 0
    while going():
        threads = [threading.Thread(target=write, args=(turns + n,)) for n in range(3)]
        short = min(END, time.monotonic() + 0.3)
        for thread in threads:
            thread.start()
        while time.monotonic() < short and not failures:
            for x, lock in zip(tensors, locks):
                with lock:
                    same(memo(x), x)
                    with mem.incremental():
                        same(compute(x), x)
        later, END = END, 0
        for thread in threads:
            thread.join()
        END, turns = later, turns + 1
        for x in tensors:  # alone again
            same(memo(x), x)
            with mem.incremental():
                same(compute(x), x)
"""

ROWS_WRITTEN_AT_ONCE = """
# legal in plain torch: several threads fill different rows of one tensor, for the first time
rounds = 0
with mmsb.open() as mem:
    memo = mem.memo(compute)
    while going():
        x = torch.full(SHAPE, float(rounds % 7))
        given = memo(x)
        with mem.incremental():
            made = compute(x)
        with mem.incremental():
            hit = compute(x)
        wanted = [t.clone() + 1 for t in (x, given, made, hit)]
        gate = threading.Barrier(4)

        @guarded
        def fill(row):
            gate.wait()
            for tensor in (x, given, made, hit):
                tensor[row].add_(1)

        threads = [threading.Thread(target=fill, args=(row,)) for row in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(map(torch.equal, (x, given, made, hit), wanted)), "a lost write"
        same(memo(x), x)
        rounds += 1
"""

SCOPES_IN_ALL_THREADS = """
# each thread has scopes of its own, all share one memo, and everybody spoils what they got
shared = [torch.randn(SHAPE) for _ in range(2)]
before = [x.clone() for x in shared]

@guarded
def work(mem, seed):
    draw = random.Random(seed)
    own = torch.randn(SHAPE)
    with mmsb.open() as private:
        memo = mem.memo(compute)
        while going():
            x = draw.choice([*shared, own])
            found = memo(x)
            same(found, x)
            with private.incremental():
                made = compute(x)
                same(made, x)
                made.zero_()
            draw.choice(WRITES)(found[draw.randrange(4)])
            draw.choice(WRITES)(own[draw.randrange(4)])

with mmsb.open() as mem:
    mem.memo(compute)(shared[0])
    with mem.incremental():
        compute(shared[1])
    threads = [threading.Thread(target=work, args=(mem, n)) for n in range(3)]
    for thread in threads:
        thread.start()
    work(mem, 99)
    for thread in threads:
        thread.join()
    assert all(map(torch.equal, shared, before)), "an input was written"
"""

WORKERS_FORKED_IN_A_SCOPE = """
class Rows(torch.utils.data.Dataset):
    def __init__(self, mem, x):
        self.mem, self.x = mem, x
        self.memo = mem.memo(compute)

    def __len__(self):
        return 8

    def __getitem__(self, number):
        x = self.x + number
        same(self.memo(x), x)
        with self.mem.incremental():
            same(compute(x), x)
        return compute(x)

with mmsb.open() as mem:
    x = torch.randn(SHAPE)
    mem.memo(compute)(x)
    for _ in range(2):
        with mem.incremental():
            compute(x)
            loader = torch.utils.data.DataLoader(
                Rows(mem, x), num_workers=2, batch_size=None, multiprocessing_context="fork"
            )
            for number, row in enumerate(loader):
                same(row, x + number)
            same(compute(x), x)
        x[1] += 1
        same(mem.memo(compute)(x), x)
"""

TASKS_AND_GENERATORS = """
async def scoped(mem, x):
    while going():
        with mem.incremental():
            found = compute(x)
            await asyncio.sleep(0)
            same(found, x)
            same(compute(x), x)
        x[0] += 1
        await asyncio.sleep(0)

async def plain(x):
    while going():
        same(compute(x), x)
        await asyncio.sleep(0)
        x.numpy()[1] *= -1

async def memoised(memo, x):
    while going():
        same(memo(x), x)
        await asyncio.sleep(0)
        random.choice(WRITES)(x[2])

def steps(mem, x):
    with mem.incremental():
        while True:
            found = compute(x)
            same(found, x)
            yield found

async def all_of_them(mem):
    mine = [torch.randn(SHAPE) for _ in range(3)]
    common = torch.randn(SHAPE)
    jobs = [scoped(mem, mine[0]), plain(mine[1]), memoised(mem.memo(compute), common), plain(mine[2])]
    await asyncio.gather(*jobs)

with mmsb.open() as mem:
    asyncio.run(all_of_them(mem))
    x = torch.randn(SHAPE)
    generator = steps(mem, x)
    for turn in range(20):
        next(generator).zero_()
        same(compute(x), x)  # of the caller: the scope sleeps
        random.choice(WRITES)(x[turn % 4])
    generator.close()
assert torch._C._len_torch_dispatch_stack() == 0
"""

SCENES = {
    "writers that take turns": WRITERS_THAT_TAKE_TURNS,
    "rows written at once": ROWS_WRITTEN_AT_ONCE,
    "scopes in all threads": SCOPES_IN_ALL_THREADS,
    "workers forked in a scope": WORKERS_FORKED_IN_A_SCOPE,
    "tasks and generators": TASKS_AND_GENERATORS,
}


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
@pytest.mark.timeout(1200)
def test_never_wrong_and_never_an_abort(scene):
    code = COMMON + textwrap.dedent(scene) + "\nassert not failures, failures\nprint('right')\n"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, SECONDS],
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("right")
