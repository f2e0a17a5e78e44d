"""Readers, writers and restorers of one memory: nothing torn, nothing mixed, nobody stuck."""

import itertools
import random
import threading
import time

import pytest
import torch

SECONDS = 2.0


pytestmark = pytest.mark.timeout(60)


def until(seconds=SECONDS):
    """Counts up until the time is over."""
    end = time.monotonic() + seconds
    for number in itertools.count(1):
        if time.monotonic() > end:
            return
        yield number


def write_whole(mem, start):
    for number in until():
        mem.update("whole", torch.full((512, 512), float(start + number)))


def write_rows(mem, start):
    chance = random.Random(start)
    for number in until():
        values = torch.arange(100.0)[:, None].expand(100, 512) + start + number
        mem.update("rows", values, rows=chance.sample(range(512), 100))


def check_uniform(name, value):
    """Every element of a page, or of a row of `rows`, is the same."""
    same = value == (value[:1, :1] if name != "rows" else value[:, :1])
    assert same.all(), name


def read_and_hold(mem, chance, writing):
    held = []
    while not writing.is_set():
        for name in ("whole", "rows", "double"):
            value = mem[name].tensor
            held.append((name, value, value[:, 0].clone()))
        taken = mem["rows"].read(rows=[3, 1])
        assert torch.equal(taken[:, 0], taken[:, -1])
        for name, value, first in held:
            check_uniform(name, value)
            assert torch.equal(value[:, 0], first), name
        while len(held) > 9:
            held.pop(chance.randrange(len(held)))


def test_no_reader_sees_a_torn_page(mem, team):
    for name in ("whole", "rows"):
        mem.page(name, torch.zeros(512, 512))
    mem.derive(lambda whole: whole * 2, name="double")
    for seed in range(3):
        team.start(lambda seed=seed: read_and_hold(mem, random.Random(seed), team.writing))
    for number, job in enumerate([write_whole, write_whole, write_rows, write_rows]):
        team.write(lambda job=job, number=number: job(mem, number * 10_000))
    team.finish(30)


ZEROS = ["long", "short", "mixed", "cut", "dynamic", "deep"]


def zeros(mem, kind):
    """`x` and `y` are equal after each transaction: every page of ZEROS is zero at any time."""
    mem.derive(lambda x: x + 0, name="x1")
    mem.derive(lambda x1: x1 * 1, name="x2")
    mem.derive(lambda x2: x2 + 0, name="x3")
    mem.derive(lambda y: y + 0, name="y1")
    mem.derive(lambda x3, y1: x3 - y1, name="long")
    mem.derive(lambda x, y: x - y, name="short")
    mem.derive(lambda x1, y: x1 - y, name="mixed")
    mem.derive(lambda x: x.sign(), name="sign")
    mem.derive(lambda sign, y: sign - y.sign(), name="cut")
    kind(mem, "dynamic", lambda memory, _: memory["x2"].tensor - memory["y"].tensor)
    kind(mem, "deep", lambda memory, _: memory["mixed"].tensor + memory["dynamic"].tensor)


def write_both(mem, chance):
    for _ in until():
        value = torch.full((4,), float(chance.randrange(-3, 4)))
        with mem.commit() as tx:
            tx.update("x", value)
            tx.update("y", value)
        time.sleep(chance.random() * 1e-3)


def read_zeros(mem, chance, writing):
    while not writing.is_set():
        name = chance.choice(ZEROS)
        value = mem[name].tensor
        assert not value.any(), (name, value)
        if chance.random() < 0.3:
            _ = mem[chance.choice(["x1", "x2", "x3", "y1", "sign"])].tensor
        if chance.random() < 0.05:
            mem.propagate()


def read_moments(mem, chance, writing):
    while not writing.is_set():
        number = max(2, mem.tx - chance.randrange(2))
        moment = mem.at(number)
        for name in chance.sample(["x", "y", "x1", "x3", "y1"], 5):
            _ = moment[name]
        assert torch.equal(moment["x"], moment["x3"]), number
        assert torch.equal(moment["y"], moment["y1"]), number
        name = chance.choice(ZEROS)
        assert not moment[name].any(), (number, name, moment[name])


def test_what_is_updated_together_is_seen_together(mem, team, kind):
    zeros(mem, kind)
    for seed in range(2):
        team.write(lambda seed=seed: write_both(mem, random.Random(seed)))
    for seed in range(4):
        team.start(lambda seed=seed: read_zeros(mem, random.Random(seed), team.writing))
    team.finish(30)
    for name in ZEROS:
        assert not mem[name].tensor.any()


def test_moments_are_whole_among_writers_and_readers(mem, team, kind):
    zeros(mem, kind)
    team.write(lambda: write_both(mem, random.Random(0)))
    for seed in range(2):
        team.start(lambda seed=seed: read_zeros(mem, random.Random(seed), team.writing))
        team.start(lambda seed=seed: read_moments(mem, random.Random(seed), team.writing))
    team.finish(30)


def test_epochs_and_transactions_only_grow(mem, team):
    page = mem.derive(lambda x: x * 2, "x", name="p")

    def write():
        for number in until(1.0):
            mem.update("x", float(number))

    def watch():
        before = (0, 0, 0, -1.0)
        while not team.writing.is_set():
            value = float(page.tensor[0])
            now = (mem.tx, mem["x"].epoch, page.epoch, value)
            assert all(new >= old for new, old in zip(now, before, strict=True)), (before, now)
            before = now

    team.write(write)
    for _ in range(3):
        team.start(watch)
    team.finish()


def test_a_read_is_never_older_than_its_call(mem, team):
    page = mem.derive(lambda x: x * 2, "x", name="p")
    below = mem.derive(lambda p: p + 1, "p", name="below")
    acknowledged = [0]

    def write():
        for number in until():
            mem.update("x", float(number))
            acknowledged[0] = number

    def watch(target, offset):
        while not team.writing.is_set():
            before = acknowledged[0]
            assert target.tensor[0] >= 2 * before + offset

    team.write(write)
    for _ in range(2):
        team.start(lambda: watch(page, 0))
        team.start(lambda: watch(below, 1))
    team.finish()


def test_restoring_among_writers_comes_to_an_end(mem, team):
    mem.page("big", torch.zeros(256, 256))
    mem.page("twin", torch.zeros(256, 256))
    mem.derive(lambda big, twin: big - twin, name="zero")
    start = mem.tx

    restored = threading.Event()

    def write():
        for number in itertools.count(1):
            with mem.commit() as tx:
                tx.update("big", float(number), rows=[number % 256])
                tx.update("twin", float(number), rows=[number % 256])
            if restored.is_set() or team.errors:
                return

    def restore():
        for _ in range(5):  # while all of them write
            mem.restore(start)
            assert not mem["zero"].tensor.any()
        restored.set()

    for _ in range(3):
        team.write(write)
    team.start(restore)
    team.finish()
