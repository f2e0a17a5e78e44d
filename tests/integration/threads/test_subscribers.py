"""Subscribers and slow recipes among many threads."""

import concurrent.futures
import contextlib
import itertools
import logging
import time

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch import EventType

LOG = logging.getLogger("recipes of test_threads")  # a digest knows a logger by its name alone


SECONDS = 2.0


RATE = 1.0


pytestmark = pytest.mark.timeout(60)


def until(seconds=SECONDS):
    """Counts up until the time is over."""
    end = time.monotonic() + seconds
    for number in itertools.count(1):
        if time.monotonic() > end:
            return
        yield number


def reporting(name, *more):
    """A recipe that reports, calls `more` and returns its first input."""

    def recipe(*values):
        LOG.info(name)
        for step in more:
            step()
        return values[0] + 0

    return recipe


MOST = 40


class Busy:
    """A subscriber that does everything that a subscriber may do, for each of the first events."""

    def __init__(self, mem, team):
        self.mem, self.team = mem, team
        self.heard, self.errors, self.inside = [], [], False

    def __call__(self, event):
        if self.inside or len(self.heard) == MOST:
            return
        self.heard.append(event.type)
        self.inside = True
        try:
            self.act(len(self.heard))
        except BaseException as error:
            self.errors.append((event.type, error))
        finally:
            self.inside = False

    def act(self, number):
        self.read()
        self.mem.update("noted", float(number))
        with self.mem.commit() as tx:
            tx.update("noted", float(number + 1))
        made = self.mem.page(f"made {number}", torch.tensor(float(number)))
        assert self.mem.derive(torch.neg, made, name=f"derived {number}").tensor == -number
        self.read()
        assert self.mem.at(self.mem.tx)["noted"] == number + 1

    def read(self):
        for name in ("x", "noted", "rated", "signs", "below"):
            with contextlib.suppress(mmsb.RecipeError):
                _ = self.mem[name].tensor


class Delegating(Busy):
    """The same on another thread, for which it waits."""

    def act(self, number):
        inner = type(self.team)()
        inner.start(lambda: Busy.act(self, number))
        inner.finish(3)


def rated(x):
    if x.sum() > 1000:
        raise ArithmeticError
    return x * RATE


def kept(number):
    return torch.full((1000,), float(number))


def happen(mem, patch):
    """Something of every type of event."""
    mem.page("new", torch.ones(1))
    mem.derive(torch.neg, "new", name="new too")
    _ = mem["below"].tensor
    mem.update("x", 2.0)
    _ = mem["below"].tensor
    mem.update("x", 3.0)
    _ = mem["below"].tensor
    patch.setitem(globals(), "RATE", 2.0)
    _ = mem["below"].tensor
    mem.update("x", 999.0)
    with contextlib.suppress(mmsb.RecipeError):
        _ = mem["below"].tensor
    mem.update("x", 4.0)
    mem.propagate()
    mem.checkpoint()
    mem.collect(mmsb.Retention(keep_last=1))
    for number in range(9):
        mem.memo(kept)(number)


@pytest.mark.parametrize("make", [Busy, Delegating], ids=["itself", "another thread"])
@pytest.mark.parametrize("kind_of_event", list(EventType), ids=lambda e: e.name.lower())
def test_subscribers_run_under_no_lock(stored, team, monkeypatch, kind_of_event, make):
    mem = stored
    mem.update("x", 1.0)
    mem.page("noted", torch.tensor(0.0))
    mem.derive(rated)
    mem.derive(lambda rated: rated.sign(), name="signs")
    mem.derive(lambda signs: signs + 1, name="below")
    busy = make(mem, team)
    mem.subscribe(busy, [kind_of_event])
    team.start(lambda: happen(mem, monkeypatch))
    team.finish(8)
    assert busy.errors == []
    assert busy.heard.count(kind_of_event) == len(busy.heard) > 0
    assert mem["noted"].tensor == len(busy.heard) + 1
    assert torch.equal(mem["rated"].tensor, torch.full((4,), 8.0))
    assert torch.equal(mem["below"].tensor, torch.full((4,), 2.0))


def test_a_slow_page_is_read_among_fast_edits(mem, team, spy):
    """A read of a page with a slow and a fast input comes to an end while `x` keeps moving."""
    mem.derive(reporting("fast"), "x", name="fast")
    mem.derive(reporting("slow"), "x", name="slow")
    mem.derive(lambda fast, slow: fast - slow, name="zero")
    spy.act["slow"] = lambda: time.sleep(0.05)
    reads = []

    def write():
        for number in until(4.0):
            mem.update("x", float(number))
            time.sleep(0.002)

    def read_fast():
        while not team.writing.is_set():
            _ = mem["fast"].tensor

    def read_zero():
        while not team.writing.is_set():
            assert not mem["zero"].tensor.any()
            reads.append(time.monotonic())

    team.write(write)
    team.start(read_fast)
    team.start(read_zero)
    team.finish()
    assert len(reads) > 4


def test_reads_from_a_pool_inside_a_recipe_are_followed(mem, kind):
    mem.derive(lambda y: y * 10, name="tens")

    def gather(memory, _):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return sum(pool.map(lambda name: memory[name].tensor, ["x", "tens"]))

    page = kind(mem, "pooled", gather)
    below = mem.derive(torch.neg, page, name="below")
    for value in (1.0, 2.0):
        mem.update("x", value)
        assert page.tensor[0] == value + 10 * (value - 1)
        mem.update("y", value)
        assert below.tensor[0] == -11 * value
        assert page.tensor[0] == 11 * value
