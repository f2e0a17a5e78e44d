"""Recipes that many threads read: one computes, the others wait, under no lock."""

import concurrent.futures
import contextlib
import itertools
import logging
import random
import threading
import time

import pytest
import torch

import mmsb_torch as mmsb

LOG = logging.getLogger("recipes of test_threads")  # a digest knows a logger by its name alone


SECONDS = 2.0


pytestmark = pytest.mark.timeout(60)


def until(seconds=SECONDS):
    """Counts up until the time is over."""
    end = time.monotonic() + seconds
    for number in itertools.count(1):
        if time.monotonic() > end:
            return
        yield number


class Gate:
    """Holds whoever passes, once; says when somebody is there."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.opened.wait(20)

    def wait(self):
        assert self.reached.wait(10)

    def open(self):
        self.opened.set()


def test_one_thread_computes_and_the_others_wait(mem, team, spy):
    def slow(x):
        LOG.info("slow")
        return x + 1

    page = mem.derive(slow, "x", name="slow")
    spy.act["slow"] = lambda: time.sleep(0.1)
    for round_ in range(3):
        mem.update("x", float(round_))
        barrier, found = threading.Barrier(8), []

        def read(barrier=barrier, found=found):
            barrier.wait(10)
            found.append(float(page.tensor[0]))

        inner = type(team)()
        for _ in range(8):
            inner.start(read)
        inner.finish()
        assert found == [round_ + 1.0] * 8
        assert spy.count("slow") == round_ + 1


def test_who_waits_for_an_interrupted_thread_computes_itself(mem, team, spy):
    page = mem.derive(reporting("p"), "x", name="p")
    gate, found = Gate(), []

    def interrupt():
        if not gate.reached.is_set():
            gate()
            raise KeyboardInterrupt

    def first():
        with pytest.raises(KeyboardInterrupt):
            _ = page.tensor

    spy.act["p"] = interrupt
    team.start(first)
    gate.wait()
    for _ in range(3):
        team.start(lambda: found.append(float(page.tensor[0])))
    time.sleep(0.05)
    gate.open()
    team.finish()
    assert found == [0.0] * 3
    assert spy.count("p") == 2


def test_no_lock_is_held_while_a_recipe_runs(stored, team, spy):
    mem = stored
    mem.derive(reporting("waits"), "x", name="waits")
    mem.derive(lambda waits: waits + 1, name="below")
    mem.derive(lambda y: y + 1, name="other")
    gate = spy.act["waits"] = Gate()
    team.start(lambda: mem["below"].tensor)
    gate.wait()

    def everything():
        before = mem.tx
        mem.update("y", 1.0)
        mem.update("x", 1.0)
        with mem.commit("named") as tx:
            tx.update("x", 2.0)
        mem.page("new", torch.ones(1))
        mem.derive(torch.neg, "new", name="derived")
        assert mem["derived"].tensor == -1
        assert mem["x"].tensor[0] == 2
        assert mem["other"].tensor[0] == 2
        assert mem.at("named")["x"][0] == 2
        assert "x" in mem.diff(before, mem.tx)
        assert mem.why("waits").status == "new"
        assert len(mem.graph.nodes) == len(mem)
        mem.stats(), repr(mem), repr(mem["waits"]), mem["waits"].epoch, mem.pages()
        mem.checkpoint()
        mem.restore(before)
        mem.derive(lambda y: y + 3, "y", name="other")
        assert mem["other"].tensor[0] == 3
        mmsb.register_recomputation("test_threads/any", lambda memory, _: memory["y"].tensor)
        assert mem.page("of kind", kind="test_threads/any").tensor[0] == 0

    free = type(team)()
    free.start(everything)
    try:
        free.finish(10)
    finally:
        gate.open()
    team.finish()
    assert mem["below"].tensor[0] == 1
    assert mem["waits"].tensor[0] == 0


def reporting(name, *more):
    """A recipe that reports, calls `more` and returns its first input."""

    def recipe(*values):
        LOG.info(name)
        for step in more:
            step()
        return values[0] + 0

    return recipe


def test_numbers_about_a_memory_that_grows(mem, team):
    def grow():
        for number in until(1.0):
            mem.derive(torch.neg, "x", name=f"n{number}")

    def look():
        while not team.writing.is_set():
            assert mem.stats()["derived"] <= len(mem)
            assert len(list(mem)) <= len(mem.pages()) <= len(mem)
            assert repr(mem)

    team.write(grow)
    for _ in range(3):
        team.start(look)
    team.finish()


def picky(x):
    if x[0] % 3 == 0:
        raise ArithmeticError
    return x + 1


def read_picky(mem, name, factor, writing):
    while not writing.is_set():
        with contextlib.suppress(mmsb.RecipeError):
            assert (float(mem[name].tensor[0]) / factor - 1) % 3


def test_failures_among_threads(mem, team):
    mem.derive(picky)
    mem.derive(lambda picky: picky * 2, name="below")
    mem.derive(lambda x: x * 5 + 1, name="beside")

    def write():
        for number in until(1.5):
            mem.update("x", float(number))

    def read_beside():
        while not team.writing.is_set():
            assert mem["beside"].tensor[0] % 5 == 1

    team.write(write)
    team.start(read_beside)
    for name, factor in [("picky", 1), ("below", 2), ("below", 2)]:
        team.start(lambda n=name, f=factor: read_picky(mem, n, f, team.writing))
    team.finish()
    mem.update("x", 1.0)
    assert mem["below"].tensor[0] == 4
    mem.update("x", 3.0)
    for _ in range(2):
        with pytest.raises(mmsb.RecipeError, match="ArithmeticError"):
            _ = mem["below"].tensor


DECLARATIONS = [
    (lambda x: x * 2, ["x"], 2.0),
    (lambda x, y: x + y, ["x", "y"], 11.0),
    (lambda y: y * 3, ["y"], 30.0),
    (lambda y, x, again: y - x + 0 * again, ["y", "x", "x"], 9.0),
]


def test_declaring_again_among_readers(mem, team):
    mem.update("x", 1.0)
    mem.update("y", 10.0)
    page = mem.derive(DECLARATIONS[0][0], "x", name="p")
    below = mem.derive(lambda p: p + 100, "p", name="below")
    answers = {answer for _, _, answer in DECLARATIONS}

    def declare(seed):
        chance = random.Random(seed)
        for _ in until():
            function, inputs, _ = chance.choice(DECLARATIONS)
            mem.derive(function, *inputs, name="p")

    def read():
        while not team.writing.is_set():
            assert float(page.tensor[0]) in answers
            assert float(below.tensor[0]) - 100 in answers
            assert float(mem.at(mem.tx)["p"][0]) in answers

    for seed in range(2):
        team.write(lambda seed=seed: declare(seed))
    for _ in range(3):
        team.start(read)
    team.finish()
    for function, inputs, answer in DECLARATIONS:
        mem.derive(function, *inputs, name="p")
        assert below.tensor[0] == 100 + answer


def test_two_threads_declare_one_name(mem, kind, team):
    mmsb.register_recomputation(
        "test_threads/same", lambda memory, page: memory["x"].tensor + page.metadata["by"]
    )
    for number in range(100):
        barrier, pages = threading.Barrier(3), []

        def declare(by, number=number, barrier=barrier, pages=pages):
            barrier.wait(10)
            pages.append(mem.page(f"k{number}", kind="test_threads/same", metadata={"by": by}))
            pages.append(mem.derive(lambda x: x + 0, "x", name=f"d{number}"))

        inner = type(team)()
        for by in range(3):
            inner.start(lambda by=by: declare(by))
        inner.finish()
        assert len(set(pages)) == 2
        for page in pages:
            assert mem[page.id] == mem[page.name] == page
        page = mem[f"k{number}"]
        assert page.tensor[0] == page.metadata["by"]


def test_recipes_that_use_threads(mem, spy):
    def parallel(x):
        LOG.info("parallel")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            parts = list(pool.map(lambda part: part * 2, x.split(2)))
        return torch.cat(parts)

    page = mem.derive(parallel, "x", name="p")
    for value in (1.0, 2.0):
        mem.update("x", value)
        assert torch.equal(page.tensor, torch.full((4,), 2 * value))
        assert torch.equal(page.tensor, torch.full((4,), 2 * value))
    assert spy.count("parallel") == 2
