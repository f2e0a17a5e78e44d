"""What the tests with many threads share: a team that is waited for, and a spy in recipes."""

import ctypes
import itertools
import logging
import sys
import threading
import time
import traceback

import pytest
import torch

import mmsb_torch as mmsb

LOG = logging.getLogger("recipes of test_threads")  # a digest knows a logger by its name alone


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
    with mmsb.open(tmp_path / "run.mmsb", budget="20 kB") as memory:
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
