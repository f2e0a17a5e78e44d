"""Many threads, one memory: nothing lost, nothing torn, nothing mixed, nobody stuck."""

import concurrent.futures
import contextlib
import ctypes
import itertools
import logging
import random
import sys
import threading
import time
import traceback

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch import EventType

LOG = logging.getLogger("recipes of test_threads")  # a digest knows a logger by its name alone
SECONDS = 2.0
RATE = 1.0

pytestmark = pytest.mark.timeout(60)


class Spy:
    """Notes what recipes report through LOG, where no digest looks; `act[report]()` is run then."""

    def __init__(self):
        self.names, self.act = [], {}

    def __call__(self, record):
        self.names.append(record.msg)
        self.act.get(record.msg, lambda: None)()
        return False

    def count(self, name):
        return self.names.count(name)


@pytest.fixture
def spy():
    watching = Spy()
    LOG.setLevel(logging.INFO)
    LOG.addFilter(watching)
    yield watching
    LOG.removeFilter(watching)


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        memory.page("x", torch.zeros(4))
        memory.page("y", torch.zeros(4))
        yield memory


@pytest.fixture
def stored(tmp_path):
    """A memory on disk, closed whatever happens."""
    with mmsb.open(tmp_path / "run.mmsb") as memory:
        memory.page("x", torch.zeros(4))
        memory.page("y", torch.zeros(4))
        yield memory


@pytest.fixture(autouse=True)
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def kind():
    """Makes pages of one-off kinds: kind(mem, name, fn)."""
    numbers = itertools.count()

    def make(mem, name, function, **options):
        new = f"test_threads/{name}/{next(numbers)}"
        mmsb.register_recomputation(new, function)
        return mem.page(name, kind=new, **options)

    return make


class Team:
    """Threads that are waited for, whose errors are raised, and that are stopped when stuck."""

    def __init__(self):
        self.threads, self.errors = [], []
        self.writing = threading.Event()  # set when the first writer is done

    def start(self, job):
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self.threads.append(thread)
        thread.start()

    def write(self, job):
        def run():
            try:
                job()
            finally:
                self.writing.set()

        self.start(run)

    def _run(self, job):
        try:
            job()
        except BaseException as error:
            self.errors.append(error)
            self.writing.set()

    def finish(self, seconds=15.0):
        end = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))
        stuck = [thread for thread in self.threads if thread.is_alive()]
        frames = sys._current_frames()
        where = ["".join(traceback.format_stack(frames[t.ident])[-6:]) for t in stuck]
        for thread in stuck:  # whoever runs in circles is stopped
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
            )
        assert not stuck, "stuck:\n" + "\n".join(where)
        if self.errors:
            raise self.errors[0]


@pytest.fixture
def team():
    return Team()


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

    def write():
        for number in until():
            with mem.commit() as tx:
                tx.update("big", float(number), rows=[number % 256])
                tx.update("twin", float(number), rows=[number % 256])

    def restore():
        count = 0
        while not team.writing.is_set():
            mem.restore(start)
            assert not mem["zero"].tensor.any()
            count += 1
        assert count > 3

    for _ in range(3):
        team.write(write)
    team.start(restore)
    team.finish()


# recipes at work


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

        inner = Team()
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

    free = Team()
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

        inner = Team()
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


# subscribers


class Busy:
    """A subscriber that does everything that a subscriber may do, once for each event."""

    def __init__(self, mem):
        self.mem, self.heard, self.errors, self.inside = mem, [], [], False

    def __call__(self, event):
        if self.inside:
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
        inner = Team()
        inner.start(lambda: Busy.act(self, number))
        inner.finish(3)


def rated(x):
    if x.sum() > 1000:
        raise ArithmeticError
    return x * RATE


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


@pytest.mark.parametrize("make", [Busy, Delegating], ids=["itself", "another thread"])
@pytest.mark.parametrize("kind_of_event", list(EventType), ids=lambda e: e.name.lower())
def test_subscribers_run_under_no_lock(stored, team, monkeypatch, kind_of_event, make):
    mem = stored
    mem.update("x", 1.0)
    mem.page("noted", torch.tensor(0.0))
    mem.derive(rated)
    mem.derive(lambda rated: rated.sign(), name="signs")
    mem.derive(lambda signs: signs + 1, name="below")
    busy = make(mem)
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
